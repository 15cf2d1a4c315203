"""Inputs and outputs that were written with a batch axis of 1, as Norse 1.1.0 does; NIR shapes have none."""

from __future__ import annotations

import warnings
from typing import Any

import nir
import numpy as np

from rsc.shapes import Shape

_RANKS: dict[type, int] = {nir.Conv1d: 2, nir.Conv2d: 3, nir.SumPool2d: 3, nir.AvgPool2d: 3}


def drop_batch_axis(graph: nir.NIRGraph) -> None:
    """Take the leading 1 off every Input whose readers all want the rest, and then off the Outputs.

    Args:
        graph: changed in place; shapes of the other nodes need not be known yet.
    """
    dropped = []
    for name, node in graph.nodes.items():
        shape = _shape(node.input_type, "input") if isinstance(node, nir.Input) else ()
        readers = [graph.nodes[b] for a, b in graph.edges if a == name]
        if len(shape) > 1 and shape[0] == 1 and readers and all(_wants(r, shape) for r in readers):
            _set(node, shape[1:])
            dropped.append(f"'{name}' {shape}")
    if not dropped:
        return
    for node in graph.nodes.values():
        shape = _shape(node.output_type, "output") if isinstance(node, nir.Output) else ()
        if len(shape) > 1 and shape[0] == 1:
            _set(node, shape[1:])
    warnings.warn(
        f"The shape of input {', '.join(dropped)} was read without its first axis: it is a batch axis, as "
        "Norse 1.1.0 writes it, and the nodes behind it take the rest.",
        stacklevel=2,
    )


def _wants(reader: Any, shape: Shape) -> bool:
    """Whether a node takes `shape` without its first axis and not with it."""
    if isinstance(reader, nir.Affine | nir.Linear):
        return reader.weight.ndim == 2 and (reader.weight.shape[1],) == shape[1:]
    known = None if type(reader) in _RANKS else _shape(reader.input_type, "input")
    return len(shape) - 1 == _RANKS[type(reader)] if known is None else known == shape[1:]


def _set(node: Any, shape: Shape) -> None:
    node.input_type, node.output_type = {"input": np.array(shape)}, {"output": np.array(shape)}


def _shape(types: dict[str, Any] | None, key: str) -> Shape:
    value = (types or {}).get(key)
    return () if value is None else tuple(int(d) for d in np.atleast_1d(value))
