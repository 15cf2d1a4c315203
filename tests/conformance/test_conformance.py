"""Every target over every case of the table; what a target cannot do is listed with the reason.

`pytest tests/conformance --target module:Class` runs the same on any other target: what it refuses is
skipped, saying why, and everything else must be exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import third_party
from cases import INTEGRATORS
from cases_loops import LOOPS
from cases_neurons import SPIKING
from cases_structure import STRUCTURE
from graphs import program
from table import CASES, GROUPS, ROWS, close, outcome, slack
from third_party import deployed, under_test

from rsc.errors import UnsupportedNode
from rsc.export.reader import read_program
from rsc.export.writer import write_program
from rsc.hw_targets import TARGETS, deploy
from rsc.results import Probe

ONNX = ("onnxruntime:float64", "onnxruntime:float32")
RUN = under_test("reference", "torch:float64", "torch:float32", "norse:float64", *ONNX)
STREAMING = under_test("reference", "torch:float64", "onnxruntime:float64")

# Targets that the table does not fit, with what holds them to account instead.
ELSEWHERE = {
    "loihi": "integers: on every case, and on random programs, those of lava bit by bit (loihi_lava)",
    "lava": "integers of Lava's own processes: compared with loihi, and with recordings",
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
            *("I", "LI, r = 1", "LI, Euler", "LI, exact for a constant input"),
            *("CubaLI, Euler", "CubaLI, exponential", "CubaLI, impulse", "nodes that nothing feeds"),
            "two kinds of neuron in a loop",
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
# Rows that show a closed form of what a group shows already, or what no file can hold.
UNGROUPED = {
    "affine, scalar bias",
    *("IF per neuron, >=, subtract", "LIF period, Euler", "recurrent, bias from the first step on"),
}
EXCLUDED = {(spec, name) for spec, reasons in REFUSED.items() for names in reasons.values() for name in names}


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("spec", RUN)
@pytest.mark.parametrize("name", CASES)
def test_a_target_gives_what_the_case_says(name: str, spec: str) -> None:
    found = outcome(CASES[name], spec)
    if found.verdict == "absent" or (found.verdict == "refused" and third_party.GIVEN):
        pytest.skip(found.detail)
    expected = "refused" if (spec, name) in EXCLUDED and not third_party.GIVEN else "exact"
    assert found.verdict == expected, found.detail


@pytest.mark.ours
@pytest.mark.parametrize("name", CASES)
def test_a_file_holds_the_same_program(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    written = program(case.graph, case.semantics)
    write_program(written, tmp_path / "case.nir")
    read = read_program(tmp_path / "case.nir")
    assert read.digest == written.digest
    with deploy(read, "reference") as model:
        close(model.run_frames(case.frames).outputs, case.outputs, slack(case, "reference"))


def streaming(name: str, spec: str) -> Any:
    """A deployed model with `run_state`, or the test is skipped."""
    case = CASES[name]
    try:
        model = deployed(program(case.graph, case.semantics), spec)
    except UnsupportedNode as error:
        pytest.skip(str(error))
    if not hasattr(model, "run_state"):
        pytest.skip(f"'{spec}' hands out no state (run_state)")
    return model


@pytest.mark.parametrize("spec", STREAMING)
@pytest.mark.parametrize("name", [case.name for case in (*INTEGRATORS, *SPIKING, *STRUCTURE, *LOOPS)])
def test_one_step_at_a_time_gives_the_same(name: str, spec: str) -> None:
    case, model = CASES[name], streaming(name, spec)
    frames = case.frames if isinstance(case.frames, Mapping) else {"input": case.frames}
    state, outputs = None, []
    for t in range(len(next(iter(frames.values())))):
        result, state = model.run_state({key: value[t : t + 1] for key, value in frames.items()}, state)
        outputs.append(result.outputs)
    joined = {key: np.concatenate([step[key] for step in outputs]) for key in case.outputs}
    close(joined, case.outputs, slack(case, spec))


@pytest.mark.parametrize("spec", STREAMING)
@pytest.mark.parametrize("name", [case.name for case in (*STRUCTURE, *LOOPS)])
def test_two_halves_give_the_same(name: str, spec: str) -> None:
    case, model = CASES[name], streaming(name, spec)
    frames = case.frames if isinstance(case.frames, Mapping) else {"input": case.frames}
    for cut in range(2, len(next(iter(frames.values()))) - 1):
        first, state = model.run_state({key: value[:cut] for key, value in frames.items()})
        second, _ = model.run_state({key: value[cut:] for key, value in frames.items()}, state)
        joined = {k: np.concatenate([first.outputs[k], second.outputs[k]]) for k in case.outputs}
        close(joined, case.outputs, slack(case, spec))


JOINTS = {
    "recurrent": 1,
    "recurrent, bias from the first step on": 1,
    "recurrent, one matrix for input and spikes": 0,
    "recurrent matrix heard outside": 0,
    "two populations in a loop": 2,
    "two populations, one of them heard at once": 2,
    "two kinds of neuron in a loop": 2,
}


@pytest.mark.ours
@pytest.mark.parametrize("name", JOINTS)
def test_a_matrix_put_together_with_its_population_changes_nothing(name: str) -> None:
    """Cut into chunks, too; recording the states keeps them apart."""
    case = CASES[name]
    model: Any = deploy(program(case.graph, case.semantics), "torch:float32")
    (cycle,) = model.module._cycles.values()
    assert len(cycle.joints) == JOINTS[name]
    apart = model.run_frames(case.frames, Probe(states=frozenset(cycle.names))).outputs
    close(apart, case.outputs, case.tolerance)
    state, parts = None, []
    for chunk in np.array_split(case.frames, [1, 3]):
        result, state = model.run_state({"input": chunk.astype(np.float32)}, state)
        parts.append(result.outputs)
    joined = {key: np.concatenate([part[key] for part in parts]) for key in case.outputs}
    close(joined, apart, case.tolerance)


@pytest.mark.ours
def test_every_target_is_in_the_table_or_accounted_for() -> None:
    assert {spec.split(":")[0] for spec in RUN} | set(ELSEWHERE) == set(TARGETS)


def test_names_of_cases_are_unique() -> None:
    assert len(CASES) == len(ROWS)


def test_groups_hold_every_row() -> None:
    assert {name for names in GROUPS.values() for name in names} | UNGROUPED == set(CASES)


def test_the_cases_can_tell_rules_apart() -> None:
    fires = [
        case for case in (*SPIKING, *STRUCTURE, *LOOPS) if "LIF" in case.name or "population" in case.name
    ]
    assert all(0 < values.mean() < 0.9 for case in fires for values in case.outputs.values())
    ahead, behind = (
        CASES[name].outputs["output"] for name in ("recurrent", "recurrent, bias from the first step on")
    )
    assert not np.array_equal(ahead, behind)


@pytest.mark.ours
def test_exclusions_name_cases() -> None:
    assert {name for _, name in EXCLUDED} <= set(CASES)
    assert set(REFUSED) <= set(RUN)
