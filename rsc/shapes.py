"""Shapes along a NIR graph, and the geometry of its convolutions and poolings.

nir 1.0.8 infers wrong types for non-square kernels and none for grouped convolutions, so the shapes
are worked out here from the fields. Shapes are those of one sample at one step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import nir
import numpy as np

from rsc.discretise import NEURONS
from rsc.errors import InputRefused
from rsc.graph import Topology

Shape = tuple[int, ...]

_PARAMETERS = ("r", "tau", "tau_mem", "tau_syn", "v_leak", "v_threshold", "v_reset", "w_in")


@dataclasses.dataclass(frozen=True)
class Window:
    """How a kernel slides, per spatial axis.

    Fields:
        kernel, stride, dilation: in sites.
        padding: (before, after) zeros; "same" with an odd total puts the extra zero after, as torch does.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]

    def output(self, spatial: Shape) -> Shape:
        """Spatial shape of the result; raises InputRefused if the kernel does not fit."""
        axes = zip(spatial, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        sizes = tuple((n + sum(p) - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes)
        if min(sizes, default=1) < 1:
            raise InputRefused(
                f"A kernel {self.kernel} does not fit an input of {spatial}.",
                f"With padding {self.padding} the result would have shape {sizes}.",
                "Use a larger input, more padding or a smaller kernel.",
            )
        return sizes


def window(node: nir.Conv1d | nir.Conv2d | nir.SumPool2d | nir.AvgPool2d) -> Window:
    """The sliding window of a convolution or pooling node.

    Raises:
        InputRefused: unknown padding mode, "same" with a stride, or numbers out of range.
    """
    if isinstance(node, nir.SumPool2d | nir.AvgPool2d):
        kernel, dilation = _axes(node.kernel_size, 2), (1, 1)
    else:
        kernel = tuple(int(k) for k in node.weight.shape[2:])
        dilation = _axes(node.dilation, len(kernel))
    stride = _axes(node.stride, len(kernel))
    if min(kernel) < 1 or min(stride) < 1 or min(dilation) < 1:
        raise InputRefused(
            f"Kernel {kernel}, stride {stride}, dilation {dilation}.",
            "All are at least 1.",
            "Correct the node.",
        )
    return Window(kernel, stride, _padding(node.padding, kernel, stride, dilation), dilation)


def _padding(value: Any, kernel: Shape, stride: Shape, dilation: Shape) -> tuple[tuple[int, int], ...]:
    mode = padding_mode(value)
    if mode is None:
        pads = tuple((p, p) for p in _axes(value, len(kernel)))
        if min(pads)[0] < 0:
            raise InputRefused(f"Padding is {value}.", "It cannot be negative.", "Correct the node.")
        return pads
    if mode == "valid":
        return ((0, 0),) * len(kernel)
    if mode != "same" or any(s != 1 for s in stride):
        raise InputRefused(
            f"Padding '{mode}' with stride {stride}.",
            "Padding is a number, 'valid', or 'same' with stride 1.",
            "Write the padding as numbers.",
        )
    totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)


def padding_mode(value: Any) -> str | None:
    """The padding mode of a convolution as text, or None if the padding is a number."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode()
    return str(value) if isinstance(value, str) else None


def flat_shape(node: nir.Flatten, shape: Shape) -> Shape:
    """Shape after a Flatten node; its dims count without batch."""
    start, end = (int(d) + (len(shape) if d < 0 else 0) for d in (node.start_dim, node.end_dim))
    if not 0 <= start <= end < len(shape):
        raise InputRefused(
            f"Flatten from {node.start_dim} to {node.end_dim} does not fit shape {shape}.",
            "NIR counts the dimensions without batch.",
            "Use start_dim 0 to flatten all.",
        )
    return (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])


def infer_shapes(graph: Topology) -> dict[str, Shape]:
    """Output shape of every node.

    Raises:
        InputRefused: shapes do not fit together, or one cannot be known; the message names the node.
    """
    shapes: dict[str, Shape] = {}
    pending = list(graph.order)
    while pending:
        left = [name for name in pending if not _place(name, graph, shapes, alone=False)]
        if len(left) == len(pending) and not any(_place(name, graph, shapes, alone=True) for name in left):
            raise InputRefused(
                f"The shape of node '{left[0]}' cannot be known.",
                "Nothing feeds it and its fields do not say.",
                "Connect it, or set its input shape.",
            )
        pending = [name for name in left if name not in shapes]
    for name in graph.order:
        _check_sources(name, graph, shapes)
    return shapes


def input_shapes(graph: Topology, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Shape of what arrives at every node, or would arrive where no edge leads to it."""
    found = {}
    for name, node in graph.nodes.items():
        sources = graph.predecessors[name]
        found[name] = shapes[sources[0]] if sources else _unfed_shape(node, shapes[name])
    return found


def _unfed_shape(node: Any, own: Shape) -> Shape:
    if isinstance(node, nir.Affine | nir.Linear):
        return (*node.weight.shape[:-2], node.weight.shape[-1])
    if isinstance(node, nir.Conv1d | nir.Conv2d):
        return (node.weight.shape[1] * int(node.groups), *_axes(node.input_shape, node.weight.ndim - 2))
    if isinstance(node, nir.Flatten):
        return tuple(int(d) for d in np.atleast_1d(next(iter(node.input_type.values()))))
    return own


def _place(name: str, graph: Topology, shapes: dict[str, Shape], alone: bool) -> bool:
    """Work out one shape from a known source, or, where `alone`, from the fields of the node."""
    known = [shapes[source] for source in graph.predecessors[name] if source in shapes]
    if name in shapes or (not known and not alone):
        return name in shapes
    arriving = known[0] if known else None
    try:
        found = shape_after(graph.nodes[name], arriving)
    except InputRefused as error:
        raise InputRefused(f"Node '{name}': {error.what}", error.why, error.fix) from error
    if found is not None:
        shapes[name] = found
    return found is not None


def _check_sources(name: str, graph: Topology, shapes: Mapping[str, Shape]) -> None:
    arriving = {source: shapes[source] for source in graph.predecessors[name]}
    if len(set(arriving.values())) > 1:
        raise InputRefused(
            f"Node '{name}' sums inputs of different shapes.",
            ", ".join(f"{source}: {shape}" for source, shape in arriving.items()) + ".",
            "Make the shapes equal.",
        )
    if arriving and shape_after(graph.nodes[name], next(iter(arriving.values()))) != shapes[name]:
        raise InputRefused(
            f"Node '{name}' does not fit its input.", f"It gives {shapes[name]}.", "Correct the shapes."
        )


def shape_after(node: Any, arriving: Shape | None) -> Shape | None:
    """Shape that a node gives for what arrives, or, where nothing does, from its fields; None if unknown.

    Raises:
        InputRefused: what arrives does not fit the node.
    """
    return _RULES[type(node)](node, arriving)


def _matrix(node: Any, arriving: Shape | None) -> Shape | None:
    weight = node.weight.shape
    if arriving is None:
        return (*weight[:-2], weight[-2])
    if not arriving or arriving[-1] != weight[-1]:
        raise _misfit(arriving, f"weight {weight}")
    if _broadcast(weight[:-2], arriving[:-1]) != arriving[:-1]:
        raise _misfit(arriving, f"weight {weight}")
    return (*arriving[:-1], weight[-2])


def _elementwise(node: Any, arriving: Shape | None) -> Shape | None:
    fields = [np.shape(value) for value in own_arrays(node).values()]
    own = _broadcast(*fields)
    if own is None or (arriving is not None and _broadcast(own, arriving) != arriving):
        raise _misfit(arriving, f"parameters {own or fields}")
    return own if arriving is None else arriving


def own_arrays(node: Any) -> dict[str, Any]:
    """The per-element parameters of an elementwise node, by field."""
    if isinstance(node, NEURONS):
        found = {field: getattr(node, field, None) for field in _PARAMETERS}
        return {field: value for field, value in found.items() if value is not None}
    field = {nir.Scale: "scale", nir.Threshold: "threshold", nir.Delay: "delay"}[type(node)]
    return {field: getattr(node, field)}


def _port_shape(node: Any, arriving: Shape | None) -> Shape | None:
    declared = next(iter(node.input_type.values()))
    own = None if declared is None else tuple(int(d) for d in np.atleast_1d(declared))
    if own is not None and arriving is not None and own != arriving:
        raise _misfit(arriving, f"the declared shape {own}")
    return own if arriving is None else arriving


def _convolution(node: Any, arriving: Shape | None) -> Shape | None:
    out_channels, in_channels = node.weight.shape[0], node.weight.shape[1] * int(node.groups)
    spatial = node.weight.ndim - 2
    if arriving is None:
        if node.input_shape is None:
            return None
        arriving = (in_channels, *_axes(node.input_shape, spatial))
    if len(arriving) != spatial + 1 or arriving[0] != in_channels or out_channels % int(node.groups):
        raise _misfit(arriving, f"weight {node.weight.shape} in {node.groups} group(s)")
    return (out_channels, *window(node).output(arriving[1:]))


def _pool(node: Any, arriving: Shape | None) -> Shape | None:
    if arriving is None:
        return None
    if len(arriving) != 3:
        raise _misfit(arriving, "a pooling over [C, H, W]")
    return (arriving[0], *window(node).output(arriving[1:]))


def _flatten(node: Any, arriving: Shape | None) -> Shape | None:
    declared = next(iter(node.input_type.values()))
    if arriving is None and declared is not None:
        arriving = tuple(int(d) for d in np.atleast_1d(declared))
    return None if arriving is None else flat_shape(node, arriving)


_RULES: dict[type, Callable[[Any, Shape | None], Shape | None]] = {
    nir.Input: _port_shape,
    nir.Output: _port_shape,
    nir.Affine: _matrix,
    nir.Linear: _matrix,
    nir.Conv1d: _convolution,
    nir.Conv2d: _convolution,
    nir.SumPool2d: _pool,
    nir.AvgPool2d: _pool,
    nir.Flatten: _flatten,
    **dict.fromkeys((nir.Scale, nir.Delay, nir.Threshold, *NEURONS), _elementwise),
}


def _axes(value: Any, count: int) -> tuple[int, ...]:
    flat = np.atleast_1d(np.asarray(value)).astype(int).ravel()
    if len(flat) not in (1, count):
        raise InputRefused(
            f"{len(flat)} numbers were given for {count} axes.", f"Got {value}.", "Give one per axis."
        )
    return tuple(int(v) for v in (flat if len(flat) == count else np.repeat(flat, count)))


def _broadcast(*shapes: Shape) -> Shape | None:
    try:
        return tuple(np.broadcast_shapes(*shapes))
    except ValueError:
        return None


def _misfit(arriving: Shape | None, what: str) -> InputRefused:
    return InputRefused(f"An input of shape {arriving} does not fit {what}.", "", "Correct the shapes.")
