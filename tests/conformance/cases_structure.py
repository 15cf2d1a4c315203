"""Shapes of graphs: sums, branches, several ports, nesting, self edges, cycles and delays.

Signals are worked out here with numpy, one step at a time, from the rules in `rsc.delays`. Neurons are of
the kind that every tool reads (r = 1, back to 0) with a threshold off the grid of the values, so that a row
tells of its structure alone.
"""

from __future__ import annotations

from collections.abc import Callable

import nir
import numpy as np
from cases import Case, one
from graphs import chain, dyadic, given, graph, neuron, taken

W, REC, BIAS = 2 * dyadic(31, 3, 3), 2 * dyadic(32, 3, 3), np.array([0.75, 1.5, -0.25])
FRAMES = 2 * dyadic(33, 8, 4, 3)
LIMIT = 1 + 2.0**-20
ENDS = {"input": given((3,)), "output": taken((3,))}


def back(z: np.ndarray, t: int) -> np.ndarray:
    """What the recurrent Affine hands over: nothing before the first step."""
    return z @ REC.T + BIAS if t else 0 * z


def lif() -> nir.LIF:
    """u <- u/2 + x with u = 2 v, fires where u > LIMIT, back to 0."""
    return neuron(nir.LIF, 3, r=1.0, v_threshold=LIMIT / 2)


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
        z = (v > LIMIT).astype(float)
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
    joined = graph(ENDS | {"w": nir.Linear(W), "lost": lif()}, "input w", "w output", "w lost")
    two, into = {"w": nir.Linear(W), "r": nir.Linear(REC)}, ("input w", "input r", "w output", "r output")
    unfed = {"n": neuron(nir.LI, 3, v_leak=1.0), "b": nir.Affine(W, BIAS)}
    alone = graph(ENDS | unfed, "n output", "b output", "input output")
    charge = (1 - 0.5 ** np.arange(1, 9)).reshape(-1, 1, 1)
    return [
        several,
        one("two matrices into the output", graph(ENDS | two, *into), FRAMES, FRAMES @ (W + REC).T),
        one(
            "two matrices into a neuron",
            graph(ENDS | two | {"n": lif()}, "input w", "input r", "w n", "r n", "n output"),
            FRAMES,
            spiking(lambda x, z, t: x @ (W + REC).T, FRAMES),
        ),
        one("edges are summed", skip, FRAMES, FRAMES @ W.T + FRAMES),
        one("a branch that ends nowhere", joined, FRAMES, FRAMES @ W.T),
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


STRUCTURE = [*ports(), *nested()]
