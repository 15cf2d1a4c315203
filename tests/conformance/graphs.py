"""Short spellings for NIR nodes and graphs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import nir
import numpy as np
from rule_networks import DT, neuron

from rsc.program import Program, Semantics

__all__ = [
    "DT",
    "EULER",
    "chain",
    "conv1d",
    "conv2d",
    "dyadic",
    "given",
    "graph",
    "neuron",
    "pool",
    "program",
    "taken",
]

EULER = Semantics(dt=DT)


def given(shape: tuple[int, ...]) -> nir.Input:
    return nir.Input({"input": np.array(shape)})


def taken(shape: tuple[int, ...]) -> nir.Output:
    return nir.Output({"output": np.array(shape)})


def graph(nodes: Mapping[str, Any], *edges: str) -> nir.NIRGraph:
    """A graph from nodes and edges written "a b"; unchecked, as nir refuses grouped convolutions."""
    pairs = [(edge.split()[0], edge.split()[1]) for edge in edges]
    return nir.NIRGraph(dict(nodes), pairs, type_check=False)


def chain(shape: tuple[int, ...], out: tuple[int, ...], **nodes: Any) -> nir.NIRGraph:
    """input -> nodes in the order given -> output."""
    ends = {"input": given(shape), **nodes, "output": taken(out)}
    return graph(ends, *(f"{a} {b}" for a, b in pairwise(ends)))


def program(of: nir.NIRGraph, semantics: Semantics = EULER) -> Program:
    return Program(of, semantics)


def conv2d(weight: np.ndarray, spatial: tuple[int, int], **changes: Any) -> nir.Conv2d:
    fields = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "bias": np.zeros(len(weight))} | changes
    return nir.Conv2d(spatial, weight, **fields)


def conv1d(weight: np.ndarray, size: int, **changes: Any) -> nir.Conv1d:
    fields = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "bias": np.zeros(len(weight))} | changes
    return nir.Conv1d(size, weight, **fields)


def pool(kind: type, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> Any:
    return kind(np.array(kernel), np.array(stride), np.array(padding))


def dyadic(seed: int, *shape: int, scale: int = 8) -> np.ndarray:
    """Multiples of 1/scale in [-1, 1]: sums of them are exact, so ties at a threshold are real ties."""
    return np.random.default_rng(seed).integers(-scale, scale + 1, shape) / scale
