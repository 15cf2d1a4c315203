"""Write the types of all nodes into a NIR graph that was read, from its inputs on; a mismatch names the edge.

NIR 1.0.8 does so too, but counts only one kernel side, refuses grouped convolutions and needs time
exponential in the nesting of graphs. The geometry is that of `rsc.shapes`.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from typing import Any

import nir
import numpy as np

from rsc.discretise import NEURONS
from rsc.errors import InputRefused, MalformedFile
from rsc.shapes import Shape, flat_shape, shape_after, window

MAX_ELEMENTS = 1 << 31
_WIDENED = (nir.Affine, nir.Linear, nir.Scale, nir.Delay, nir.Threshold, *NEURONS)


def infer_shapes(graph: nir.NIRGraph, ports: bool = True) -> None:
    """Complete a graph in place: types of every node, and Inputs before roots and Outputs behind leaves.

    Args:
        graph: nodes checked one by one, edges between existing nodes; built without type check.
        ports: False leaves roots and leaves as they are.

    Raises:
        MalformedFile: two shapes do not fit, or a shape cannot be known.
    """
    for node in graph.nodes.values():
        if isinstance(node, nir.NIRGraph):
            infer_shapes(node, ports)
    if ports:
        _add_inputs(graph)
    after = defaultdict(list)
    for a, b in graph.edges:
        after[a].append(b)
    settled: set[str] = set()
    _propagate(graph, after, settled, [n for n, node in graph.nodes.items() if isinstance(node, nir.Input)])
    _propagate(graph, after, settled, [n for n, node in graph.nodes.items() if output_shape(node)])
    unknown = sorted(set(graph.nodes) - settled)
    if unknown:
        raise MalformedFile(
            f"The shape of node '{unknown[0]}' cannot be known.",
            "No path from an Input leads to it.",
            "Connect it or remove it.",
        )
    if ports:
        _add_outputs(graph, after)
    for a, b in graph.edges:
        out, into = output_shape(graph.nodes[a]), input_shape(graph.nodes[b])
        if out != into:
            raise MalformedFile(
                f"The edge {a} -> {b} does not fit.", f"{out} meets {into}.", "Export it again."
            )
    graph._update_input_output_types()


def _propagate(
    graph: nir.NIRGraph, after: dict[str, list[str]], settled: set[str], sources: list[str]
) -> None:
    """Carry shapes along the edges from `sources`, which know their own."""
    queue = deque(name for name in sources if name not in settled)
    settled.update(queue)
    while queue:
        source = queue.popleft()
        shape = _must(output_shape(graph.nodes[source]))
        for name in after[source]:
            if name in settled:
                continue
            node = graph.nodes[name]
            if input_shape(node) is None:
                _set_types(name, node, shape)
            elif isinstance(node, _WIDENED) and input_shape(node) != shape:
                _widen(name, node, shape)
            settled.add(name)
            queue.append(name)


def _widen(name: str, node: Any, shape: Shape) -> None:
    """Types of a node whose parameters broadcast to `shape`; as they are if they do not."""
    try:
        out = shape_after(node, shape)
    except InputRefused:
        return
    _set(name, node, shape, _must(out))


def output_shape(node: Any) -> Shape | None:
    """Shape of what a node gives, None if it is not known yet or the node has several outputs."""
    return _single(node.output_type)


def input_shape(node: Any) -> Shape | None:
    """Shape of what a node takes, None if it is not known yet or the node has several inputs."""
    return _single(node.input_type)


def _single(types: dict[str, Any] | None) -> Shape | None:
    if types is None or len(types) != 1:
        return None
    value = next(iter(types.values()))
    return None if value is None else tuple(int(v) for v in np.atleast_1d(value))


def _must(shape: Shape | None) -> Shape:
    if shape is None:
        raise MalformedFile("A node has no shape.", "It is used before it is known.", "Export it again.")
    return shape


def _add_inputs(graph: nir.NIRGraph) -> None:
    """Put an Input before every root of known shape, as NIR does."""
    targets = {b for _, b in graph.edges}
    for name in sorted(set(graph.nodes) - targets):
        node = graph.nodes[name]
        shape = input_shape(node)
        if not isinstance(node, nir.Input) and shape is not None:
            new = _free_name(graph, f"input_{name}")
            graph.nodes[new] = nir.Input({"input": np.array(shape)})
            graph.edges.append((new, name))


def _add_outputs(graph: nir.NIRGraph, after: dict[str, list[str]]) -> None:
    """Put an Output behind every leaf, as NIR does."""
    for name in sorted(graph.nodes):
        node = graph.nodes[name]
        if not after[name] and not isinstance(node, nir.Output):
            new = _free_name(graph, f"output_{name}")
            graph.nodes[new] = nir.Output({"output": np.array(_must(output_shape(node)))})
            graph.edges.append((name, new))


def _free_name(graph: nir.NIRGraph, name: str) -> str:
    names = [name, *(f"{name}_{i}" for i in range(len(graph.nodes) + 1))]
    return next(n for n in names if n not in graph.nodes)


def _set_types(name: str, node: Any, shape: Shape) -> None:
    """Types of a node without a shape of its own (Conv, pooling, Flatten), fed with `shape`."""
    if not isinstance(node, nir.Flatten | nir.Conv1d | nir.Conv2d | nir.SumPool2d | nir.AvgPool2d):
        raise MalformedFile(
            f"Node '{name}' has no shape.", f"It is a {type(node).__name__}.", "Export it again."
        )
    if isinstance(node, nir.Conv1d):
        node.input_shape = shape[-1]
    elif isinstance(node, nir.Conv2d):
        node.input_shape = (shape[-2], shape[-1])
    set_window_types(name, node, shape)


def set_window_types(name: str, node: Any, shape: Shape) -> None:
    """Types of a Conv, pooling or Flatten node that is fed with `shape`.

    Raises:
        MalformedFile: the node does not fit the shape.
    """
    if isinstance(node, nir.Conv1d | nir.Conv2d):
        axes, channels = node.weight.ndim - 1, node.weight.shape[1] * int(node.groups)
        fits = len(shape) == axes and shape[0] == channels
    else:
        fits = isinstance(node, nir.Flatten) or len(shape) == 3
    if not fits:
        kind = type(node).__name__
        raise MalformedFile(
            f"{kind} '{name}' is fed with {list(shape)}.", "Axes or channels differ.", "Correct it."
        )
    try:
        if isinstance(node, nir.Flatten):
            out = flat_shape(node, shape)
        else:
            channels = node.weight.shape[0] if isinstance(node, nir.Conv1d | nir.Conv2d) else shape[0]
            out = (channels, *window(node).output(shape[1:]))
    except InputRefused as error:
        raise MalformedFile(f"Node '{name}': {error.what}", error.why, error.fix) from error
    _set(name, node, shape, out)


def _set(name: str, node: Any, shape: Shape, out: Shape) -> None:
    if math.prod(out) > MAX_ELEMENTS:
        raise MalformedFile(f"Node '{name}' gives {list(out)}.", "That is too large.", "Correct it.")
    node.input_type = {"input": np.array(shape)}
    node.output_type = {"output": np.array(out)}
