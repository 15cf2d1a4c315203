"""What the float targets find in a program before they run it; `reference` and `torch` share it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import nir
import numpy as np

from rsc.discretise import NEURONS, RESETTING, coefficients, special_rules
from rsc.errors import InputRefused
from rsc.graph import DELAYED, Topology, topology
from rsc.program import Program, Semantics, walk
from rsc.results import Issue
from rsc.shapes import infer_shapes, own_arrays
from rsc.time_unit import time_issues

PRIMITIVES = (
    *(nir.Input, nir.Output, nir.Affine, nir.Linear, nir.Scale, nir.Conv1d, nir.Conv2d),
    *(nir.SumPool2d, nir.AvgPool2d, nir.Flatten, nir.Delay, nir.Threshold, *NEURONS),
)

MAX_DELAY_LINE = 1 << 30  # bytes of one Delay node, per sample


def check_program(program: Program, known: Collection[str] = ()) -> list[Issue]:
    """Everything about the graph that cannot be run, or that may surprise whoever runs it.

    Args:
        known: the special rules that the target honours, see `rsc.discretise.special_rules`.
    """
    issues = [issue for name, node in leaves(program) for issue in _node_issues(name, node, program)]
    issues += special_rules(program.semantics, known)
    if not program.outputs:
        text = "The graph has no Output node, so nothing would come back."
        issues.append(Issue("error", "", text, "Add a nir.Output."))
    if any(issue.severity == "error" for issue in issues):
        return issues
    try:
        graph = topology(program.graph, program.semantics)
        infer_shapes(graph)
    except InputRefused as error:
        return [*issues, Issue("error", "", f"{error.what} {error.why}".strip(), error.fix)]
    return [*issues, *_delay_notes(graph)]


def leaves(program: Program) -> list[tuple[str, Any]]:
    """All nodes but graphs, by dotted name."""
    return [(name, node) for name, node in walk(program.graph) if not isinstance(node, nir.NIRGraph)]


def _node_issues(name: str, node: Any, program: Program) -> list[Issue]:
    if type(node) not in PRIMITIVES:
        return [
            Issue("error", name, f"{type(node).__name__} is no primitive of NIR 1.0.8.", "Replace the node.")
        ]
    found = _faults(node) or _extremes(node, program.semantics)
    issues = [Issue("error", name, text, fix) for text, fix in found]
    if not issues:
        issues = time_issues(name, node, program.semantics)
    return issues + _rule_issues(name, node, program.semantics) if isinstance(node, RESETTING) else issues


def _rule_issues(name: str, node: Any, rules: Semantics) -> list[Issue]:
    """Where the parameters of a spiking neuron and the program's rules do not go together."""
    issues = []
    if rules.reset != "value" and np.any(node.v_reset):
        how = "by subtraction" if rules.reset == "subtract" else "to zero"
        text = f"v_reset is not 0 but the program resets {how}, which does not use it."
        issues.append(Issue("warning", name, text, "Use reset 'value', or set v_reset to 0."))
    counted = rules.spikes_per_step == "many" or rules.clamp != "none"
    if counted and not (np.asarray(node.v_threshold) > 0).all():
        text = f"v_threshold goes down to {np.min(node.v_threshold):g}, where spikes cannot be counted."
        fix = "Give a positive threshold, or use spikes_per_step 'one' and clamp 'none'."
        issues.append(Issue("error", name, text, fix))
    v_reset = 0.0 if rules.reset != "value" or node.v_reset is None else node.v_reset
    if rules.reset_step == "crossing" and not (np.asarray(v_reset) < np.asarray(node.v_threshold)).all():
        text = "v_reset is not below v_threshold, so a reset at the crossing would never end."
        issues.append(Issue("error", name, text, "Lower v_reset, or use reset_step 'same'."))
    return issues


def _faults(node: Any) -> list[tuple[str, str]]:
    found = []
    arrays = {f.name: getattr(node, f.name, None) for f in dataclasses.fields(node)}
    for field, value in arrays.items():
        if not isinstance(value, np.ndarray | float | int) or field in ("input_type", "output_type"):
            continue
        array = np.asarray(value)
        if array.dtype.kind not in "biufSU":
            found.append((f"{field} holds {array.dtype}.", "Parameters are real numbers."))
        elif array.dtype.kind in "biuf" and not np.isfinite(array).all():
            found.append((f"{field} is not finite.", "Replace NaN and infinity."))
        elif (field.startswith("tau") and (array <= 0).any()) or (field == "delay" and (array < 0).any()):
            bound = "at least 0" if field == "delay" else "positive"
            found.append((f"{field} goes down to {array.min():g}; it must be {bound}.", "Correct it."))
    if hasattr(node, "weight"):
        found += _weight_faults(node)
    if isinstance(node, NEURONS) and not all(np.size(value) for value in own_arrays(node).values()):
        found.append(("A parameter is empty.", "Give one value per neuron."))
    return found


def _extremes(node: Any, semantics: Semantics) -> list[tuple[str, str]]:
    """Parameters of which no numbers of a step can be made, or that ask for more memory than there is."""
    if isinstance(node, nir.Delay):
        with np.errstate(over="ignore"):
            steps = np.max(np.asarray(node.delay) / semantics.dt, initial=0)
        if steps * np.size(node.delay) * 8 > MAX_DELAY_LINE:
            text = f"A delay of {np.max(node.delay):g} s is {steps:.3g} steps of dt {semantics.dt:g} s: "
            text += f"to keep them takes more than {MAX_DELAY_LINE >> 20} MiB per sample."
            return [(text, "Use a shorter delay or a larger dt, or check the unit of time (--time-unit).")]
    fix = "Check the units of dt and of the time constants."
    return [(text, fix) for text in beyond(node, semantics, np.float64)]


def beyond(node: Any, semantics: Semantics, dtype: type) -> list[str]:
    """What of a sound node an arithmetic cannot hold: its own arrays, or those of one step of a neuron."""
    with np.errstate(all="ignore"):
        if isinstance(node, NEURONS):
            found = {f"{k} of one step": v for k, v in vars(coefficients(node, semantics)).items()}
        else:
            found = {f.name: getattr(node, f.name, None) for f in dataclasses.fields(node)}
        return [
            f"{what} is too large for {np.dtype(dtype)}."
            for what, value in found.items()
            if isinstance(value, np.ndarray)
            and value.dtype.kind == "f"
            and not np.isfinite(value.astype(dtype)).all()
        ]


def _weight_faults(node: Any) -> list[tuple[str, str]]:
    weight, bias = node.weight, getattr(node, "bias", None)
    ranks = {nir.Conv1d: (3, 3), nir.Conv2d: (4, 4)}
    low, high = ranks.get(type(node), (2, weight.ndim))
    if not low <= weight.ndim <= high:
        return [(f"weight has {weight.ndim} dimensions.", "Correct its shape.")]
    if isinstance(node, nir.Conv1d | nir.Conv2d):
        sites: tuple[int, ...] = (weight.shape[0],)
        if int(node.groups) < 1 or weight.shape[0] % int(node.groups):
            return [(f"{weight.shape[0]} channels cannot form {node.groups} groups.", "Correct groups.")]
    else:
        sites = (*weight.shape[:-2], weight.shape[-2])
    if bias is not None and np.shape(bias) not in (sites, ()):
        return [(f"bias has shape {np.shape(bias)}, the weight gives {sites}.", "Give one bias per output.")]
    return []


def _delay_notes(graph: Topology) -> list[Issue]:
    if not graph.delayed:
        return []
    edges = ", ".join(f"{a} -> {b}" for a, b in sorted(graph.delayed))
    text = f"{DELAYED}: {edges}."
    return [Issue("info", "", text, "NIR leaves it open; Semantics.delayed_edges chooses others.")]
