"""Every rule of `Semantics` that other simulators brought along, against loops over single neurons."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import nir
import numpy as np
import pytest
import torch

from rsc.discretise import EVERY_RULE, SPECIAL
from rsc.errors import UnsupportedNode, UsageError
from rsc.hw_targets import deploy, get_target
from rsc.hw_targets.norse_lower import KNOWN_RULES
from rsc.hw_targets.torch import TorchModel
from rsc.hw_targets.torch_fire import rule_scan
from rsc.neurons.scan import Fire, Leak
from rsc.presets import PRESETS, preset, under
from rsc.program import Program, Semantics
from rsc.results import Probe

DT = 2.0**-10  # s; a power of two, so that every number below is exact in every arithmetic
TARGETS = ("reference", "torch:float64", "torch:float32")
X = np.random.default_rng(31).integers(-8, 9, (12, 1, 1)) / 2
XS = X.ravel().tolist()
Step = Callable[[float, float], tuple[float, float]]


def given() -> nir.Input:
    return nir.Input({"input": np.array([1])})


def taken() -> nir.Output:
    return nir.Output({"output": np.array([1])})


def chain(node: Any) -> nir.NIRGraph:
    """input -> n -> output, one neuron."""
    nodes = {"input": given(), "n": node, "output": taken()}
    return nir.NIRGraph(nodes, [("input", "n"), ("n", "output")])


def neuron(kind: type, **fields: float) -> Any:
    """A neuron node; beta 1 and no reset value unless told."""
    values = {"r": 1 / DT} if kind in (nir.I, nir.IF) else {"r": 2.0, "v_leak": 0.0}
    if kind in (nir.LI, nir.LIF):
        values |= {"tau": 2 * DT}
    if kind in (nir.CubaLI, nir.CubaLIF):
        values |= {"tau_mem": 2 * DT, "tau_syn": 4 * DT, "w_in": 4.0}
    if kind in (nir.IF, nir.LIF, nir.CubaLIF):
        values |= {"v_threshold": 1.0, "v_reset": 0.0}
    arrays: Any = {name: np.array([value]) for name, value in (values | fields).items()}
    return kind(**arrays)


def lif(**changes: Any) -> Any:
    """alpha 1/2, beta 3/2, c 1/8, threshold 3/4, reset to 1/4."""
    fields = {"r": 3.0, "v_leak": 0.25, "v_threshold": 0.75, "v_reset": 0.25} | changes
    return neuron(nir.LIF, **fields)


def h_of(v: float, x: float) -> float:
    return v / 2 + 1.5 * x + 0.125


def trains(step: Step, v: float = 0.0) -> tuple[list[float], list[float]]:
    """Spikes and membranes of one neuron: (z, v) <- step(v, x)."""
    spikes, membranes = [], []
    for x in XS:
        z, v = step(v, x)
        spikes.append(float(z))
        membranes.append(v)
    return spikes, membranes


def check(node: Any, rules: dict[str, Any], spikes: list[float], membranes: list[float]) -> None:
    """All float targets give these spikes and membranes to the last bit."""
    program = Program(chain(node), Semantics(DT, **rules))
    for target in TARGETS:
        result = deploy(program, target).run_frames(X, Probe(states=frozenset("n"), spikes=frozenset("n")))
        assert result.outputs["output"].ravel().tolist() == spikes, target
        assert result.spikes.states["n.v"].ravel().tolist() == membranes, target
        if hasattr(node, "v_threshold"):
            assert result.spikes.counts["n"].tolist() == [[sum(spikes)]]
            assert result.spikes.rasters["n"].ravel().tolist() == [z > 0 for z in spikes]


def distinct(node: Any, rules: dict[str, Any], *without: str) -> None:
    """The rules named change what comes out; else the test would not see them."""

    def run(given: dict[str, Any]) -> list[float]:
        program = Program(chain(node), Semantics(DT, **given))
        result = deploy(program, "reference").run_frames(X, Probe(states=frozenset("n")))
        return [*result.outputs["output"].ravel(), *result.spikes.states["n.v"].ravel()]

    for name in without:
        assert run(rules) != run({k: v for k, v in rules.items() if k != name})


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
    node = neuron(nir.IF, r=0.5 / DT, v_threshold=0.75, v_reset=0.25)
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
    check(neuron(nir.LI, v_leak=-1.0), {"v0": "v_leak"}, *trains(integrate, -1.0))
    charge = neuron(nir.IF, v_threshold=1e6)
    check(charge, {"v0": "v_leak"}, *trains(lambda v, x: (0, v + x)))


@pytest.mark.parametrize(("gain", "of_lif"), [("leak", 0.5), ("one", 1.0)])
def test_the_gain_may_leave_r_out(gain: Any, of_lif: float) -> None:
    def step(v: float, x: float) -> tuple[float, float]:
        h = v / 2 + of_lif * x + 0.125
        return (1, 0.25) if h > 0.75 else (0, h)

    def charge(v: float, x: float) -> tuple[float, float]:
        return v + x, v + x

    check(lif(), {"input_gain": gain}, *trains(step))
    check(neuron(nir.I, r=7.0), {"input_gain": gain}, *trains(charge))
    cuba = chain(neuron(nir.CubaLI, r=3.0))
    own, given = (deploy(Program(cuba, Semantics(DT, input_gain=g)), "reference") for g in ("r", gain))
    np.testing.assert_array_equal(own.run_frames(X).outputs["output"], given.run_frames(X).outputs["output"])


def test_the_membrane_may_use_the_current_of_the_step_before() -> None:
    i = 0.0

    def step(v: float, x: float) -> tuple[float, float]:
        nonlocal i
        h = v / 2 + i
        i = 0.75 * i + x
        return (1, 0.0) if h > 0.75 else (0, h)

    node = neuron(nir.CubaLIF, v_threshold=0.75)
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
        node = neuron(nir.IF, r=0.5 / DT, v_threshold=0.75, v_reset=0.25)
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
    node = neuron(nir.LI, r=3.0, v_leak=0.25)
    program = Program(chain(node), Semantics(DT, "mixed"))
    for target in TARGETS:
        found = deploy(program, target).run_frames(X).outputs["output"].ravel()
        np.testing.assert_allclose(found, expected, rtol=1e-13 if target[-2:] != "32" else 1e-5)


def recurrent(bias: float) -> nir.NIRGraph:
    """input -> w -> n <-> a: weights 1 and -1/2, alpha 1/2, beta 3/2, c 1/8."""
    nodes = {"input": given(), "w": nir.Linear(np.ones((1, 1))), "n": lif()}
    nodes |= {"a": nir.Affine(-np.ones((1, 1)) / 2, np.array([bias])), "output": taken()}
    edges = [("input", "w"), ("w", "n"), ("n", "a"), ("a", "n"), ("n", "output")]
    return nir.NIRGraph(nodes, edges)


# rules -> steps by which the output, the weighted input and the weighted spikes are late, and
# whether the bias is there before any spike could be.
CIRCUITS: list[tuple[dict[str, Any], int, int, int, bool]] = [
    ({}, 0, 0, 1, False),
    ({"recurrent_bias": True}, 0, 0, 1, True),
    ({"shift": "spikes"}, 1, 0, 1, True),
    ({"shift": "weights"}, 0, 1, 1, False),
    ({"shift": "weights", "recurrent_bias": True}, 0, 1, 1, False),
]


@pytest.mark.parametrize(("rules", "out", "into", "back", "at_once"), CIRCUITS)
def test_delays_of_a_recurrent_circuit(
    rules: dict[str, Any], out: int, into: int, back: int, at_once: bool
) -> None:
    v, spikes = 0.0, []
    for t in range(len(XS)):
        x = XS[t - into] if t >= into else 0.0
        feedback = 0.5 - 0.5 * spikes[t - back] if t >= back else (0.5 if at_once else 0.0)
        h = h_of(v, x + feedback)
        spikes.append(float(h > 0.75))
        v = 0.25 if h > 0.75 else h
    expected = [0.0] * out + spikes[: len(spikes) - out]
    program = Program(recurrent(0.5), Semantics(DT, **rules))
    for target in TARGETS:
        assert deploy(program, target).run_frames(X).outputs["output"].ravel().tolist() == expected
    assert 0 < sum(spikes) < len(spikes)


def test_rules_of_delay_keep_the_edges_that_are_named() -> None:
    rules: dict[str, Any] = {"shift": "weights", "delayed_edges": (("n", "output"),)}
    named, late = (
        deploy(Program(recurrent(0.5), semantics), "reference").run_frames(X).outputs["output"]
        for semantics in (Semantics(DT, **rules), Semantics(DT, shift="weights"))
    )
    np.testing.assert_array_equal(named[1:], late[:-1])


NOT_DEFAULT: dict[str, Any] = {
    "reset_step": "next",
    "spikes_per_step": "many",
    "clamp": "all",
    "v0": "v_leak",
    "input_gain": "one",
    "current": "old",
    "shift": "spikes",
    "recurrent_bias": True,
    "integrator": "mixed",
    "reset": "zero",
}


def test_every_special_rule_is_tried() -> None:
    assert {"integrator": "mixed", "reset": "zero"}.items() <= NOT_DEFAULT.items()
    assert set(SPECIAL) | {"integrator", "reset"} == set(NOT_DEFAULT)
    assert set(EVERY_RULE) == set(SPECIAL) | {"mixed", "zero"}


@pytest.mark.parametrize(("field", "value"), NOT_DEFAULT.items())
def test_a_target_that_does_not_know_a_rule_refuses_it(field: str, value: Any) -> None:
    program = Program(chain(lif()), Semantics(DT, **{field: value}))
    if value != "zero":  # a chip knows no other value
        with pytest.raises(UnsupportedNode, match=f"{field} = {value!r}"):
            get_target("loihi").compile(program)
    refused = [i for i in get_target("norse").check(program) if f"{field} = {value!r}" in i.what]
    assert bool(refused) == (value not in KNOWN_RULES and field not in KNOWN_RULES)
    assert not [i for i in get_target("torch").check(program) if i.severity == "error"]


@pytest.mark.parametrize("rules", [{"spikes_per_step": "many"}, {"clamp": "if"}])
def test_spikes_are_counted_in_positive_thresholds(rules: dict[str, Any]) -> None:
    program = Program(chain(lif(v_threshold=-0.5)), Semantics(DT, **rules))
    for target in ("reference", "torch"):
        with pytest.raises(UnsupportedNode, match="v_threshold goes down to"):
            deploy(program, target)


def test_a_value_that_no_rule_has_is_refused() -> None:
    with pytest.raises(UsageError, match="clamp = 'never'"):
        Semantics(DT, clamp="never")  # type: ignore[arg-type]


def test_rules_at_their_defaults_leave_the_digest_as_it_was() -> None:
    program = Program(chain(lif()), Semantics(DT))
    assert program.metadata_json() == (
        b'{"semantics":{"dt":0.0009765625,"integrator":"euler","reset":"value","comparison":">",'
        b'"readout":"mean","delayed_edges":null},"encoder":null,"bounds":null,"labels":[],"version":1}'
    )
    spelt = Program(program.graph, Semantics(DT, clamp="none", shift="none", recurrent_bias=False))
    assert spelt.digest == program.digest


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_its_file_and_differs_from_the_others(name: str) -> None:
    semantics = preset(name, 1e-4)
    program = Program(chain(lif()), semantics)
    again = Program.from_graph(program.to_graph())
    assert (again.semantics, again.digest) == (semantics, program.digest)
    assert [other for other in PRESETS if preset(other, 1e-4) == semantics] == [name]
    assert set(PRESETS[name].rules) <= {field.name for field in msgspec.structs.fields(Semantics)}


def test_an_unknown_preset_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'snntorch'"):
        preset("snntorhc", 1e-4)
    with pytest.raises(UsageError, match="dt is 0"):
        preset("norse", 0)


def test_a_program_under_a_preset_keeps_its_time_step_and_readout() -> None:
    given = Semantics(DT, "exponential", readout="last", delayed_edges=(("n", "output"),))
    program = Program(chain(lif()), given, labels=("one",))
    other = under(program, "rockpool")
    assert other.semantics == msgspec.structs.replace(preset("rockpool", DT), readout="last")
    assert (other.labels, other.graph.edges) == (program.labels, program.graph.edges)


def gradient(rules: dict[str, Any], x: torch.Tensor, detach: bool = True) -> torch.Tensor:
    """d(sum of weighted spikes)/dx; X of one sample."""
    model = deploy(Program(chain(lif()), Semantics(DT, **rules)), "torch:float64")
    assert isinstance(model, TorchModel)
    model.module.detach_reset = detach
    x = x.clone().requires_grad_()
    spikes = model.module(x)
    (spikes * torch.arange(1.0, len(x) + 1).double().reshape(-1, 1, 1)).sum().backward()
    assert x.grad is not None
    return x.grad.ravel()


@pytest.mark.parametrize(("x", "nearest"), [(0.1, 1), (0.75, 2), (1.5, 3), (-2.0, 1)])
def test_the_derivative_of_a_count_is_the_surrogate_at_the_nearest_threshold(x: float, nearest: int) -> None:
    model = deploy(Program(chain(lif()), Semantics(DT)), "torch:float64")
    assert isinstance(model, TorchModel)
    h = h_of(0.0, x)
    expected = 1.5 * model.module.surrogate(torch.tensor([h - nearest * 0.75]).double())
    frame = torch.full((1, 1, 1), x).double()
    found = gradient({"spikes_per_step": "many", "reset": "subtract"}, frame)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("reset", ["value", "subtract"])
def test_rules_that_change_nothing_leave_the_gradient_as_it_was(reset: str, detach: bool) -> None:
    x = torch.from_numpy(np.abs(X))
    plain = gradient({"reset": reset}, x, detach)
    bounded = gradient({"reset": reset, "clamp": "all"}, x, detach)
    torch.testing.assert_close(plain, bounded)
    assert plain.abs().min() > 0


def test_the_membrane_after_a_reset_inside_the_step_has_its_own_derivative() -> None:
    """Against finite differences, at no, one and several crossings, with and without a leak."""
    rules = Semantics(DT, "exponential", reset_step="crossing")
    x = torch.tensor([[0.1, 0.7, 2.3, -1.0, 4.4]], dtype=torch.float64, requires_grad=True)
    v = torch.tensor([0.5, 0.3, 0.6, 0.2, 0.1], dtype=torch.float64, requires_grad=True)
    fire = Fire(0.75, 0.25, detach_reset=False)
    for rate in (0.5, 0.0):
        kept = math.exp(-rate)
        leak = Leak(kept, 3 * (1 - kept) if rate else 0.7, 0.05)

        def membrane(x: torch.Tensor, v: torch.Tensor, leak: Leak = leak, rate: float = rate) -> torch.Tensor:
            return rule_scan(x, v, leak, fire, rules, None, rate)[1]

        spikes = rule_scan(x, v, leak, fire, rules, None, rate)[0]
        assert 0 < spikes.sum() < 5
        assert torch.autograd.gradcheck(membrane, (x, v))
    detached = rule_scan(x, v, leak, Fire(0.75, 0.25), rules, None, 0.0)
    (slope,) = torch.autograd.grad(detached[1].sum(), x)
    assert ((slope == 0) == (detached[0] > 0)).all()


def test_the_manual_names_every_rule_and_preset() -> None:
    text = (Path(__file__).parent.parent / "docs" / "nir.md").read_text()
    fields = {field.name for field in msgspec.structs.fields(Semantics)} - {"readout"}
    assert [name for name in (*fields, *PRESETS) if f"`{name}`" not in text] == []
