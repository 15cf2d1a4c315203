"""How r of a neuron (of an IF r dt), which Norse ignores, enters a network for Norse.

| where | when | what it costs |
|---|---|---|
| unit of the membrane, v = r u | r is a power of two | nothing: no bit changes |
| the weights before | matrices and kernels feed this neuron alone | nothing |
| a diagonal matrix or kernel in front | otherwise | a node, up to `MAX_DIAGONAL` neurons |
| unit of the membrane | otherwise, r > 0 | ties at a threshold that rounding breaks |

CubaLIF has r in Norse, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import nir
import numpy as np

from rsc.discretise import RESETTING, effective_r
from rsc.graph import Topology
from rsc.program import Semantics
from rsc.shapes import Shape

MAX_DIAGONAL = 4096  # neurons in one axis; their matrix takes 128 MiB
_MATRICES = (nir.Affine, nir.Linear)


@dataclasses.dataclass(frozen=True, eq=False)
class Gains:
    """Where each r goes; arrays that broadcast to the shape of the neuron, per output for weights.

    Fields:
        unit: neuron -> u, its membrane is u times Norse's; every neuron has one.
        weights: weighted node -> what its outputs are multiplied by.
        before: neuron -> what a node in front of it multiplies by.
        refused: neurons of which r fits nowhere.
        rounded: neurons whose unit is no power of two.
    """

    unit: Mapping[str, np.ndarray]
    weights: Mapping[str, np.ndarray]
    before: Mapping[str, np.ndarray]
    refused: tuple[str, ...]
    rounded: tuple[str, ...]


def gains(graph: Topology, arriving: Mapping[str, Shape], semantics: Semantics) -> Gains:
    """Where r goes in each spiking neuron of a graph, given the shapes that arrive at its nodes."""
    unit: dict[str, np.ndarray] = {}
    weights: dict[str, np.ndarray] = {}
    before: dict[str, np.ndarray] = {}
    refused, rounded = [], []
    for name, node in graph.nodes.items():
        if not isinstance(node, RESETTING):
            continue
        factor, shape = _factor(node, semantics), arriving[name]
        unit[name] = np.ones(())
        if _powers_of_two(factor):
            unit[name] = factor
        elif (folded := _folded(name, factor, shape, graph)) is not None:
            weights |= folded
        elif is_diagonal(factor, shape) and shape[0] <= MAX_DIAGONAL:
            before[name] = factor
        elif (factor > 0).all():
            unit[name] = factor
            rounded.append(name)
        else:
            refused.append(name)
    return Gains(unit, weights, before, tuple(refused), tuple(rounded))


def _factor(node: Any, semantics: Semantics) -> np.ndarray:
    """What Norse leaves out of the input of a neuron."""
    if isinstance(node, nir.CubaLIF):
        return np.ones(())
    r = effective_r(node, semantics)
    return r * semantics.dt if isinstance(node, nir.IF) else r


def _powers_of_two(factor: np.ndarray) -> bool:
    return bool((np.frexp(factor)[0] == 0.5).all())


def _folded(name: str, factor: np.ndarray, shape: Shape, graph: Topology) -> dict[str, np.ndarray] | None:
    """Factors per output of all nodes that feed a neuron, None unless they are weights and feed it alone."""
    found = {}
    for source in graph.predecessors[name]:
        node, full = graph.nodes[source], np.broadcast_to(factor, shape)
        if graph.successors[source] != (name,):
            return None
        if isinstance(node, _MATRICES) and node.weight.ndim == 2:
            per_output = full.reshape(-1, shape[-1])
            if (per_output != per_output[:1]).any():
                return None
            found[source] = per_output[0]
        elif isinstance(node, nir.Conv2d) and is_diagonal(factor, shape):
            found[source] = full[:, 0, 0]
        else:
            return None
    return found or None


def is_diagonal(factor: np.ndarray, arriving: Shape) -> bool:
    """Whether a matrix or a kernel of one site multiplies values of this shape by `factor`."""
    full = np.broadcast_to(factor, arriving)
    return len(arriving) == 1 or (len(arriving) == 3 and bool((full == full[:, :1, :1]).all()))


def diagonal(factor: Any, arriving: Shape) -> nir.NIRNode:
    """A node that multiplies element by element; see `is_diagonal`."""
    full = np.broadcast_to(np.asarray(factor, np.float64), arriving)
    if len(arriving) == 1:
        return nir.Linear(np.diag(full))
    weight, spatial = np.diag(full[:, 0, 0])[:, :, None, None], (arriving[1], arriving[2])
    return nir.Conv2d(spatial, weight, 1, 0, 1, 1, np.zeros(arriving[0]))
