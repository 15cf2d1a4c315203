"""The table of the suite, what a target made of a row, and the groups of rows that `matrix.py` shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np
from cases import INTEGRATORS, STATELESS, Case
from cases_loops import LOOPS
from cases_neurons import SPIKING
from cases_structure import STRUCTURE
from graphs import program
from third_party import deployed, exact

from rsc.errors import TargetUnavailable, UnsupportedNode
from rsc.results import Probe

ROWS = (*STATELESS, *INTEGRATORS, *SPIKING, *STRUCTURE, *LOOPS)
CASES = {case.name: case for case in ROWS}

# What a reader looks for -> the rows that show it.
GROUPS: dict[str, tuple[str, ...]] = {
    "Affine": ("affine", "affine over the last axis"),
    "Linear": ("linear",),
    "one matrix per row": ("affine, one weight per row",),
    "int8 weights": ("integer weights",),
    "Scale": ("scale",),
    "Threshold": ("threshold",),
    "Delay": ("delay per element", "delay, one for all", "delay of none"),
    "Conv1d": ("conv1d", "conv1d, stride 2, padding 2, dilation 2"),
    "Conv1d 'same'": ("conv1d, same, even kernel",),
    "Conv1d grouped": ("conv1d, groups",),
    "Conv2d": ("conv2d", "conv2d, stride (2, 1), padding (1, 2)", "conv2d, dilation (2, 1)", "conv2d, valid"),
    "Conv2d, kernel not square": ("conv2d, kernel 2 x 3",),
    "Conv2d 'same'": ("conv2d, same", "conv2d, same, even kernel", "conv2d, same, dilated"),
    "Conv2d grouped": ("conv2d, groups", "conv2d, depthwise"),
    "AvgPool2d": ("average pool", "average pool, padding counted"),
    "SumPool2d": ("sum pool",),
    "SumPool2d padded": ("sum pool, padded", "sum pool, wide padding"),
    "Flatten": ("flatten 0 to -1", "flatten 1 to -1", "flatten 0 to 1", "flatten -2 to -1", "flatten 1 to 1"),
    "I": ("I",),
    "IF, r = 1/dt": ("IF, r = 1/dt",),
    "IF, parameters per neuron": ("IF per neuron",),
    "LI, r = 1": ("LI, r = 1",),
    "LI, parameters per neuron": ("LI, Euler",),
    "LIF, r = 1": ("LIF, r = 1",),
    "LIF, r = tau/dt": ("LIF, r = tau/dt",),
    "LIF, other r": ("LIF, r = 3",),
    "LIF, v_leak": ("LIF, v_leak", "LIF fires by its leak alone"),
    "LIF, v_reset": ("LIF, v_reset",),
    "LIF, tau and threshold per neuron": ("LIF, tau and threshold per neuron",),
    "LIF, parameters per neuron": ("LIF per neuron",),
    "LIF over [C, H, W]": ("LIF over channels",),
    "CubaLI": ("CubaLI, Euler", "CubaLI, impulse"),
    "CubaLIF, r = tau_mem/dt": ("CubaLIF, r = tau_mem/dt, w_in = tau_syn/dt",),
    "CubaLIF, r = 1": ("CubaLIF, r = 1, w_in = 1",),
    "CubaLIF, parameters per neuron": ("CubaLIF per neuron",),
    "rule: exponential integrator": (
        *("LI, exact for a constant input", "CubaLI, exponential", "LIF period, exponential"),
    ),
    "rule: reset by subtraction": (
        "LIF per neuron, subtract",
        "IF, subtract",
        "CubaLIF per neuron, subtract",
    ),
    "v at the threshold does not fire": ("IF, strictly above",),
    "rule: fires at >=": ("threshold, >=", "IF, at least", "LIF per neuron, >="),
    "two edges into a neuron": ("two matrices into a neuron",),
    "two edges into the Output": ("edges are summed", "two matrices into the output"),
    "a branch that ends nowhere": ("a branch that ends nowhere",),
    "nodes without input": ("nodes that nothing feeds",),
    "several inputs and outputs": ("two inputs, two outputs",),
    "nested graph": ("nested graph", "nested twice"),
    "nested recurrent graph": ("nested recurrent", "recurrent around a nested graph"),
    "self edge": ("self edge",),
    "recurrent, no bias": ("recurrent through a matrix without bias",),
    "recurrent, bias": ("recurrent", "recurrent, one matrix for input and spikes"),
    "recurrent, heard outside": ("recurrent matrix heard outside",),
    "two populations in a loop, bias": ("two populations in a loop",),
    "two populations in a loop, with a skip": ("two populations in a loop, with a skip",),
    "the same, nodes renamed": (
        *("two populations in a loop, with a skip, sorted r a w b",),
        *("two populations in a loop, with a skip, sorted b w a r",),
    ),
    "two kinds of neuron in a loop": ("two kinds of neuron in a loop",),
    "loop without neuron": ("cycle of a threshold", "cycle without neuron, delay named"),
    "loop through a Delay": (
        *("cycle through a Delay of [2, 2, 2]", "cycle through a Delay of [1, 3, 2]"),
        "recurrent through a Delay",
    ),
    "rule: delayed edges named": (
        *("recurrent, delay named before the bias", "recurrent, delay named behind the bias"),
        *("delayed edge outside a cycle", "two populations, one of them heard at once"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a target made of a case.

    Fields:
        verdict: "exact" (everything within the tolerance of the case), "deviates", "refused", or "absent".
        detail: the reason, or where it differs.
    """

    verdict: Literal["exact", "deviates", "refused", "absent"]
    detail: str = ""


def close(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], tolerance: float) -> None:
    """Raise AssertionError unless all that is expected was found."""
    assert set(expected) <= set(found)
    for name, values in expected.items():
        assert found[name].shape == values.shape, f"{name} has shape {found[name].shape}, not {values.shape}"
        scale = max(1.0, float(np.abs(values).max()))
        np.testing.assert_allclose(found[name], values, rtol=0, atol=tolerance * scale, err_msg=name)


def slack(case: Case, spec: str) -> float:
    """Tolerance of a case on a target; float64 gets a billionth of float32's."""
    return case.tolerance * (1e-9 if exact(spec) else 1.0)


def outcome(case: Case, spec: str) -> Outcome:
    """Run a case on a target."""
    probed = frozenset(key.rsplit(".", 1)[0] for key in case.states)
    tolerance = slack(case, spec)
    try:
        with deployed(program(case.graph, case.semantics), spec) as model:
            result = model.run_frames(case.frames, Probe(states=probed))
        close(result.outputs, case.outputs, tolerance)
        recorded = {key: v for key, v in case.states.items() if key in result.spikes.states}
        close(result.spikes.states, recorded, tolerance)
    except UnsupportedNode as error:
        return Outcome("refused", str(error))
    except TargetUnavailable as error:
        return Outcome("absent", str(error))
    except AssertionError as error:
        return Outcome("deviates", str(error))
    return Outcome("exact")
