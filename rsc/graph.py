"""The topology of a NIR graph: nested graphs opened, and the order of evaluation.

Several edges into one node are summed. Duplicate edges are refused, as nir 1.0.8 does. Edges through
Input and Output markers are joined, so that nesting a part of a graph changes nothing. Which edges of
a cycle are delayed is decided in `rsc.delays`.
"""

from __future__ import annotations

import collections
import dataclasses
import graphlib
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import Any

import nir

from rsc.delays import Edge, component_labels, delay_lines, delayed_edges
from rsc.errors import InputRefused
from rsc.program import Semantics

DELAYED = "These edges hand over the value of the previous step"  # how a note on delays begins


@dataclasses.dataclass(frozen=True, eq=False)
class Topology:
    """A flat graph in evaluation order.

    Fields:
        nodes: dotted name -> node, nested graphs opened (their Input and Output nodes stay).
        edges: sorted.
        delayed: the edges that hand over the value of the previous step, 0 before the first.
        components: strongly connected components in the order of data flow; the names within one
            are in evaluation order for a single step.
    """

    nodes: Mapping[str, Any]
    edges: tuple[Edge, ...]
    delayed: frozenset[Edge]
    components: tuple[tuple[str, ...], ...]

    @cached_property
    def predecessors(self) -> dict[str, tuple[str, ...]]:
        """Name -> sorted names of the nodes that feed it."""
        return _adjacency(self.nodes, ((b, a) for a, b in self.edges))

    @cached_property
    def successors(self) -> dict[str, tuple[str, ...]]:
        """Name -> sorted names of the nodes that it feeds."""
        return _adjacency(self.nodes, self.edges)

    @property
    def order(self) -> tuple[str, ...]:
        """All names in evaluation order for a single step."""
        return tuple(name for component in self.components for name in component)

    def is_recurrent(self, component: tuple[str, ...]) -> bool:
        """Whether a component holds a cycle (a self edge is one) and must be run step by step."""
        name = component[0]
        return len(component) > 1 or (name, name) in self.edges


def topology(graph: nir.NIRGraph, semantics: Semantics) -> Topology:
    """Flatten `graph`, decide the delayed edges and sort it.

    Raises:
        InputRefused: dangling or duplicate edges, clashing names, ambiguous ports of a nested graph,
            unknown delayed edges, or a cycle without delay.
    """
    nodes, edges = flatten(graph)
    delayed, lines = delayed_edges(nodes, edges, semantics), delay_lines(nodes, semantics)
    order = _sorted(nodes, [edge for edge in edges if edge not in delayed and edge[1] not in lines])
    rank = {name: i for i, name in enumerate(order)}
    components = tuple(tuple(sorted(part, key=rank.__getitem__)) for part in _condensed(nodes, edges))
    return Topology(nodes, tuple(edges), delayed, components)


def flatten(graph: nir.NIRGraph) -> tuple[dict[str, Any], list[Edge]]:
    """Leaf nodes by dotted name and sorted edges between them; nested graphs opened.

    An edge to a nested graph ends at its only Input node, one from it starts at its only Output
    node; with several, the edge must name the port (`sub.in_left`).

    Raises:
        InputRefused: see `topology`.
    """
    nodes: dict[str, Any] = {}
    edges: list[Edge] = []
    _open(graph, "", nodes, edges)
    twice = sorted(edge for edge, count in collections.Counter(edges).items() if count > 1)
    if twice:
        raise InputRefused(
            f"The edge {twice[0][0]} -> {twice[0][1]} occurs twice.",
            "NIR does not say whether it counts once or twice.",
            "Keep one, or scale the weight.",
        )
    fed = sorted(b for _, b in edges if b in graph.nodes and isinstance(graph.nodes[b], nir.Input))
    if fed:
        raise InputRefused(
            f"Input '{fed[0]}' has an incoming edge.", "It is fed by the user.", "Remove the edge."
        )
    return dict(sorted(nodes.items())), sorted(_joined(nodes, edges))


def _joined(nodes: Mapping[str, Any], edges: list[Edge]) -> list[Edge]:
    """Edges that leave a fed marker start at what feeds it instead, unless a node would hear that twice."""
    feeding = _adjacency(nodes, ((b, a) for a, b in edges))

    def origins(name: str, seen: tuple[str, ...] = ()) -> list[str]:
        if not isinstance(nodes[name], nir.Input | nir.Output) or not feeding[name] or name in seen:
            return [name]
        return [origin for source in feeding[name] for origin in origins(source, (*seen, name))]

    found: list[Edge] = []
    for name in nodes:
        heard = [origin for source in feeding[name] for origin in origins(source)]
        found += [(a, name) for a in (heard if len(set(heard)) == len(heard) else feeding[name])]
    return found


def _open(graph: nir.NIRGraph, prefix: str, nodes: dict[str, Any], edges: list[Edge]) -> None:
    for name, node in sorted(graph.nodes.items()):
        if isinstance(node, nir.NIRGraph):
            _open(node, f"{prefix}{name}.", nodes, edges)
        elif prefix + name in nodes:
            raise InputRefused(
                f"Two nodes are called '{prefix}{name}'.", "A nested and a flat name clash.", "Rename one."
            )
        else:
            nodes[prefix + name] = node
    edges += [
        (prefix + _port(graph, str(a), nir.Output), prefix + _port(graph, str(b), nir.Input))
        for a, b in graph.edges
    ]


def _port(graph: nir.NIRGraph, name: str, kind: type) -> str:
    """The leaf at which an edge that names `name` starts (kind Output) or ends (kind Input)."""
    node = graph.nodes.get(name)
    if node is not None and not isinstance(node, nir.NIRGraph):
        return name
    if node is not None:
        ports = sorted(k for k, n in node.nodes.items() if isinstance(n, kind))
        if len(ports) == 1:
            return f"{name}.{ports[0]}"
        raise InputRefused(
            f"An edge names the nested graph '{name}', which has {len(ports)} {kind.__name__} nodes.",
            "NIR edges name nodes and not ports.",
            f"Name the port in the edge, e.g. '{name}.{ports[0]}'."
            if ports
            else f"Add a nir.{kind.__name__}.",
        )
    for outer, inner in sorted(graph.nodes.items()):
        if isinstance(inner, nir.NIRGraph) and name.startswith(f"{outer}."):
            return f"{outer}.{_port(inner, name[len(outer) + 1 :], kind)}"
    raise InputRefused(
        f"An edge names the node '{name}', which does not exist.",
        f"Nodes: {', '.join(sorted(graph.nodes))}.",
        "Correct the edge.",
    )


def _condensed(nodes: Mapping[str, Any], edges: Collection[Edge]) -> list[list[str]]:
    """Strongly connected components of the data flow, in topological order."""
    label = component_labels(nodes, edges)
    members: dict[int, list[str]] = {}
    for name in nodes:
        members.setdefault(label[name], []).append(name)
    heads = {number: min(names) for number, names in members.items()}
    between = [(heads[label[a]], heads[label[b]]) for a, b in edges if label[a] != label[b]]
    return [members[label[head]] for head in _sorted(heads.values(), between)]


def _sorted(names: Iterable[str], edges: Iterable[Edge]) -> list[str]:
    """Topological order; among the nodes that are ready, by name."""
    sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter(dict.fromkeys(names, ()))
    for a, b in edges:
        sorter.add(b, a)
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        raise InputRefused(
            f"The cycle {' -> '.join(error.args[1])} has no delay.",
            "Every node in it would need its own result of the same step.",
            "Name an edge of it in Semantics.delayed_edges, or add a nir.Delay of at least dt.",
        ) from error
    order: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        order += ready
        sorter.done(*ready)
    return order


def _adjacency(nodes: Mapping[str, Any], pairs: Iterable[Edge]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {name: [] for name in nodes}
    for a, b in pairs:
        found[a].append(b)
    return {name: tuple(sorted(others)) for name, others in found.items()}
