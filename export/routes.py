"""Ways through a graph from one population to the next, and the linear operator along each.

A route leads over nodes without state, which are linear but for their biases; a bias is a route of its own,
from the constant 1. What such a route does to its source is a matrix for each number of steps it may take.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import nir
import numpy as np

from rsc.discretise import NEURONS, delay_steps
from rsc.errors import UnsupportedNode
from rsc.graph import Topology
from rsc.layered import CONSTANT
from rsc.program import Semantics
from rsc.shapes import Shape
from rsc.stateless import STATELESS

POPULATIONS = (*NEURONS, nir.Threshold)
BIASED = (nir.Affine, nir.Conv1d, nir.Conv2d)
WRITTEN_OUT = 1 << 25  # float64 values that a written-out operator may take on the way, 256 MiB


@dataclasses.dataclass(frozen=True)
class Route:
    """A way into a population.

    Fields:
        source: population, Input node, or `CONSTANT`.
        origin: for `CONSTANT` the node that holds the bias, else "".
        nodes: nodes without state on the way, in the order of the flow, `origin` not among them.
        late: how many of its edges hand over the value of the step before.
    """

    source: str
    nodes: tuple[str, ...] = ()
    late: int = 0
    origin: str = ""

    def onward(self, name: str, late: int) -> Route:
        """The route extended over one more node."""
        return dataclasses.replace(self, nodes=(*self.nodes, name), late=self.late + late)


def routes(into: str, graph: Topology) -> list[Route]:
    """Every route into a population or an Output, in a fixed order.

    Raises:
        UnsupportedNode: nodes without state form a loop.
    """
    return _arriving(into, graph, ())


def routes_through(name: str, graph: Topology) -> list[Route]:
    """Every route that ends with what a node without state gives, its own bias among them; see `routes`."""
    return _leaving(name, graph, ())


def _arriving(name: str, graph: Topology, trail: tuple[str, ...]) -> list[Route]:
    found: list[Route] = []
    for before in graph.predecessors[name]:
        if before in trail:
            raise UnsupportedNode(
                f"'{before}' is part of a loop without neurons.",
                "Loihi has no place for what circulates in it.",
                "Put a neuron into the loop.",
            )
        late = int((before, name) in graph.delayed)
        found += [dataclasses.replace(r, late=r.late + late) for r in _leaving(before, graph, trail)]
    return found


def _leaving(name: str, graph: Topology, trail: tuple[str, ...]) -> list[Route]:
    """Every route that ends with what `name` gives."""
    node = graph.nodes[name]
    if isinstance(node, POPULATIONS) or (isinstance(node, nir.Input) and not graph.predecessors[name]):
        return [Route(name)]
    found = [r.onward(name, 0) for r in _arriving(name, graph, (*trail, name))]
    if isinstance(node, BIASED) and np.any(node.bias):
        found.append(Route(CONSTANT, origin=name))
    return found


def written_out(
    route: Route, graph: Topology, shapes: dict[str, Shape], semantics: Semantics
) -> dict[int, np.ndarray]:
    """The operator of a route: steps it takes -> matrix [out, in] on C-order flattened values, float64.

    Matrices that hold nothing but 0 are left out.

    Raises:
        UnsupportedNode: it is too large to be written out.
    """
    start = _start(route, graph, shapes)
    taps = {route.late: start}
    for name in route.nodes:
        node = graph.nodes[name]
        if len(start) * math.prod(shapes[name]) > WRITTEN_OUT:
            raise UnsupportedNode(
                f"From '{route.source}' over {', '.join(route.nodes)} there is no single Loihi connection.",
                f"Written out as a matrix it has {len(start)} columns and too many rows at '{name}'.",
                "Put neurons between the weighted nodes, or merge them.",
            )
        if isinstance(node, nir.Delay):
            taps = _delayed(taps, np.broadcast_to(delay_steps(node, semantics.dt), shapes[name]))
        else:
            taps = {k: applied(node, x, semantics) for k, x in taps.items()}
    matrices = {k: x.reshape(len(x), -1).T for k, x in sorted(taps.items())}
    return {k: m for k, m in matrices.items() if m.any()}


def _start(route: Route, graph: Topology, shapes: dict[str, Shape]) -> np.ndarray:
    """Unit vectors of the source, [n, *shape], or the one bias."""
    if route.source == CONSTANT:
        node: Any = graph.nodes[route.origin]
        bias = np.asarray(node.bias, np.float64)
        if not isinstance(node, nir.Affine):
            bias = bias.reshape(-1, *[1] * (node.weight.ndim - 2))
        return np.broadcast_to(bias, shapes[route.origin])[None].copy()
    size = math.prod(shapes[route.source])
    if size * size > WRITTEN_OUT and not route.nodes:
        raise UnsupportedNode(
            f"'{route.source}' has {size} neurons.",
            "Its copy is too large a matrix.",
            "Put a kernel behind it.",
        )
    if size * size > 4 * WRITTEN_OUT:
        raise UnsupportedNode(
            f"'{route.source}' has {size} neurons.", "Written out it is too large.", "Use convolutions."
        )
    return np.eye(size).reshape(size, *shapes[route.source])


def _delayed(taps: dict[int, np.ndarray], steps: np.ndarray) -> dict[int, np.ndarray]:
    found: dict[int, np.ndarray] = {}
    for k, x in taps.items():
        for d in np.unique(steps):
            part = np.where(steps == d, x, 0.0)
            found[k + int(d)] = found[k + int(d)] + part if k + int(d) in found else part
    return found


def applied(node: Any, x: np.ndarray, semantics: Semantics) -> np.ndarray:
    """What a node without state makes of x [N, ...], its bias left out."""
    if isinstance(node, nir.Affine):
        node = nir.Linear(node.weight)
    elif isinstance(node, BIASED):
        node = copy.copy(node)
        node.bias = np.zeros(len(node.weight))
    rule: Callable[[Any, np.ndarray, Semantics], np.ndarray] = STATELESS[type(node)]
    return rule(node, x, semantics)
