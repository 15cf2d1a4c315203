"""Who feeds whom: synaptic edges of a NIR graph, with everything that only reshapes or pools folded away.

An *emitter* produces values (Input, neurons, weighted nodes); *transparent* nodes (Flatten, Scale, pooling,
Delay, the markers of nested graphs) only pass them on; a *consumer* is a weighted node or a neuron.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import nir

from rsc.errors import InputRefused, UnsupportedNode
from rsc.graph import topology
from rsc.program import Program
from rsc.shapes import infer_shapes

WEIGHTED = (nir.Affine, nir.Linear, nir.Conv1d, nir.Conv2d)
SPIKING = (nir.IF, nir.LIF, nir.CubaLIF, nir.Threshold)
NEURONS = (*SPIKING, nir.LI, nir.CubaLI, nir.I)
POOLS = (nir.SumPool2d, nir.AvgPool2d)
TRANSPARENT = (nir.Flatten, nir.Scale, nir.Delay, *POOLS)
MARKERS = (nir.Input, nir.Output)


@dataclasses.dataclass(frozen=True)
class Edge:
    """Values of `source` arriving at `target` through the transparent nodes `path`.

    Fields:
        lag: steps that the values travel because links of the way close a loop (Delay nodes not included). A
            link that is delayed behind a weighted node counts as if it were before it: what the node makes
            of the last step's events is delivered to nobody.
    """

    source: str
    target: str
    path: tuple[str, ...] = ()
    lag: int = 0


@dataclasses.dataclass(frozen=True)
class Net:
    """A flattened graph.

    Fields:
        nodes: dotted name -> node, nested graphs opened.
        shapes: dotted name -> shape of the output, without time and batch.
        inputs: names of the top-level Input nodes.
        delayed: links that hand over the value of the step before.
        arrivals: every node but the inputs -> the edges that end there.
        maps: fan-out maps and tables made so far (`fanout`, `reach`), which depend on nothing else.
    """

    nodes: Mapping[str, Any]
    predecessors: Mapping[str, tuple[str, ...]]
    shapes: Mapping[str, tuple[int, ...]]
    inputs: tuple[str, ...]
    delayed: frozenset[tuple[str, str]]
    arrivals: Mapping[str, tuple[Edge, ...]]
    maps: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def is_emitter(self, name: str) -> bool:
        """Whether the node produces values of its own."""
        return name in self.inputs or isinstance(self.nodes[name], (*NEURONS, *WEIGHTED))


@functools.lru_cache(maxsize=8)
def open_net(program: Program) -> Net:
    """The flattened graph of a program with its synaptic edges; kept for the last few programs.

    Raises:
        UnsupportedNode: a node type that cannot be counted.
        InputRefused: a node that nothing feeds, or shapes that cannot be inferred.
    """
    graph = topology(program.graph, program.semantics)
    for name, node in graph.nodes.items():
        if not isinstance(node, (*WEIGHTED, *NEURONS, *TRANSPARENT, *MARKERS)):
            raise UnsupportedNode(
                f"Operations of node '{name}' cannot be counted.",
                f"Type {type(node).__name__} has no counting rule.",
                "Replace it by NIR primitives; an unknown cost is not zero.",
            )
    before = graph.predecessors
    orphans = [n for n in graph.nodes if not before[n] and n not in program.inputs]
    if orphans:
        raise InputRefused(f"Nothing feeds node '{orphans[0]}'.", "It has no incoming edge.", "Connect it.")
    net = Net(graph.nodes, before, infer_shapes(graph), program.inputs, graph.delayed, {})
    arrivals = {}
    for name in graph.nodes:
        if name not in program.inputs:
            after = graph.successors[name]
            behind = bool(after) and all((name, b) in graph.delayed for b in after)
            late = int(behind and isinstance(graph.nodes[name], WEIGHTED))
            arrivals[name] = tuple(_trace(net, name, name, (), late))
    return dataclasses.replace(net, arrivals=arrivals)


def _trace(net: Net, name: str, target: str, path: tuple[str, ...], late: int) -> Iterator[Edge]:
    """Walk back from a node to all emitters; `path` holds the transparent nodes met, in flow order."""
    for before in net.predecessors[name]:
        if before in path:
            raise UnsupportedNode(
                f"Node '{before}' feeds itself without a neuron.",
                "Its events would go round for ever and have no fan-out.",
                "Put a neuron into the loop.",
            )
        lag = late + ((before, name) in net.delayed)
        if net.is_emitter(before):
            yield Edge(before, target, path, lag)
        else:
            yield from _trace(net, before, target, (before, *path), lag)
