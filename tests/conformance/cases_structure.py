"""Shapes of graphs: sums, branches, several ports, nesting, self edges, cycles and delays.

Signals are worked out here with numpy, one step at a time, from the rules in `rsc.graph`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import nir
import numpy as np
from cases import Case, one
from graphs import DT, EULER, chain, dyadic, given, graph, neuron, taken

from rsc.program import Semantics

W, REC, BIAS = 2 * dyadic(31, 3, 3), 2 * dyadic(32, 3, 3), np.array([0.75, 1.5, -0.25])
FRAMES = 2 * dyadic(33, 8, 4, 3)
ENDS = {"input": given((3,)), "output": taken((3,))}


def back(z: np.ndarray, t: int) -> np.ndarray:
    """What the recurrent Affine hands over: nothing before the first step."""
    return z @ REC.T + BIAS if t else 0 * z


def lif() -> nir.LIF:
    """v <- v/2 + x, fires above 1, back to 0."""
    return neuron(nir.LIF, 3)


def stepped(
    step: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]], frames: np.ndarray
) -> np.ndarray:
    """Outputs of `step(x, state) -> (output, state)`, state starting at 0 and shaped as one frame."""
    state, outputs = np.zeros(frames.shape[1:]), []
    for x in frames:
        output, state = step(x, state)
        outputs.append(output)
    return np.stack(outputs)


def spiking(currents: Callable[[np.ndarray, np.ndarray, int], np.ndarray], frames: np.ndarray) -> np.ndarray:
    """Spikes of LIFs whose input depends on the frame, on their own last spikes, and on the step."""
    v, z, outputs = np.zeros(frames.shape[1:]), np.zeros(frames.shape[1:]), []
    for t, x in enumerate(frames):
        v = v / 2 + currents(x, z, t)
        z = (v > 1).astype(float)
        v = v * (1 - z)
        outputs.append(z)
    return np.stack(outputs)


def ports() -> list[Case]:
    left, right = dyadic(34, 4, 2, 3), dyadic(35, 4, 2, 3)
    nodes = {"a": given((3,)), "b": given((3,)), "w": nir.Linear(W), "p": taken((3,)), "q": taken((3,))}
    of = graph(nodes, "a w", "w p", "b p", "b q")
    several = Case(
        "two inputs, two outputs", of, {"a": left, "b": right}, {"p": left @ W.T + right, "q": right}
    )
    skip = graph(ENDS | {"w": nir.Linear(W)}, "input w", "w output", "input output")
    branch = {"w": nir.Linear(W), "s": nir.Scale(np.full(3, 2.0)), "lost": lif()}
    joined = graph(ENDS | branch, "input w", "input s", "w output", "s output", "w lost")
    two, into = {"w": nir.Linear(W), "r": nir.Linear(REC)}, ("input w", "input r", "w output", "r output")
    unfed = {"n": neuron(nir.LI, 3, v_leak=1.0), "b": nir.Affine(W, BIAS)}
    alone = graph(ENDS | unfed, "n output", "b output", "input output")
    charge = (1 - 0.5 ** np.arange(1, 9)).reshape(-1, 1, 1)
    return [
        several,
        one("two matrices into one node", graph(ENDS | two, *into), FRAMES, FRAMES @ (W + REC).T),
        one("edges are summed", skip, FRAMES, FRAMES @ W.T + FRAMES),
        one("a branch that ends nowhere", joined, FRAMES, FRAMES @ W.T + 2 * FRAMES),
        one("nodes that nothing feeds", alone, FRAMES, FRAMES + charge + BIAS),
    ]


def nested() -> list[Case]:
    inner = chain((3,), (3,), w=nir.Linear(W), n=lif())
    flat = spiking(lambda x, z, t: x @ W.T, FRAMES)
    twice = chain((3,), (3,), g=chain((3,), (3,), h=inner))
    loop = graph(ENDS | {"n": lif(), "r": nir.Affine(REC, BIAS)}, "input n", "n r", "r n", "n output")
    recurrent = spiking(lambda x, z, t: x + back(z, t), FRAMES)
    around = graph(ENDS | {"g": inner, "r": nir.Linear(REC)}, "input g", "g r", "r g", "g output")
    outside = spiking(lambda x, z, t: (x + z @ REC.T) @ W.T, FRAMES)
    return [
        one("nested graph", chain((3,), (3,), g=inner), FRAMES, flat),
        one("nested twice", twice, FRAMES, flat),
        one("nested recurrent", chain((3,), (3,), g=loop), FRAMES, recurrent),
        one("recurrent around a nested graph", around, FRAMES, outside),
    ]


def cycles() -> list[Case]:
    own = graph(ENDS | {"n": lif()}, "input n", "n n", "n output")
    loop = graph(ENDS | {"n": lif(), "r": nir.Affine(REC, BIAS)}, "input n", "n r", "r n", "n output")
    shared = graph(ENDS | {"n": lif(), "r": nir.Affine(REC, BIAS)}, "input r", "r n", "n r", "n output")
    tapped = graph(ENDS | {"n": lif(), "r": nir.Affine(REC, BIAS)}, "input n", "n r", "r n", "r output")
    early = Semantics(dt=DT, recurrent_bias=True)
    before = Semantics(dt=DT, delayed_edges=(("n", "r"),))
    plain_loop = graph(ENDS | {"n": lif(), "r": nir.Linear(REC)}, "input n", "n r", "r n", "n output")
    behind = Semantics(dt=DT, delayed_edges=(("r", "n"),))
    ahead = Semantics(dt=DT, delayed_edges=(("input", "n"),))
    plain = chain((3,), (3,), n=lif())
    binary = graph(
        ENDS | {"t": nir.Threshold(np.zeros(3)), "r": nir.Linear(REC)}, "input t", "t r", "r t", "t output"
    )
    accumulator = graph(ENDS | {"s": nir.Scale(np.full(3, 0.5))}, "input s", "s s", "s output")
    hold = Semantics(dt=DT, delayed_edges=(("s", "s"),))

    def decide(x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z = (x + z @ REC.T > 0).astype(float)
        return z, z

    def average(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        y = 0.5 * (x + y)
        return y, y

    return [
        one("self edge", own, FRAMES, spiking(lambda x, z, t: x + z, FRAMES)),
        one(
            "recurrent through a matrix without bias",
            plain_loop,
            FRAMES,
            spiking(lambda x, z, t: x + z @ REC.T, FRAMES),
        ),
        one("recurrent", loop, FRAMES, spiking(lambda x, z, t: x + back(z, t), FRAMES)),
        one(
            "recurrent, bias from the first step on",
            loop,
            FRAMES,
            spiking(lambda x, z, t: x + z @ REC.T + BIAS, FRAMES),
            semantics=early,
        ),
        one(
            "recurrent, delay named before the bias",
            loop,
            FRAMES,
            spiking(lambda x, z, t: x + z @ REC.T + BIAS, FRAMES),
            semantics=before,
        ),
        one(
            "recurrent, delay named behind the bias",
            loop,
            FRAMES,
            spiking(lambda x, z, t: x + back(z, t), FRAMES),
            semantics=behind,
        ),
        one(
            "recurrent, one matrix for input and spikes",
            shared,
            FRAMES,
            spiking(lambda x, z, t: (x + z) @ REC.T + BIAS, FRAMES),
        ),
        one("recurrent matrix heard outside", tapped, FRAMES, recurrent_currents()),
        one(
            "delayed edge outside a cycle",
            plain,
            FRAMES,
            spiking(lambda x, z, t: x, np.concatenate([0 * FRAMES[:1], FRAMES[:-1]])),
            semantics=ahead,
        ),
        one("cycle of a threshold", binary, FRAMES, stepped(decide, FRAMES)),
        one(
            "cycle without neuron, delay named", accumulator, FRAMES, stepped(average, FRAMES), semantics=hold
        ),
        populations(),
        populations(heard_at_once=True),
        skipping_loop(),
        reordered(skipping_loop(), "output", "input", "r", "a", "w", "b"),
        reordered(skipping_loop(), "a", "b", "input", "output", "r", "w"),
        synaptic_loop(),
        delay_loop(np.full(3, 2)),
        delay_loop(np.array([1, 3, 2])),
        delayed_recurrence(),
    ]


def recurrent_currents() -> np.ndarray:
    """What the recurrent matrix hands to its neurons, and to the output, at every step."""
    heard = []

    def currents(x: np.ndarray, z: np.ndarray, t: int) -> np.ndarray:
        heard.append(back(z, t))
        return x + heard[-1]

    spiking(currents, FRAMES)
    return np.stack(heard)


def populations(heard_at_once: bool = False) -> Case:
    """Two populations in a loop: each hears the other one step late; the input is heard at once.

    With the delay named on one edge alone, the second hears the first in the same step.
    """
    nodes = {"a": lif(), "b": lif(), "w": nir.Affine(W, BIAS), "r": nir.Affine(REC, BIAS), "q": taken((3,))}
    of = graph(ENDS | nodes, "input a", "a w", "w b", "b r", "r a", "b output", "a q")
    va = vb = za = zb = np.zeros(FRAMES.shape[1:])
    outputs: dict[str, list[np.ndarray]] = {"output": [], "q": []}
    for t, x in enumerate(FRAMES):
        before = za
        va = va / 2 + x + back(zb, t)
        za, va = (va > 1).astype(float), va * (va <= 1)
        heard = za if heard_at_once else before
        vb = vb / 2 + (heard @ W.T + BIAS if t or heard_at_once else 0)
        zb, vb = (vb > 1).astype(float), vb * (vb <= 1)
        outputs["output"].append(zb)
        outputs["q"].append(za)
    expected = {name: np.stack(values) for name, values in outputs.items()}
    if not heard_at_once:
        return Case("two populations in a loop", of, FRAMES, expected)
    named = Semantics(dt=DT, delayed_edges=(("r", "a"),))
    return Case("two populations, one of them heard at once", of, FRAMES, expected, named)


def skipping_loop() -> Case:
    """Two populations in a loop that both hear the input; one output."""
    nodes = {"a": lif(), "b": lif(), "w": nir.Linear(W), "r": nir.Linear(REC)}
    of = graph(ENDS | nodes, "input a", "input b", "a w", "w b", "b r", "r a", "b output")
    va = vb = za = zb = np.zeros(FRAMES.shape[1:])
    outputs = []
    for x in FRAMES:
        va, vb = va / 2 + x + zb @ REC.T, vb / 2 + x + za @ W.T
        za, zb = (va > 1).astype(float), (vb > 1).astype(float)
        va, vb = va * (1 - za), vb * (1 - zb)
        outputs.append(zb)
    return one("two populations in a loop, with a skip", of, FRAMES, np.stack(outputs))


def reordered(case: Case, *order: str) -> Case:
    """The same graph with its nodes and edges in another order."""
    nodes = {name: case.graph.nodes[name] for name in order}
    of = nir.NIRGraph(nodes, sorted(case.graph.edges), type_check=False)
    return dataclasses.replace(case, name=f"{case.name}, {order[0]} first", graph=of)


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


STRUCTURE = [*ports(), *nested(), *cycles()]
