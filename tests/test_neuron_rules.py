"""Each rule of `Semantics` for neurons, against loops written out here."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import nir
import numpy as np
import pytest
from rule_networks import DT, TARGETS, XS, X, chain, check, distinct, h_of, lif, neuron, trains

from rsc.errors import UnsupportedNode, UsageError
from rsc.hw_targets import deploy
from rsc.program import Program, Semantics
from rsc.results import Probe


def test_reset_to_zero_whatever_v_reset_says() -> None:
    def step(v: float, x: float) -> tuple[float, float]:
        h = h_of(v, x)
        return (1, 0.0) if h > 0.75 else (0, h)

    check(lif(), {"reset": "zero"}, *trains(step))
    distinct(lif(), {"reset": "zero"}, "reset")


def test_subtraction_in_the_next_step_escapes_the_leak() -> None:
    def step(v: float, x: float) -> tuple[float, float]:
        h = h_of(v, x) - (0.75 if v > 0.75 else 0.0)
        return h > 0.75, h

    rules = {"reset": "subtract", "reset_step": "next"}
    check(lif(), rules, *trains(step))
    distinct(lif(), rules, "reset_step")


def test_a_value_put_in_at_the_next_step_leaks() -> None:
    def step(v: float, x: float) -> tuple[float, float]:
        h = h_of(0.25 if v > 0.75 else v, x)
        return h > 0.75, h

    check(lif(), {"reset_step": "next"}, *trains(step))
    distinct(lif(), {"reset_step": "next"}, "reset_step")


def test_a_membrane_may_be_held_for_the_step_after_a_spike() -> None:
    def step(v: float, x: float) -> tuple[float, float]:
        h = 0.25 if v > 0.75 else h_of(v, x)
        return h > 0.75, h

    rules = {"reset_step": "hold"}
    check(lif(), rules, *trains(step))
    distinct(lif(), rules, "reset_step")
    assert trains(step) != trains(lambda v, x: (h_of(0.25 if v > 0.75 else v, x) > 0.75, h_of(v, x)))
    with pytest.raises(UsageError, match="held at a value"):
        Semantics(DT, reset="subtract", reset_step="hold")


@pytest.mark.parametrize("comparison", [">", ">="])
@pytest.mark.parametrize("reset", ["value", "subtract"])
def test_several_spikes_per_step(comparison: Any, reset: Any) -> None:
    def step(v: float, x: float) -> tuple[float, float]:
        h, z = v / 2 + 1.5 * x, 0
        left = h
        while left > 0.75 or (comparison == ">=" and left == 0.75):
            left, z = left - 0.75, z + 1
        return z, left if reset == "subtract" else (0.25 if z else h)

    node = lif(v_leak=0.0)
    spikes, membranes = trains(step)
    assert max(spikes) > 2
    rules = {"comparison": comparison, "reset": reset, "spikes_per_step": "many"}
    check(node, rules, spikes, membranes)
    distinct(node, rules, "spikes_per_step", *(["comparison"] if comparison == ">=" else []))


@pytest.mark.parametrize(("clamp", "bounded"), [("if", False), ("all", True)])
def test_the_membrane_stays_above_minus_the_threshold(clamp: Any, bounded: bool) -> None:
    def step(v: float, x: float) -> tuple[float, float]:
        h = h_of(v, x)
        z, v = (True, 0.25) if h > 0.75 else (False, h)
        return z, max(v, -0.75) if bounded else v

    def charge(v: float, x: float) -> tuple[float, float]:
        h = v + 0.5 * x
        z, v = (True, 0.25) if h > 0.75 else (False, h)
        return z, max(v, -0.75)

    check(lif(), {"clamp": clamp}, *trains(step))
    node = neuron(nir.IF, 1, r=0.5 / DT, v_threshold=0.75, v_reset=0.25)
    check(node, {"clamp": clamp}, *trains(charge))
    distinct(node, {"clamp": clamp}, "clamp")


def test_a_membrane_may_start_at_its_leak() -> None:
    def step(v: float, x: float) -> tuple[float, float]:
        h = v / 2 + 1.5 * x - 1.0
        return (1, 0.25) if h > 0.75 else (0, h)

    def integrate(v: float, x: float) -> tuple[float, float]:
        h = v / 2 + x - 0.5
        return h, h

    check(lif(v_leak=-2.0), {"v0": "v_leak"}, *trains(step, -2.0))
    check(neuron(nir.LI, 1, v_leak=-1.0), {"v0": "v_leak"}, *trains(integrate, -1.0))
    charge = neuron(nir.IF, 1, v_threshold=1e6)
    check(charge, {"v0": "v_leak"}, *trains(lambda v, x: (0, v + x)))


@pytest.mark.parametrize(("gain", "of_lif"), [("leak", 0.5), ("one", 1.0)])
def test_the_gain_may_leave_r_out(gain: Any, of_lif: float) -> None:
    def step(v: float, x: float) -> tuple[float, float]:
        h = v / 2 + of_lif * x + 0.125
        return (1, 0.25) if h > 0.75 else (0, h)

    def charge(v: float, x: float) -> tuple[float, float]:
        return v + x, v + x

    check(lif(), {"input_gain": gain}, *trains(step))
    check(neuron(nir.I, 1, r=7.0), {"input_gain": gain}, *trains(charge))
    cuba = chain(neuron(nir.CubaLI, 1, r=3.0))
    own, given = (deploy(Program(cuba, Semantics(DT, input_gain=g)), "reference") for g in ("r", gain))
    np.testing.assert_array_equal(own.run_frames(X).outputs["output"], given.run_frames(X).outputs["output"])


def test_the_membrane_may_use_the_current_of_the_step_before() -> None:
    i = 0.0

    def step(v: float, x: float) -> tuple[float, float]:
        nonlocal i
        h = v / 2 + i
        i = 0.75 * i + x
        return (1, 0.0) if h > 0.75 else (0, h)

    node = neuron(nir.CubaLIF, 1, v_threshold=0.75)
    check(node, {"current": "old"}, *trains(step))
    distinct(node, {"current": "old"}, "current")


def crossings(k: Any, v: float, x: float) -> tuple[int, float]:
    """One step of dv/ds = (c + beta x - (1 - alpha) v) / (1 - alpha) * rate, cut where v meets the limit."""
    left, spikes = 1.0, 0

    def flow(start: float, time: float) -> float:
        if k.rate == 0:
            return start + k.drive(x) * time
        target = k.drive(x) / (1 - k.alpha)
        return target + (start - target) * math.exp(-k.rate * time)

    while flow(v, left) > k.limit:
        low, high = 0.0, left  # bisection: the membrane rises all the way
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if flow(v, middle) < k.limit else (low, middle)
        left, spikes, v = left - high, spikes + 1, k.reset
    return spikes, flow(v, left)


@dataclasses.dataclass(frozen=True)
class Flow:
    """Numbers of one neuron for `crossings`."""

    alpha: float
    beta: float
    c: float
    rate: float
    limit: float = 0.75
    reset: float = 0.25

    def drive(self, x: float) -> float:
        return self.beta * x + self.c


@pytest.mark.parametrize("per_step", ["one", "many"])
@pytest.mark.parametrize("reset", ["value", "subtract"])
@pytest.mark.parametrize("kind", [nir.LIF, nir.IF])
def test_a_reset_inside_the_step(kind: type, reset: Any, per_step: Any) -> None:
    back = 0.25 if reset == "value" else 0.0
    kept = math.exp(-0.5)
    flow = Flow(kept, 3 * (1 - kept), 0.25 * (1 - kept), 0.5, reset=back)
    node = lif()
    if kind is nir.IF:
        node = neuron(nir.IF, 1, r=0.5 / DT, v_threshold=0.75, v_reset=0.25)
        flow = Flow(1.0, 0.5, 0.0, 0.0, reset=back)
    rules = {
        "integrator": "exponential",
        "reset": reset,
        "reset_step": "crossing",
        "spikes_per_step": per_step,
    }
    counts, membranes = trains(lambda v, x: crossings(flow, v, x))
    assert max(counts) > 1
    expected = counts if per_step == "many" else [min(1.0, z) for z in counts]
    for target in TARGETS:
        program = Program(chain(node), Semantics(DT, **rules))
        result = deploy(program, target).run_frames(X, Probe(states=frozenset("n")))
        assert result.outputs["output"].ravel().tolist() == expected
        tolerance = 1e-12 if target[-2:] != "32" else 1e-5
        np.testing.assert_allclose(result.spikes.states["n.v"].ravel(), membranes, rtol=0, atol=tolerance)


def test_a_reset_inside_the_step_needs_a_way_there() -> None:
    with pytest.raises(UsageError, match="integrator 'euler'"):
        Semantics(DT, reset_step="crossing")
    program = Program(chain(lif(v_reset=0.75)), Semantics(DT, "exponential", reset_step="crossing"))
    with pytest.raises(UnsupportedNode, match="would never end"):
        deploy(program, "reference")


def test_mixed_decays_exactly_and_weighs_its_input_as_euler() -> None:
    kept, v = math.exp(-0.5), 0.0
    expected = [v := kept * v + 1.5 * x + 0.25 * (1 - kept) for x in XS]
    node = neuron(nir.LI, 1, r=3.0, v_leak=0.25)
    program = Program(chain(node), Semantics(DT, "mixed"))
    for target in TARGETS:
        found = deploy(program, target).run_frames(X).outputs["output"].ravel()
        np.testing.assert_allclose(found, expected, rtol=1e-13 if target[-2:] != "32" else 1e-5)
