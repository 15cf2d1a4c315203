"""Which edges of a flat NIR graph hand over the value of the step before.

NIR does not say which edge of a cycle carries the time step that makes it computable. Here:

1. The edges that leave the nodes named by `Semantics.shift` are delayed, and those of `delayed_edges`.
2. A `nir.Delay` of at least one step needs no other delay: cycles through it stay as they are.
3. Where `delayed_edges` is None, in every other cycle the edges that leave a neuron (or, in a cycle
   without one, a `Threshold`) and stay inside the strongly connected component are delayed: recurrent
   spikes arrive one step later.
4. Without `recurrent_bias` (the default) such a delay moves behind each stateless node that hears
   nothing else, onto the edges that stay in the component. What leaves the cycle there is heard at
   once, and what goes on around it is 0 at the first step and not the bias, as in Norse and nirtorch.
   With `recurrent_bias` the node hears 0 at the first step and adds its bias from there on.

The value before the first step is 0. The rules see the structure only, so a result depends neither on
names nor on the order of nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import nir
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rsc.discretise import NEURONS, RESETTING, delay_steps
from rsc.errors import InputRefused
from rsc.program import Semantics

Edge = tuple[str, str]

_SHIFTED: dict[str, tuple[type, ...]] = {
    "none": (),
    "spikes": RESETTING,
    "weights": (nir.Affine, nir.Linear, nir.Conv1d, nir.Conv2d),
}
_FIXED = (nir.Input, nir.Output, nir.Delay, nir.Threshold, *NEURONS)  # no delay moves behind these


def delayed_edges(nodes: Mapping[str, Any], edges: Collection[Edge], semantics: Semantics) -> frozenset[Edge]:
    """The delayed ones among the edges of a flat graph.

    Raises:
        InputRefused: `semantics` name an edge that does not exist.
    """
    shifted = {(a, b) for a, b in edges if isinstance(nodes[a], _SHIFTED[semantics.shift])}
    if semantics.delayed_edges is not None:
        return frozenset(shifted | _named(edges, semantics))
    lines = delay_lines(nodes, semantics)
    back = _back_edges(nodes, [edge for edge in edges if edge[1] not in lines and edge not in shifted])
    return frozenset(shifted | (back if semantics.recurrent_bias else _moved(back, nodes, edges, shifted)))


def delay_lines(nodes: Mapping[str, Any], semantics: Semantics) -> set[str]:
    """The `Delay` nodes that delay all their elements, and so cut cycles by themselves."""
    delays = {name: node for name, node in nodes.items() if isinstance(node, nir.Delay)}
    return {name for name, node in delays.items() if (delay_steps(node, semantics.dt) >= 1).all()}


def component_labels(nodes: Mapping[str, Any], edges: Collection[Edge]) -> dict[str, int]:
    """Name -> number of its strongly connected component."""
    index = {name: i for i, name in enumerate(nodes)}
    ends = np.array([(index[a], index[b]) for a, b in edges], dtype=np.int64).reshape(-1, 2)
    matrix = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(nodes), len(nodes)))
    _, labels = connected_components(matrix.tocsr(), directed=True, connection="strong")
    return {name: int(labels[i]) for name, i in index.items()}


def _named(edges: Collection[Edge], semantics: Semantics) -> set[Edge]:
    named = set(semantics.delayed_edges or ())
    unknown = sorted(named - set(edges))
    if unknown:
        raise InputRefused(
            f"Semantics delay the edge {unknown[0][0]} -> {unknown[0][1]}, which does not exist.",
            "Delayed edges are named by the dotted names of the nodes they join.",
            f"Edges: {', '.join(f'{a} -> {b}' for a, b in edges)}.",
        )
    return named


def _back_edges(nodes: Mapping[str, Any], edges: list[Edge]) -> set[Edge]:
    """Rule 3: edges inside a component that leave neurons; then, in what is still cyclic, Thresholds."""
    delayed: set[Edge] = set()
    for kinds in (NEURONS, (nir.Threshold,)):
        left = [edge for edge in edges if edge not in delayed]
        label = component_labels(nodes, left)
        delayed |= {(a, b) for a, b in left if label[a] == label[b] and isinstance(nodes[a], kinds)}
    return delayed


def _moved(
    back: set[Edge], nodes: Mapping[str, Any], edges: Collection[Edge], shifted: set[Edge]
) -> set[Edge]:
    """Rule 4: from all edges into a stateless node to those out of it that stay in the cycle."""
    label = component_labels(nodes, edges)
    into: dict[str, set[Edge]] = {name: set() for name in nodes}
    out: dict[str, set[Edge]] = {name: set() for name in nodes}
    for a, b in edges:
        if label[a] == label[b]:
            out[a].add((a, b))
        into[b].add((a, b))
    delayed, pending = set(back), sorted({b for _, b in back})
    while pending:
        name = pending.pop()
        movable = not isinstance(nodes[name], _FIXED) and into[name] and out[name]
        if movable and into[name] <= delayed and not out[name] & (delayed | shifted):
            delayed = delayed - into[name] | out[name]
            pending += sorted(b for _, b in out[name])
    return delayed
