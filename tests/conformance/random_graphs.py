"""Random graphs of many primitives, with branches, self edges and cycles; parameters are dyadic.

Dyadic numbers keep sums exact in float64, so that results are equal to the last bit in any order
and a tie at a threshold stays a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import nir
import numpy as np
from graphs import DT, given, neuron, taken
from hypothesis import strategies as st

from rsc.program import Program, Semantics

STEPS, BATCH = 6, 2
FIRING = (nir.IF, nir.LIF, nir.CubaLIF)
KINDS = (nir.I, nir.LI, nir.CubaLI, *FIRING)
OTHERS = ("linear", "affine", "scale", "threshold", "delay")


def _number(draw: st.DrawFn, *shape: int, low: int = -8, high: int = 8, unit: float = 4.0) -> np.ndarray:
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    return rng.integers(low, high + 1, shape) / unit


def _taus(draw: st.DrawFn, n: int) -> np.ndarray:
    return 2.0 ** _number(draw, n, low=0, high=2, unit=1.0) * DT


def _neuron(draw: st.DrawFn, n: int, kinds: Sequence[type]) -> Any:
    kind = draw(st.sampled_from(kinds))
    fields: dict[str, Any] = {"r": _number(draw, n)}
    if kind in (nir.I, nir.IF):
        fields["r"] = fields["r"] / DT
    else:
        fields["v_leak"] = _number(draw, n, low=-2, high=2)
    for tau in {nir.LI: ("tau",), nir.LIF: ("tau",)}.get(kind, ()):
        fields[tau] = _taus(draw, n)
    if kind in (nir.CubaLI, nir.CubaLIF):
        fields |= {"tau_mem": _taus(draw, n), "tau_syn": _taus(draw, n), "w_in": _number(draw, n)}
    if kind in (nir.IF, nir.LIF, nir.CubaLIF):
        fields |= {"v_threshold": _number(draw, n, low=1), "v_reset": _number(draw, n, low=-2, high=2)}
    return neuron(kind, n, **fields)


def _node(draw: st.DrawFn, n: int, kinds: Sequence[type], others: Sequence[str]) -> Any:
    which = draw(st.sampled_from(("neuron", "neuron", "neuron", *others)))
    if which == "neuron":
        return _neuron(draw, n, kinds)
    if which == "linear":
        return nir.Linear(_number(draw, n, n))
    if which == "affine":
        return nir.Affine(_number(draw, n, n), _number(draw, n))
    if which == "scale":
        return nir.Scale(_number(draw, n))
    if which == "threshold":
        return nir.Threshold(_number(draw, n))
    return nir.Delay(_number(draw, n, low=0, high=3, unit=1.0) * DT)


def _edges(draw: st.DrawFn, names: list[str], nodes: dict[str, Any]) -> list[tuple[str, str]]:
    """A path through all nodes, some further edges forward, and edges back that leave a neuron."""
    path = ["input", *names, "output"]
    edges = list(pairwise(path))
    for i, a in enumerate(path[:-1]):
        for j, b in enumerate(path[1:], 1):
            forward = j > i + 1
            back = (
                j <= i
                and i > 0
                and j < len(path) - 1
                and isinstance(nodes[a], nir.LIF | nir.IF | nir.CubaLIF)
            )
            if (forward or back) and draw(st.integers(0, 2)) == 0:
                edges.append((a, b))
    return edges


def _rules(draw: st.DrawFn) -> dict[str, Any]:
    """The habits of other simulators, each as often as not; none of them half of the time."""
    rules = {
        "reset_step": ("same", "next", "hold"),
        "spikes_per_step": ("one", "many"),
        "clamp": ("none", "if", "all"),
        "v0": ("zero", "v_leak"),
        "input_gain": ("r", "leak", "one"),
        "current": ("new", "old"),
        "shift": ("none", "spikes", "weights"),
        "recurrent_bias": (True, False),
    }
    if draw(st.booleans()):
        return {}
    drawn: dict[str, Any] = {name: draw(st.sampled_from(choices)) for name, choices in rules.items()}
    resets = ("value", "zero") if drawn["reset_step"] == "hold" else ("value", "zero", "subtract")
    return drawn | {"reset": draw(st.sampled_from(resets))}


@st.composite
def programs(
    draw: st.DrawFn, plain: bool = False, kinds: Sequence[type] = KINDS, others: Sequence[str] = OTHERS
) -> Program:
    """A program of two to six nodes over vectors of one to three elements.

    Args:
        plain: under no special rules, else under any.
        kinds, others: what nodes it may have, neurons and nodes without state.
    """
    n = draw(st.integers(1, 3))
    names = [f"n{i}" for i in range(draw(st.integers(2, 6)))]
    nodes: dict[str, Any] = {"input": given((n,)), **{name: _node(draw, n, kinds, others) for name in names}}
    nodes["output"] = taken((n,))
    semantics = Semantics(
        DT,
        comparison=">" if plain else draw(st.sampled_from((">", ">="))),
        **({} if plain else _rules(draw)),
    )
    of = nir.NIRGraph(nodes, _edges(draw, names, nodes), type_check=False)
    return Program(of, semantics)


@st.composite
def frames(draw: st.DrawFn, program: Program) -> np.ndarray:
    """Dyadic frames [T, B, n]."""
    return _number(draw, STEPS, BATCH, *program.input_shape).astype(np.float32)
