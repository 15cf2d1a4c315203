"""One neuron between an Input and an Output, its trains by hand, and how targets are held against them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nir
import numpy as np

from rsc.hw_targets import deploy
from rsc.program import Program, Semantics
from rsc.results import Probe

DT = 2.0**-10  # s; a power of two, so that every number below is exact in every arithmetic
TARGETS = ("reference", "torch:float64", "torch:float32")
X = np.random.default_rng(31).integers(-8, 9, (12, 1, 1)) / 2
XS = X.ravel().tolist()
Step = Callable[[float, float], tuple[float, float]]


def given() -> nir.Input:
    return nir.Input({"input": np.array([1])})


def taken() -> nir.Output:
    return nir.Output({"output": np.array([1])})


def chain(node: Any) -> nir.NIRGraph:
    """input -> n -> output, one neuron."""
    nodes = {"input": given(), "n": node, "output": taken()}
    return nir.NIRGraph(nodes, [("input", "n"), ("n", "output")])


def neuron(kind: type, *shape: int, **changes: Any) -> Any:
    """A neuron node; by default alpha = 1/2 and beta = 1 under Euler with step DT (IF, I: beta = 1)."""
    integrators = (nir.I, nir.IF)
    values: dict[str, Any] = {"r": 1 / DT} if kind in integrators else {"r": 2.0, "v_leak": 0.0}
    if kind in (nir.LI, nir.LIF):
        values |= {"tau": 2 * DT}
    if kind in (nir.CubaLI, nir.CubaLIF):
        values |= {"tau_mem": 2 * DT, "tau_syn": 4 * DT, "w_in": 4.0}
    if kind in (nir.IF, nir.LIF, nir.CubaLIF):
        values |= {"v_threshold": 1.0, "v_reset": 0.0}
    fields: Any = {k: np.broadcast_to(v, shape).astype(float) for k, v in (values | changes).items()}
    return kind(**fields)


def lif(**changes: Any) -> Any:
    """alpha 1/2, beta 3/2, c 1/8, threshold 3/4, reset to 1/4."""
    fields = {"r": 3.0, "v_leak": 0.25, "v_threshold": 0.75, "v_reset": 0.25} | changes
    return neuron(nir.LIF, 1, **fields)


def h_of(v: float, x: float) -> float:
    return v / 2 + 1.5 * x + 0.125


def trains(step: Step, v: float = 0.0) -> tuple[list[float], list[float]]:
    """Spikes and membranes of one neuron: (z, v) <- step(v, x)."""
    spikes, membranes = [], []
    for x in XS:
        z, v = step(v, x)
        spikes.append(float(z))
        membranes.append(v)
    return spikes, membranes


def check(node: Any, rules: dict[str, Any], spikes: list[float], membranes: list[float]) -> None:
    """All float targets give these spikes and membranes to the last bit."""
    program = Program(chain(node), Semantics(DT, **rules))
    for target in TARGETS:
        result = deploy(program, target).run_frames(X, Probe(states=frozenset("n"), spikes=frozenset("n")))
        assert result.outputs["output"].ravel().tolist() == spikes, target
        assert result.spikes.states["n.v"].ravel().tolist() == membranes, target
        if hasattr(node, "v_threshold"):
            assert result.spikes.counts["n"].tolist() == [[sum(spikes)]]
            assert result.spikes.rasters["n"].ravel().tolist() == [z > 0 for z in spikes]


def distinct(node: Any, rules: dict[str, Any], *without: str) -> None:
    """The rules named change what comes out; else the test would not see them."""

    def run(given: dict[str, Any]) -> list[float]:
        program = Program(chain(node), Semantics(DT, **given))
        result = deploy(program, "reference").run_frames(X, Probe(states=frozenset("n")))
        return [*result.outputs["output"].ravel(), *result.spikes.states["n.v"].ravel()]

    for name in without:
        assert run(rules) != run({k: v for k, v in rules.items() if k != name})
