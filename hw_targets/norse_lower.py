"""Rewrite a program into one that norse 1.1 executes exactly, and say what cannot be rewritten.

What `norse.torch.from_nir` does with a NIR graph, and what is done about it here:

| Norse 1.1.0 | here |
|---|---|
| LIF and IF ignore r, IF also dt | a unit of the membrane, or in the weights before: `norse_gain` |
| Scale is not imported | a diagonal matrix, or a kernel of one site per channel |
| v_reset is ignored; the synapse of CubaLIF leaks to v_leak | set in Norse's parameters after the import |
| neurons start at v_leak | states are given from the first step on |
| parameters are rounded to float32 | set again in the arithmetic asked for |
| Flatten counts the batch axis | dims shifted by one |
| no AvgPool2d; SumPool2d ignores padding | a convolution with a diagonal kernel |
| grouped Conv2d fails | its kernel written out |
| which edge is delayed depends on the order of nodes | a held copy per delayed edge, run last |
| names with "." may collide; nested graphs | flat, numbered nodes |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import nir
import numpy as np

from rsc.discretise import RESETTING
from rsc.graph import Topology, topology
from rsc.hw_targets.norse_gain import Gains, diagonal, gains, is_diagonal
from rsc.program import Program, Semantics
from rsc.results import Issue
from rsc.shapes import Shape, infer_shapes, input_shapes, padding_mode, window

KNOWN_RULES = ("zero", "v0", "input_gain", "shift", "recurrent_bias")  # of `rsc.discretise.special_rules`
MAX_NODES = 400  # nirtorch walks the graph recursively


@dataclasses.dataclass(frozen=True, eq=False)
class Lowered:
    """A graph for Norse and the way back to the program.

    Fields:
        graph: flat, nodes named n0, n1, ... (no type check).
        names: node of the program -> node of `graph`.
        order: nodes of `graph` in the order of execution; held copies come last.
        held: held copies -> shape of their value, 0 before the first step.
        gain: neuron of the program -> array, v = gain * (Norse's v).
        shapes: node of the program -> shape of its output.
    """

    graph: nir.NIRGraph
    names: Mapping[str, str]
    order: tuple[str, ...]
    held: Mapping[str, Shape]
    gain: Mapping[str, np.ndarray]
    shapes: Mapping[str, Shape]


def lower(program: Program) -> Lowered:
    """Rewrite a program without errors in `norse_issues`."""
    graph = topology(program.graph, program.semantics)
    shapes = infer_shapes(graph)
    arriving = input_shapes(graph, shapes)
    gain = gains(graph, arriving, program.semantics)
    names = {name: f"n{i}" for i, name in enumerate(graph.order)}
    nodes: dict[str, nir.NIRNode] = {}
    entry = dict(names)  # node of the program -> where its input goes
    edges: list[tuple[str, str]] = []
    for name in graph.order:
        if name in gain.before:
            entry[name] = f"{names[name]}r"
            nodes[entry[name]] = diagonal(gain.before[name], arriving[name])
            edges.append((entry[name], names[name]))
        nodes[names[name]] = _lowered(name, graph.nodes[name], arriving[name], gain, program.semantics)
    held: dict[str, Shape] = {}
    for a, b in graph.edges:
        if (a, b) not in graph.delayed:
            edges.append((names[a], entry[b]))
            continue
        copy = f"held{len(held)}"
        held[copy] = shapes[a]
        nodes[copy] = nir.Output({"output": np.array(shapes[a])})  # an identity for nirtorch
        edges += [(names[a], copy), (copy, entry[b])]
    order = (*(name for name in nodes if name not in held), *held)
    return Lowered(nir.NIRGraph(nodes, edges, type_check=False), names, order, held, gain.unit, shapes)


def _lowered(name: str, node: Any, arriving: Shape, gain: Gains, semantics: Semantics) -> nir.NIRNode:
    """One node as Norse takes it."""
    if isinstance(node, RESETTING):
        return _neuron(node, gain.unit[name], semantics)
    made: Any = _LOWERING[type(node)](node, arriving)
    if name in gain.weights:
        factor = gain.weights[name]
        made.weight = made.weight * factor.reshape(-1, *[1] * (made.weight.ndim - 1))
        if not isinstance(made, nir.Linear):
            made.bias = made.bias * factor
    return made


def norse_issues(program: Program) -> list[Issue]:
    """What Norse cannot run exactly, for a program that is sound in itself."""
    graph = topology(program.graph, program.semantics)
    arriving = input_shapes(graph, infer_shapes(graph))
    issues = [
        issue
        for name, node in graph.nodes.items()
        for issue in _node_issues(name, node, arriving[name], program.semantics)
    ]
    issues += _unfed(graph) + _gain_issues(gains(graph, arriving, program.semantics))
    if len(program.inputs) > 1:
        issues.append(
            _error("", f"It has {len(program.inputs)} inputs; Norse feeds one.", "Join the inputs.")
        )
    if len(graph.nodes) + len(graph.delayed) > MAX_NODES:
        text = f"It has {len(graph.nodes)} nodes; the limit is {MAX_NODES}."
        issues.append(_error("", text, "Use target 'torch'."))
    return issues


def _node_issues(name: str, node: Any, arriving: Shape, semantics: Semantics) -> list[Issue]:
    if isinstance(node, RESETTING):
        return _neuron_issues(name, node, semantics)
    if type(node) not in _LOWERING:
        text = f"Norse does not import {type(node).__name__}."
        return [_error(name, text, "Use target 'reference' or 'torch', or replace the node.")]
    if isinstance(node, nir.Affine | nir.Linear) and node.weight.ndim != 2:
        return [
            _error(name, f"weight has {node.weight.ndim} axes; Norse takes 2.", "Use one node per matrix.")
        ]
    if isinstance(node, nir.Scale) and not is_diagonal(np.asarray(node.scale), arriving):
        text = f"scale differs within a channel of {arriving}; Norse imports matrices and kernels only."
        return [_error(name, text, "Use one factor per channel, or target 'torch'.")]
    return []


def _neuron_issues(name: str, node: Any, semantics: Semantics) -> list[Issue]:
    issues = []
    if semantics.comparison != ">":
        text = "Norse fires at v > v_threshold, the program at v >= v_threshold."
        issues.append(_error(name, text, "Use comparison '>', or another target."))
    if semantics.integrator != "euler" and not isinstance(node, nir.IF):
        text = "Norse integrates by forward Euler, the program exponentially."
        issues.append(_error(name, text, "Use integrator 'euler', or another target."))
    if semantics.reset == "subtract" and isinstance(node, nir.IF):
        issues.append(
            _error(name, "Norse's IF resets to a value.", "Use reset 'value', or a LIF with a long tau.")
        )
    return issues


def _gain_issues(found: Gains) -> list[Issue]:
    text = "r is not positive and differs within a channel, or over too many neurons; Norse has no r."
    issues = [_error(n, text, "Give r its sign in the weights before it.") for n in found.refused]
    text = (
        "r is made the unit of its membrane; the last bits of v differ, and ties at the threshold with them."
    )
    return issues + [Issue("info", n, text, "Put r into the weights before it.") for n in found.rounded]


def _unfed(graph: Topology) -> list[Issue]:
    return [
        _error(name, "No edge leads to it, and Norse runs no node without input.", "Connect or remove it.")
        for name, node in graph.nodes.items()
        if not graph.predecessors[name] and not isinstance(node, nir.Input)
    ]


def _error(name: str, what: str, fix: str) -> Issue:
    return Issue("error", name, what, fix)


def _scale(node: nir.Scale, arriving: Shape) -> nir.NIRNode:
    return diagonal(node.scale, arriving)


def _port(node: Any, _: Shape) -> nir.NIRNode:
    shape = next(iter(node.input_type.values()))
    return nir.Input({"input": shape}) if isinstance(node, nir.Input) else nir.Output({"output": shape})


def _matrix(node: Any, _: Shape) -> nir.NIRNode:
    weight = np.array(node.weight, np.float64)
    if isinstance(node, nir.Linear):
        return nir.Linear(weight)
    bias = np.broadcast_to(np.asarray(node.bias, np.float64), weight.shape[:1])
    return nir.Affine(weight, bias.copy())


def _convolution(node: Any, arriving: Shape) -> nir.NIRNode:
    """A Conv2d with one group: outside its own group's channels the kernel is 0."""
    weight = np.array(node.weight, np.float64)
    groups, (rows, columns) = int(node.groups), weight.shape[:2]
    dense = np.zeros((rows, columns * groups, *weight.shape[2:]))
    for g in range(groups):
        mine = slice(g * rows // groups, (g + 1) * rows // groups)
        dense[mine, g * columns : (g + 1) * columns] = weight[mine]
    bias = np.broadcast_to(np.asarray(node.bias, np.float64), (rows,)).copy()
    view = window(node)
    mode = padding_mode(node.padding)
    padding: Any = mode if mode == "same" else tuple(before for before, _ in view.padding)
    return nir.Conv2d((arriving[1], arriving[2]), dense, view.stride, padding, view.dilation, 1, bias)  # type: ignore[arg-type]


def _pool(node: Any, arriving: Shape) -> nir.NIRNode:
    """A sum pooling without padding, or a convolution that keeps channels apart."""
    view = window(node)
    padding = tuple(before for before, _ in view.padding)
    if isinstance(node, nir.SumPool2d) and not any(padding):
        return nir.SumPool2d(np.array(view.kernel), np.array(view.stride), np.array(padding))
    factor = 1.0 if isinstance(node, nir.SumPool2d) else 1.0 / np.prod(view.kernel)
    weight = np.eye(arriving[0])[:, :, None, None] * np.full(view.kernel, factor)
    spatial: Any = arriving[1:]
    return nir.Conv2d(spatial, weight, view.stride, padding, 1, 1, np.zeros(arriving[0]))  # type: ignore[arg-type]


def _flatten(node: Any, _: Shape) -> nir.NIRNode:
    """The same with a batch axis in front."""
    start, end = (int(d) + (1 if d >= 0 else 0) for d in (node.start_dim, node.end_dim))
    return nir.Flatten(None, start, end)  # type: ignore[arg-type]


def _neuron(node: Any, unit: np.ndarray, semantics: Semantics) -> nir.NIRNode:
    """The neuron in a unit of its own, with r = 1 (CubaLIF: unchanged)."""
    fields: dict[str, Any] = {
        key: np.asarray(getattr(node, key), np.float64)
        for key in ("tau", "tau_mem", "tau_syn", "r", "v_leak", "w_in")
        if hasattr(node, key)
    }
    fields["v_threshold"] = np.asarray(node.v_threshold, np.float64)
    to_zero = node.v_reset is None or semantics.reset == "zero"
    fields["v_reset"] = np.zeros(()) if to_zero else np.asarray(node.v_reset, np.float64)
    if not isinstance(node, nir.CubaLIF):
        fields |= {k: fields[k] / unit for k in ("v_leak", "v_threshold", "v_reset") if k in fields}
        fields["r"] = np.ones_like(fields["r"])
    fields = dict(zip(fields, np.broadcast_arrays(*fields.values()), strict=True))
    return type(node)(**{k: v.copy() for k, v in fields.items()})


_LOWERING: dict[type, Callable[[Any, Shape], nir.NIRNode]] = {
    nir.Input: _port,
    nir.Output: _port,
    nir.Affine: _matrix,
    nir.Linear: _matrix,
    nir.Conv2d: _convolution,
    nir.Scale: _scale,
    nir.SumPool2d: _pool,
    nir.AvgPool2d: _pool,
    nir.Flatten: _flatten,
}
