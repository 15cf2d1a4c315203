"""Inputs and outputs that were written with a batch axis, as Norse 1.1.0 does; NIR shapes have none."""

from __future__ import annotations

import warnings
from typing import Any

import nir
import numpy as np

from rsc.shapes import Shape

_RANKS: dict[type, int] = {nir.Conv1d: 2, nir.Conv2d: 3, nir.SumPool2d: 3, nir.AvgPool2d: 3}


def drop_batch_axis(graph: nir.NIRGraph) -> None:
    """Take the first axis off every Input whose readers all want the rest, and then off the Outputs.

    Args:
        graph: changed in place; shapes of the other nodes need not be known yet.
    """
    dropped, sizes = [], set()
    for name, node in graph.nodes.items():
        shape = _shape(node.input_type, "input") if isinstance(node, nir.Input) else ()
        readers = [graph.nodes[b] for a, b in graph.edges if a == name]
        if len(shape) > 1 and readers and all(_is_rest(_taken(r), shape) for r in readers):
            _set(node, shape[1:])
            dropped.append(f"'{name}' {shape}")
            sizes.add(shape[0])
    if not dropped:
        return
    for name, node in graph.nodes.items():
        shape = _shape(node.output_type, "output") if isinstance(node, nir.Output) else ()
        given = [_given(graph.nodes[a]) for a, b in graph.edges if b == name]
        if len(shape) > 1 and shape[0] in sizes and all(g is None or _is_rest(g, shape) for g in given):
            _set(node, shape[1:])
    warnings.warn(
        f"The shape of input {', '.join(dropped)} was read without its first axis: it is a batch axis, as "
        "Norse 1.1.0 writes it, and the nodes behind it take the rest.",
        stacklevel=2,
    )


def _is_rest(wanted: Shape | int | None, shape: Shape) -> bool:
    """Whether a shape, or a number of axes, is that of `shape` without its first axis."""
    return wanted in (shape[1:], len(shape) - 1)


def _taken(reader: Any) -> Shape | int | None:
    """The shape that a node takes, or its number of axes; None if it takes any."""
    if isinstance(reader, nir.Affine | nir.Linear):
        return (reader.weight.shape[1],) if reader.weight.ndim == 2 else None
    return _RANKS.get(type(reader)) or _shape(reader.input_type, "input") or None


def _given(source: Any) -> Shape | int | None:
    """The shape that a node gives, or its number of axes; None if it does not say."""
    return _RANKS.get(type(source)) or _shape(source.output_type, "output") or None


def _set(node: Any, shape: Shape) -> None:
    node.input_type, node.output_type = {"input": np.array(shape)}, {"output": np.array(shape)}


def _shape(types: dict[str, Any] | None, key: str) -> Shape:
    value = (types or {}).get(key)
    return () if value is None else tuple(int(d) for d in np.atleast_1d(value))
