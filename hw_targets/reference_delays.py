"""Which edges are delayed once `Semantics.shift` and `Semantics.recurrent_bias` have had their say."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import nir

from rsc.discretise import NEURONS, RESETTING, delay_steps
from rsc.graph import Edge, Topology, flatten, topology
from rsc.program import Semantics

_SHIFTED: dict[str, tuple[type, ...]] = {
    "none": (),
    "spikes": RESETTING,
    "weights": (nir.Affine, nir.Linear, nir.Conv1d, nir.Conv2d),
}


def delayed_topology(graph: nir.NIRGraph, semantics: Semantics) -> Topology:
    """`rsc.graph.topology` under all rules of `semantics`.

    1. The edges that leave the nodes named by `shift` are delayed, and those of `delayed_edges`.
    2. Where `delayed_edges` is None, cycles that are left get the delays of `rsc.graph`: on the edges
       that leave their neurons, or without `recurrent_bias` on the edges that enter them.

    Raises:
        InputRefused: see `rsc.graph.topology`.
    """
    if semantics.shift == "none" and semantics.recurrent_bias:
        return topology(graph, semantics)
    nodes, edges = flatten(graph)
    delayed = {(a, b) for a, b in edges if isinstance(nodes[a], _SHIFTED[semantics.shift])}
    if semantics.delayed_edges is not None:
        delayed |= set(semantics.delayed_edges)
    else:
        lines = _lines(nodes, semantics)
        near = 0 if semantics.recurrent_bias else 1
        for kinds, end in ((NEURONS, near), ((nir.Threshold,), 0)):
            left = [edge for edge in edges if edge not in delayed and edge[1] not in lines]
            delayed |= {edge for edge in _cyclic(left) if isinstance(nodes[edge[end]], kinds)}
    return topology(graph, msgspec.structs.replace(semantics, delayed_edges=tuple(sorted(delayed))))


def _lines(nodes: Mapping[str, Any], semantics: Semantics) -> set[str]:
    """The `Delay` nodes that delay all their elements, and so cut cycles by themselves."""
    delays = {name: node for name, node in nodes.items() if isinstance(node, nir.Delay)}
    return {name for name, node in delays.items() if (delay_steps(node, semantics.dt) >= 1).all()}


def _cyclic(edges: Collection[Edge]) -> set[Edge]:
    """The edges that lie on a cycle: those whose start can be reached from their end."""
    successors: dict[str, list[str]] = {}
    for a, b in edges:
        successors.setdefault(a, []).append(b)
    reached = {b: _reachable(b, successors) for _, b in edges}
    return {(a, b) for a, b in edges if a in reached[b]}


def _reachable(start: str, successors: Mapping[str, list[str]]) -> set[str]:
    """`start` and every node that its data reaches."""
    found, open_ = {start}, [start]
    while open_:
        new = [name for name in successors.get(open_.pop(), ()) if name not in found]
        found.update(new)
        open_ += new
    return found
