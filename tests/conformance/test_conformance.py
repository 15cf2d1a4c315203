"""Every target over every case of the table; what a target cannot do is listed with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from cases import INTEGRATORS, STATELESS, Case
from cases_neurons import SPIKING
from cases_structure import STRUCTURE
from graphs import program

from rsc.errors import UnsupportedNode
from rsc.hw_targets import TARGETS, deploy, get_target
from rsc.results import Probe

CASES = {case.name: case for case in (*STATELESS, *INTEGRATORS, *SPIKING, *STRUCTURE)}
RUN = ("reference", "torch:float64", "torch:float32", "norse:float64")

# Targets that the table does not fit, with what holds them to account instead.
ELSEWHERE = {
    "loihi": "integer arithmetic: compared with Lava's fixed-point processes, bit by bit",
    "lava": "runs in an environment of its own; compared with recordings and with loihi",
}

# target -> reason -> cases; each must be refused by the target's own check.
REFUSED: dict[str, dict[str, tuple[str, ...]]] = {
    "norse:float64": {
        "Norse does not import Threshold": ("threshold", "threshold, >=", "cycle of a threshold"),
        "Norse does not import Delay": (
            *("delay per element", "delay, one for all", "delay of none", "recurrent through a Delay"),
            *("cycle through a Delay of [2, 2, 2]", "cycle through a Delay of [1, 3, 2]"),
        ),
        "Norse does not import Conv1d": (
            *("conv1d", "conv1d, stride 2, padding 2, dilation 2"),
            *("conv1d, same, even kernel", "conv1d, groups"),
        ),
        "Norse imports no integrator without threshold": (
            *("I", "LI, Euler", "LI, exact for a constant input"),
            *("CubaLI, Euler", "CubaLI, exponential", "CubaLI, impulse", "nodes that nothing feeds"),
        ),
        "Norse integrates by forward Euler": ("LIF period, exponential",),
        "Norse fires strictly above the threshold": (
            *("IF, at least", "LIF per neuron, >=", "IF per neuron, >=, subtract"),
        ),
        "Norse's IF resets to a value": ("IF, subtract",),
        "Norse feeds one input": ("two inputs, two outputs",),
        "Norse needs a matrix as weight": ("affine, one weight per row",),
    },
}
EXCLUDED = {(spec, name) for spec, reasons in REFUSED.items() for names in reasons.values() for name in names}


@lru_cache
def missing(spec: str) -> str:
    reason = get_target(spec).available()
    return "" if reason is None else reason.reason


def exact(spec: str) -> bool:
    return not spec.endswith("float32")


def close(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], tolerance: float) -> None:
    assert set(expected) <= set(found)
    for name, values in expected.items():
        assert found[name].shape == values.shape
        scale = max(1.0, float(np.abs(values).max()))
        np.testing.assert_allclose(found[name], values, rtol=0, atol=tolerance * scale, err_msg=name)


def run(case: Case, spec: str) -> None:
    if missing(spec):
        pytest.skip(missing(spec))
    probed = frozenset(key.rsplit(".", 1)[0] for key in case.states)
    result = deploy(program(case.graph, case.semantics), spec).run_frames(case.frames, Probe(states=probed))
    tolerance = case.tolerance * (1e-9 if exact(spec) else 1.0)
    close(result.outputs, case.outputs, tolerance)
    close(result.spikes.states, case.states, tolerance)


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("spec", RUN)
@pytest.mark.parametrize("name", CASES)
def test_a_target_gives_what_the_case_says(name: str, spec: str) -> None:
    if (spec, name) not in EXCLUDED:
        run(CASES[name], spec)
        return
    case = CASES[name]
    with pytest.raises(UnsupportedNode):
        deploy(program(case.graph, case.semantics), spec)


@pytest.mark.parametrize("spec", ["reference", "torch:float64"])
@pytest.mark.parametrize("name", [case.name for case in (*INTEGRATORS, *SPIKING, *STRUCTURE)])
def test_one_step_at_a_time_gives_the_same(name: str, spec: str) -> None:
    case = CASES[name]
    model: Any = deploy(program(case.graph, case.semantics), spec)
    frames = case.frames if isinstance(case.frames, Mapping) else {"input": case.frames}
    state, outputs = None, []
    for t in range(len(next(iter(frames.values())))):
        result, state = model.run_state({key: value[t : t + 1] for key, value in frames.items()}, state)
        outputs.append(result.outputs)
    joined = {key: np.concatenate([step[key] for step in outputs]) for key in case.outputs}
    close(joined, case.outputs, case.tolerance * 1e-9)


@pytest.mark.parametrize("spec", ["reference", "torch:float64"])
@pytest.mark.parametrize("name", [case.name for case in STRUCTURE])
def test_two_halves_give_the_same(name: str, spec: str) -> None:
    case = CASES[name]
    model: Any = deploy(program(case.graph, case.semantics), spec)
    frames = case.frames if isinstance(case.frames, Mapping) else {"input": case.frames}
    for cut in range(2, len(next(iter(frames.values()))) - 1):
        first, state = model.run_state({key: value[:cut] for key, value in frames.items()})
        second, _ = model.run_state({key: value[cut:] for key, value in frames.items()}, state)
        joined = {k: np.concatenate([first.outputs[k], second.outputs[k]]) for k in case.outputs}
        close(joined, case.outputs, case.tolerance * 1e-9)


def test_every_target_is_in_the_table_or_accounted_for() -> None:
    assert {spec.split(":")[0] for spec in RUN} | set(ELSEWHERE) == set(TARGETS)


def test_names_of_cases_are_unique() -> None:
    assert len(CASES) == len(STATELESS) + len(INTEGRATORS) + len(SPIKING) + len(STRUCTURE)


def test_the_cases_can_tell_rules_apart() -> None:
    fires = [case for case in (*SPIKING, *STRUCTURE) if "LIF" in case.name or "population" in case.name]
    assert all(0 < values.mean() < 0.9 for case in fires for values in case.outputs.values())
    ahead, behind = (
        CASES[name].outputs["output"] for name in ("recurrent", "recurrent, bias from the first step on")
    )
    assert not np.array_equal(ahead, behind)


def test_exclusions_name_cases() -> None:
    assert {name for _, name in EXCLUDED} <= set(CASES)
    assert set(REFUSED) <= set(RUN)
