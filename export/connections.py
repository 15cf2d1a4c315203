"""One route into a population as connections: a convolution, a matrix, or the operator written out."""

from __future__ import annotations

import math
from typing import Any

import nir
import numpy as np

from rsc.discretise import delay_steps
from rsc.export.kernels import joined_kernel, pair
from rsc.export.routes import Route, written_out
from rsc.graph import Topology
from rsc.layered import Connection
from rsc.program import Semantics
from rsc.shapes import Shape, window

POOLS = (nir.AvgPool2d, nir.SumPool2d)


def connections(
    route: Route,
    graph: Topology,
    shapes: dict[str, Shape],
    shape: Shape,
    gain: np.ndarray,
    semantics: Semantics,
) -> list[Connection]:
    """Connections that do to the source what the route does, times a gain per neuron of `shape`.

    Raises:
        UnsupportedNode: the operator would have to be written out and is too large.
    """
    graded = isinstance(graph.nodes[route.source], nir.Input)
    whole = np.broadcast_to(gain, shape)
    short = _Short(route, graph, shapes, semantics)
    found = short.convolution(shape, whole) or short.matrix(shape, whole)
    if found is not None:
        return [Connection(route.source, source_shape=shapes[route.source], graded=graded, **found)]
    taps = written_out(route, graph, shapes, semantics)
    made = {k: matrix * whole.reshape(-1, 1) for k, matrix in taps.items()}
    return [
        Connection(route.source, "dense", matrix, shapes[route.source], delay=delay, graded=graded)
        for matrix, delay in _merged(made)
    ]


def _merged(taps: dict[int, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(matrix, delay) of an operator; one with a delay per synapse where no synapse has two."""
    if len(taps) > 1 and sum((m != 0).astype(int) for m in taps.values()).max() == 1:
        total = sum(taps.values())
        least = min(taps)  # also of what is no synapse
        delay = least + sum((k - least) * (m != 0).astype(np.int32) for k, m in taps.items())
        return [(np.asarray(total), np.asarray(delay, np.int32))]
    return [(m, np.array(k, np.int32)) for k, m in taps.items()]


class _Short:
    """A route of one matrix, or of convolutions, with pooling before and factors and delays for all alike."""

    def __init__(self, route: Route, graph: Topology, shapes: dict[str, Shape], semantics: Semantics) -> None:
        self.source, self.shapes, self.nodes = shapes[route.source], shapes, graph.nodes
        self.names, self.delay, self.factor = [], route.late, 1.0
        self.simple = True
        for name in route.nodes:
            node = graph.nodes[name]
            if isinstance(node, nir.Delay):
                steps = np.unique(delay_steps(node, semantics.dt))
                self.delay += int(steps[0])
                self.simple &= len(steps) == 1
            elif isinstance(node, nir.Scale) and np.ptp(node.scale) == 0:
                self.factor *= float(np.asarray(node.scale).flat[0])
            elif not isinstance(node, nir.Input | nir.Output):
                self.names.append(name)

    def convolution(self, shape: Shape, gain: np.ndarray) -> dict[str, Any] | None:
        """Fields of a "conv" connection: [pooling,] Conv2d that are one, or a kernel of 1 per channel."""
        kinds = [type(self.nodes[name]) for name in self.names]
        if not self.simple or len(self.source) != 3 or len(shape) != 3 or not _per_channel(gain):
            return None
        pooled = bool(kinds) and issubclass(kinds[0], POOLS)
        rest = self.names[pooled:]
        if any(kind is not nir.Conv2d for kind in kinds[pooled:]):
            return None
        pool, factor = self._pool(self.names[0]) if pooled else (None, 1.0)
        if pooled and pool is None:
            return None
        fields: dict[str, Any] = {"kind": "conv", "pool": pool, "delay": np.array(self.delay, np.int32)}
        if rest:
            kernel = joined_kernel(self.nodes[name] for name in rest)
            if kernel is None:
                return None
            weight = kernel.weight
            fields |= {k: getattr(kernel, k) for k in ("stride", "padding", "dilation", "groups")}
        else:
            weight, fields["groups"] = np.ones((shape[0], 1, 1, 1)), shape[0]
        weight = weight * (gain[:, 0, 0] * factor * self.factor).reshape(-1, 1, 1, 1)
        return fields | {"weight": weight}

    def matrix(self, shape: Shape, gain: np.ndarray) -> dict[str, Any] | None:
        """Fields of a "dense" connection: [pooling,] Flatten or nothing, then a matrix."""
        *before, last = self.names or [""]
        node = self.nodes.get(last)
        fits = isinstance(node, nir.Affine | nir.Linear) and node.weight.ndim == 2
        if not self.simple or not fits or len(shape) != 1:
            return None
        pool, factor = None, 1.0
        if before and isinstance(self.nodes[before[0]], POOLS):
            pool, factor = self._pool(before[0])
            if pool is None:
                return None
            before = before[1:]
        if any(not isinstance(self.nodes[name], nir.Flatten) for name in before):
            return None
        arriving = self.shapes[before[-1]] if before else (self.source if pool is None else ())
        if len(arriving) != 1:
            return None
        weight = np.asarray(node.weight, np.float64) * gain.reshape(-1, 1) * (factor * self.factor)
        delay = np.array(self.delay, np.int32)
        return {"kind": "dense", "weight": weight, "pool": pool, "delay": delay}

    def _pool(self, name: str) -> tuple[tuple[tuple[int, int], tuple[int, int]] | None, float]:
        """(kernel, stride) and the factor of an unpadded pooling, None if it is padded."""
        node: Any = self.nodes[name]
        view = window(node)
        if any(any(pair) for pair in view.padding) or len(self.source) != 3:
            return None, 1.0
        factor = 1.0 / math.prod(view.kernel) if isinstance(node, nir.AvgPool2d) else 1.0
        return (pair(view.kernel), pair(view.stride)), factor


def _per_channel(gain: np.ndarray) -> bool:
    return bool((gain == gain[:, :1, :1]).all())
