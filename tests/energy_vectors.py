"""Test vectors TV-E (binary events) and TV-D (direct coding): a closed-form network with its counts.

conv1 2->4 k3 p1 -> LIF -> conv2 4->6 k3 s2 -> LIF -> fc 54->10 on 8x8, T = 8. LIF: v = v/2 + I,
fires at v >= 1, v = v - s. All values are dyadic, so every sum is exact in any order. Nothing in this
file uses the package under test except the value types in `program`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import nir
import numpy as np

from rsc.program import EncoderSpec, Program, Semantics
from rsc.quantiser import Quantiser
from rsc.results import SpikeRecord

T = 8


def closed_form(
    shape: tuple[int, ...], k: int, off: int, mod: int, f: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """f((i k + off) mod m) over the C-order index i."""
    i = np.arange(int(np.prod(shape)), dtype=np.int64)
    return f((i * k + off) % mod).reshape(shape)


def weights(shape: tuple[int, ...], k: int, off: int, div: int) -> np.ndarray:
    return closed_form(shape, k, off, 17, lambda r: (r - 8) / div)


W1, B1 = weights((4, 2, 3, 3), 37, 11, 16), weights((4,), 5, 3, 128)
W2, B2 = weights((6, 4, 3, 3), 41, 5, 16), weights((6,), 7, 1, 128)
W3, B3 = weights((10, 54), 29, 2, 16), weights((10,), 3, 9, 128)
W4 = weights((10, 10), 13, 6, 16)
XE = closed_form((T, 1, 2, 8, 8), 7919, 104729, 101, lambda r: (r < 30) * 1.0)
XD = np.repeat(closed_form((1, 2, 8, 8), 5743, 911, 97, lambda r: np.clip(r - 33, 0, 63) / 64.0)[None], T, 0)


def taps(x: tuple[int, ...], w: tuple[int, ...], s: int, p: int, d: int = 1, g: int = 1) -> Iterator[tuple]:
    """Every in-bounds (output o, y, z; weight c, a, b; input channel, i, j) of a convolution.

    Args:
        x, w: shapes [N, C, H, W] and [C_out, C_in / g, K, K].
        s, p, d, g: stride, padding, dilation, groups.
    """
    _, ci, height, width = x
    co, per_group, k, _ = w
    ho, wo = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n in (height, width))
    for o, y, z, c, a, b in np.ndindex(co, ho, wo, per_group, k, k):
        i, j = y * s - p + a * d, z * s - p + b * d
        if 0 <= i < height and 0 <= j < width:
            yield o, y, z, c, a, b, (o // (co // g)) * (ci // g) + c, i, j


def conv(x: np.ndarray, w: np.ndarray, b: np.ndarray, s: int, p: int) -> np.ndarray:
    k = w.shape[2]
    ho = (x.shape[2] + 2 * p - k) // s + 1
    out = np.zeros((len(x), w.shape[0], ho, ho)) + b[None, :, None, None]
    for o, y, z, c, a, bb, ch, i, j in taps(x.shape, w.shape, s, p):
        out[:, o, y, z] += w[o, c, a, bb] * x[:, ch, i, j]
    return out


def lif(current: np.ndarray) -> np.ndarray:
    """Spikes [T, ...] of currents [T, ...]."""
    v = np.zeros(current.shape[1:])
    spikes = np.zeros(current.shape)
    for t, i in enumerate(current):
        v = 0.5 * v + i
        spikes[t] = v >= 1
        v = v - spikes[t]
    return spikes


@dataclasses.dataclass(frozen=True)
class Run:
    """One vector: frames and rasters [T, 1, ...], output [T, 1, 10]."""

    x: np.ndarray
    s1: np.ndarray
    s2: np.ndarray
    out: np.ndarray

    @property
    def rasters(self) -> dict[str, np.ndarray]:
        return {"input": self.x != 0, "lif1": self.s1 != 0, "lif2": self.s2 != 0}

    def record(self, rasters: bool = True) -> SpikeRecord:
        counts = {k: r.sum(0, dtype=np.int64) for k, r in self.rasters.items()}
        return SpikeRecord(counts, self.rasters if rasters else {})


def simulate(x: np.ndarray) -> Run:
    """The network on frames [T, 1, 2, 8, 8]."""
    s1 = lif(np.stack([conv(f, W1, B1, 1, 1) for f in x]))
    s2 = lif(np.stack([conv(f, W2, B2, 2, 0) for f in s1]))
    return Run(x, s1, s2, s2.reshape(T, 1, -1) @ W3.T + B3)


def simulate_recurrent(s2: np.ndarray) -> np.ndarray:
    """Spikes [T, 1, 10] of fc -> LIF(10) with W4 on its own spikes of the step before."""
    v, last, spikes = np.zeros((1, 10)), np.zeros((1, 10)), []
    for frame in s2.reshape(T, 1, -1):
        v = 0.5 * v + frame @ W3.T + B3 + last @ W4.T
        last = (v >= 1) * 1.0
        v = v - last
        spikes.append(last)
    return np.stack(spikes)


def lif_node(shape: tuple[int, ...]) -> nir.LIF:
    """v = v/2 + I with dt = 1e-3: tau = 2 dt, r = 2."""
    ones = np.ones(shape)
    return nir.LIF(tau=2e-3 * ones, r=2 * ones, v_leak=0 * ones, v_threshold=ones)


def conv_node(
    w: np.ndarray, b: np.ndarray, size: tuple[int, int], s: int, p: int, d: int = 1, g: int = 1
) -> nir.Conv2d:
    return nir.Conv2d(input_shape=size, weight=w, stride=s, padding=p, dilation=d, groups=g, bias=b)


SEMANTICS = Semantics(dt=1e-3, reset="subtract", comparison=">=", readout="sum")


def wrap(nodes: dict, edges: list[tuple[str, str]], encoder: EncoderSpec | None = None) -> Program:
    return Program(nir.NIRGraph(nodes, edges, type_check=False), SEMANTICS, encoder)


def program(encoder: EncoderSpec | None = None) -> Program:
    """The network as a NIR program."""
    nodes = {
        "input": nir.Input({"input": np.array([2, 8, 8])}),
        "conv1": conv_node(W1, B1, (8, 8), 1, 1),
        "lif1": lif_node((4, 8, 8)),
        "conv2": conv_node(W2, B2, (8, 8), 2, 0),
        "lif2": lif_node((6, 3, 3)),
        "flatten": nir.Flatten({"input": np.array([6, 3, 3])}, 0),
        "fc": nir.Affine(W3, B3),
        "output": nir.Output({"output": np.array([10])}),
    }
    names = list(nodes)
    return wrap(nodes, list(itertools.pairwise(names)), encoder)


def recurrent_program() -> Program:
    """fc -> LIF(10) with W4 from its own spikes; the input is the flattened spikes of lif2."""
    nodes = {
        "input": nir.Input({"input": np.array([54])}),
        "fc": nir.Affine(W3, B3),
        "lif3": lif_node((10,)),
        "rec": nir.Linear(W4),
        "output": nir.Output({"output": np.array([10])}),
    }
    edges = [("input", "fc"), ("fc", "lif3"), ("lif3", "rec"), ("rec", "lif3"), ("lif3", "output")]
    return wrap(nodes, edges)


S = 16384  # integer weight units per unit of the network: every weight, bias and state is whole


def feedback_node(shape: tuple[int, ...]) -> nir.CubaLIF:
    """i = i/2 + x, v = i: the membrane forgets at once, so a reset of it changes nothing.

    Fires at v > 1 - 1/S; all values of the network are multiples of 1/S, so that is v >= 1.
    """
    ones = np.ones(shape)
    return nir.CubaLIF(
        tau_syn=2e-3 * ones,
        tau_mem=1e-3 * ones,
        r=ones,
        v_leak=0 * ones,
        v_threshold=(1 - 1 / S) * ones,
        w_in=2 * ones,
    )


def feedback_program(input_scale: float = 1.0) -> Program:
    """The same network for machines that reset to zero and fire at ">": a synapse takes the threshold away.

    Each neuron hears its own spike of the step before with weight -1/2, what is left of -1 after one more
    step of decay: i_t = i_{t-1}/2 + x_t - s_{t-1}/2 is v_t = (v_{t-1} - s_{t-1})/2 + x_t.

    Args:
        input_scale: integers per unit of the frames, on machines that count in integers.
    """
    nodes = dict(program().graph.nodes) | {"lif1": feedback_node((4, 8, 8)), "lif2": feedback_node((6, 3, 3))}
    edges = list(program().graph.edges)
    for k, channels, size in ((1, 4, (8, 8)), (2, 6, (3, 3))):
        own = -0.5 * np.ones((channels, 1, 1, 1))
        nodes[f"own{k}"] = conv_node(own, np.zeros(channels), size, 1, 0, 1, channels)
        edges += [(f"lif{k}", f"own{k}"), (f"own{k}", f"lif{k}")]
    scales = (("lif1", float(S), 1.0), ("lif2", float(S), 1.0), ("fc", 64.0, 1.0))
    semantics = Semantics(dt=1e-3, reset="value", comparison=">", readout="sum")
    graph = nir.NIRGraph(nodes, edges, type_check=False)
    return Program(graph, semantics, quantiser=Quantiser(scales=scales, input_scale=input_scale))
