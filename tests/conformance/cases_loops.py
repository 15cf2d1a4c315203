"""Cycles: where the delay sits, what is heard at the first step, and that no order of nodes matters."""

from __future__ import annotations

import dataclasses

import nir
import numpy as np
from cases import Case, one
from cases_structure import BIAS, ENDS, FRAMES, LIMIT, REC, W, back, lif, spiking, stepped
from graphs import DT, EULER, chain, graph, neuron

from rsc.program import Semantics


def loops() -> list[Case]:
    """A neuron and one matrix, with the delay in several places."""
    parts = ENDS | {"n": lif(), "r": nir.Affine(REC, BIAS)}
    loop = graph(parts, "input n", "n r", "r n", "n output")
    unbiased = graph(parts | {"r": nir.Linear(REC)}, "input n", "n r", "r n", "n output")
    shared = graph(parts, "input r", "r n", "n r", "n output")
    tapped = graph(parts, "input n", "n r", "r n", "r output")
    own = graph(ENDS | {"n": lif()}, "input n", "n n", "n output")
    at_once = spiking(lambda x, z, t: x + z @ REC.T + BIAS, FRAMES)
    later = spiking(lambda x, z, t: x + back(z, t), FRAMES)
    without = spiking(lambda x, z, t: x + z @ REC.T, FRAMES)
    joint = spiking(lambda x, z, t: (x + z) @ REC.T + BIAS, FRAMES)

    def named(a: str, b: str) -> Semantics:
        return Semantics(dt=DT, delayed_edges=((a, b),))

    early = Semantics(dt=DT, recurrent_bias=True)
    late = spiking(lambda x, z, t: x, np.concatenate([0 * FRAMES[:1], FRAMES[:-1]]))
    return [
        one("self edge", own, FRAMES, spiking(lambda x, z, t: x + z, FRAMES)),
        one("recurrent through a matrix without bias", unbiased, FRAMES, without),
        one("recurrent", loop, FRAMES, later),
        one("recurrent, bias from the first step on", loop, FRAMES, at_once, semantics=early),
        one("recurrent, delay named before the bias", loop, FRAMES, at_once, semantics=named("n", "r")),
        one("recurrent, delay named behind the bias", loop, FRAMES, later, semantics=named("r", "n")),
        one("recurrent, one matrix for input and spikes", shared, FRAMES, joint),
        one("recurrent matrix heard outside", tapped, FRAMES, later @ REC.T + BIAS),
        one(
            "delayed edge outside a cycle",
            chain((3,), (3,), n=lif()),
            FRAMES,
            late,
            semantics=named("input", "n"),
        ),
    ]


def loops_without_neuron() -> list[Case]:
    """A threshold that hears itself, and an average whose delay must be named."""
    nodes = {"t": nir.Threshold(np.zeros(3)), "r": nir.Linear(REC)}
    binary = graph(ENDS | nodes, "input t", "t r", "r t", "t output")
    accumulator = graph(ENDS | {"s": nir.Scale(np.full(3, 0.5))}, "input s", "s s", "s output")
    hold = Semantics(dt=DT, delayed_edges=(("s", "s"),))

    def decide(x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z = (x + z @ REC.T > 0).astype(float)
        return z, z

    def average(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        y = 0.5 * (x + y)
        return y, y

    averaged = stepped(average, FRAMES)
    return [
        one("cycle of a threshold", binary, FRAMES, stepped(decide, FRAMES)),
        one("cycle without neuron, delay named", accumulator, FRAMES, averaged, semantics=hold),
    ]


def populations(heard_at_once: bool = False) -> Case:
    """Two populations in a loop: each hears the other one step late; the input is heard at once.

    With the delay named on one edge alone, the second hears the first in the same step.
    """
    nodes = {"a": lif(), "b": lif(), "w": nir.Affine(W, BIAS), "r": nir.Affine(REC, BIAS)}
    of = graph(ENDS | nodes, "input a", "a w", "w b", "b r", "r a", "b output")
    va = vb = za = zb = np.zeros(FRAMES.shape[1:])
    outputs = []
    for t, x in enumerate(FRAMES):
        before = za
        va = va / 2 + x + back(zb, t)
        za, va = (va > LIMIT).astype(float), va * (va <= LIMIT)
        heard = za if heard_at_once else before
        vb = vb / 2 + (heard @ W.T + BIAS if t or heard_at_once else 0)
        zb, vb = (vb > LIMIT).astype(float), vb * (vb <= LIMIT)
        outputs.append(zb)
    expected = np.stack(outputs)
    if not heard_at_once:
        return one("two populations in a loop", of, FRAMES, expected)
    named = Semantics(dt=DT, delayed_edges=(("r", "a"),))
    return one("two populations, one of them heard at once", of, FRAMES, expected, semantics=named)


def skipping_loop() -> Case:
    """Two populations in a loop that both hear the input; one output."""
    nodes = {"a": lif(), "b": lif(), "w": nir.Linear(W), "r": nir.Linear(REC)}
    of = graph(ENDS | nodes, "input a", "input b", "a w", "w b", "b r", "r a", "b output")
    va = vb = za = zb = np.zeros(FRAMES.shape[1:])
    outputs = []
    for x in FRAMES:
        va, vb = va / 2 + x + zb @ REC.T, vb / 2 + x + za @ W.T
        za, zb = (va > LIMIT).astype(float), (vb > LIMIT).astype(float)
        va, vb = va * (1 - za), vb * (1 - zb)
        outputs.append(zb)
    return one("two populations in a loop, with a skip", of, FRAMES, np.stack(outputs))


def renamed(case: Case, order: str) -> Case:
    """The same graph under names that sort in this order; in a file nodes stand sorted by name."""
    names = {name: f"c{i}_{name}" for i, name in enumerate(order.split())} | {k: k for k in ENDS}
    nodes = {names[name]: node for name, node in case.graph.nodes.items()}
    edges = sorted((names[a], names[b]) for a, b in case.graph.edges)
    of = nir.NIRGraph(nodes, edges, type_check=False)
    return dataclasses.replace(case, name=f"{case.name}, sorted {order}", graph=of)


def synaptic_loop() -> Case:
    """CubaLIF, thresholds and gains per neuron, and a leaky integrator in one loop."""
    limits, gains = np.array([0.5, 1.0, 1.5]), np.array([1.0, 2.0, 4.0])
    cells = neuron(nir.CubaLIF, 3, v_threshold=limits, r=gains, w_in=4 * gains)
    nodes = {"n": cells, "w": nir.Affine(W, BIAS), "m": neuron(nir.LI, 3, r=gains), "r": nir.Linear(REC)}
    of = graph(ENDS | nodes, "input n", "n w", "w m", "m r", "r n", "m output")
    i = v = u = z = np.zeros(FRAMES.shape[1:])
    outputs = []
    for t, x in enumerate(FRAMES):
        i = 0.75 * i + gains * (x + u @ REC.T)
        u = u / 2 + gains / 2 * (z @ W.T + BIAS if t else 0)
        v = v / 2 + gains / 2 * i
        z = (v > limits).astype(float)
        v = v * (1 - z)
        outputs.append(u)
    return one("two kinds of neuron in a loop", of, FRAMES, np.stack(outputs), tolerance=1e-5)


def delay_loop(steps: np.ndarray) -> Case:
    """A Delay breaks a cycle by itself: y(t) = x(t) + y(t - d) / 2, and nothing is delayed besides."""
    nodes = {"d": nir.Delay(steps * DT), "s": nir.Scale(np.full(3, 0.5)), "j": nir.Scale(np.ones(3))}
    of = graph(ENDS | nodes, "input j", "j d", "d s", "s j", "j output")
    y = np.zeros_like(FRAMES)
    for t in range(len(y)):
        for n, d in enumerate(steps):
            y[t, :, n] = FRAMES[t, :, n] + (y[t - d, :, n] / 2 if t >= d else 0)
    return one(f"cycle through a Delay of {steps.tolist()}", of, FRAMES, y)


def delayed_recurrence() -> Case:
    """A neuron that hears itself through a Delay of two steps hears exactly that."""
    nodes = {"n": lif(), "d": nir.Delay(np.full(3, 2 * DT)), "r": nir.Linear(REC)}
    of = graph(ENDS | nodes, "input n", "n d", "d r", "r n", "n output")
    past = [np.zeros(FRAMES.shape[1:])] * 2

    def currents(x: np.ndarray, z: np.ndarray, t: int) -> np.ndarray:
        if t:
            past.append(z)
        return x + past[t] @ REC.T

    return one("recurrent through a Delay", of, FRAMES, spiking(currents, FRAMES), semantics=EULER)


LOOPS = [
    *loops(),
    *loops_without_neuron(),
    populations(),
    populations(heard_at_once=True),
    skipping_loop(),
    renamed(skipping_loop(), "r a w b"),
    renamed(skipping_loop(), "b w a r"),
    synaptic_loop(),
    delay_loop(np.full(3, 2)),
    delay_loop(np.array([1, 3, 2])),
    delayed_recurrence(),
]
