"""Output shapes of the nodes of a flattened graph, without time and batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import nir
import numpy as np

from rsc.errors import InputRefused

_PARAMETERS = ("v_threshold", "threshold", "tau", "tau_mem", "r", "delay", "scale")


def infer_shapes(
    nodes: Mapping[str, Any], predecessors: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[int, ...]]:
    """Shape of every node's output: what the node says, else what its predecessors give.

    Raises:
        InputRefused: a shape can be had neither way.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    todo = list(nodes)
    while todo:
        left = [n for n in todo if not _settle(n, nodes, predecessors, shapes)]
        if len(left) == len(todo):
            raise InputRefused(
                f"The shape of node '{left[0]}' is not known.",
                "Neither its parameters nor its predecessors tell.",
                "Give Input, Conv and Flatten nodes their shapes.",
            )
        todo = left
    return shapes


def _settle(
    name: str,
    nodes: Mapping[str, Any],
    predecessors: Mapping[str, tuple[str, ...]],
    shapes: dict[str, tuple[int, ...]],
) -> bool:
    own = _own_shape(nodes[name], bool(predecessors[name]))
    known = [shapes[p] for p in predecessors[name] if p in shapes]
    if own is None and known:
        own = _from_input(nodes[name], known[0])
    if own is not None:
        shapes[name] = own
    return own is not None


def _own_shape(node: Any, fed: bool) -> tuple[int, ...] | None:
    if isinstance(node, nir.Input) and not fed:
        return _ints(next(iter(node.input_type.values())))
    for field in _PARAMETERS:
        shape = np.asarray(getattr(node, field, 0.0)).shape
        if shape and not isinstance(node, nir.Scale) and not (fed and np.prod(shape) == 1):
            return shape
    return None


def _from_input(node: Any, before: tuple[int, ...]) -> tuple[int, ...]:
    match node:
        case nir.Affine() | nir.Linear():
            return (*before[:-1], int(node.weight.shape[-2]))
        case nir.Conv1d() | nir.Conv2d():
            return _conv(node, before)
        case nir.SumPool2d() | nir.AvgPool2d():
            size = zip(before[-2:], *(_ints(v, 2) for v in pool_parameters(node)), strict=True)
            return (*before[:-2], *((n + 2 * p - k) // s + 1 for n, k, s, p in size))
        case nir.Flatten():
            return _flat(node, before)
        case _:
            return before


def pool_parameters(node: Any) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Kernel, stride and padding of a pooling node, (h, w) each."""
    kernel, stride, padding = (_ints(v, 2) for v in (node.kernel_size, node.stride, node.padding))
    return (kernel[0], kernel[1]), (stride[0], stride[1]), (padding[0], padding[1])


def _conv(node: Any, before: tuple[int, ...]) -> tuple[int, ...]:
    kernel = node.weight.shape[2:]
    rank = len(kernel)
    stride, dilation = _ints(node.stride, rank), _ints(node.dilation, rank)
    if node.padding == "same":
        return (int(node.weight.shape[0]), *before[-rank:])
    padding = (0,) * rank if isinstance(node.padding, str) else _ints(node.padding, rank)
    size = zip(before[-rank:], kernel, stride, padding, dilation, strict=True)
    return (int(node.weight.shape[0]), *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in size))


def _flat(node: Any, before: tuple[int, ...]) -> tuple[int, ...]:
    start, end = (int(d) % len(before) for d in (node.start_dim, node.end_dim))
    return (*before[:start], math.prod(before[start : end + 1]), *before[end + 1 :])


def _ints(value: Any, rank: int = 1) -> tuple[int, ...]:
    numbers: Sequence[int] = [int(v) for v in np.atleast_1d(np.asarray(value)).ravel()]
    return tuple(numbers) * rank if len(numbers) == 1 < rank else tuple(numbers)
