"""The table of the conformance suite: graph, semantics, input, and what must come out.

Stateless primitives and linear neurons here; spiking neurons in `cases_neurons`, structures in
`cases_structure`. Inputs are dyadic, so most cases are exact even in float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import nir
import numpy as np
from graphs import DT, EULER, chain, conv1d, conv2d, dyadic, neuron, pool
from oracles import correlate, low_pass, per_frame, window_sum

from rsc.program import Semantics


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One row.

    Fields:
        frames: [T, B, ...], or Input node -> frames.
        outputs: Output node -> what must come out, [T, B, ...].
        tolerance: relative to the largest output, for float32; float64 gets a billionth of it. 0 is exact.
        states: "node.v" -> state after reset.
    """

    name: str
    graph: nir.NIRGraph
    frames: Any
    outputs: Mapping[str, np.ndarray]
    semantics: Semantics = EULER
    tolerance: float = 0.0
    states: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


def one(name: str, of: nir.NIRGraph, frames: np.ndarray, output: np.ndarray, **fields: Any) -> Case:
    """A case with one input and one output."""
    return Case(name, of, frames, {"output": output}, **fields)


def conv2d_case(
    name: str, weight: tuple[int, int, int, int], spatial: tuple[int, int], **fields: Any
) -> Case:
    kernel, bias = dyadic(1, *weight), dyadic(2, weight[0])
    groups, dilation = fields.get("groups", 1), _pair(fields.get("dilation", 1))
    stride, padding = _pair(fields.get("stride", 1)), fields.get("padding", 0)
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, weight[2:], strict=True)]
        pads = tuple((t // 2, t - t // 2) for t in totals)
    else:
        pads = tuple((p, p) for p in _pair(0 if padding == "valid" else padding))
    frames = dyadic(3, 2, 2, weight[1] * groups, *spatial)
    expected = per_frame(lambda x: correlate(x, kernel, bias, stride, pads, dilation, groups), frames)
    node = conv2d(kernel, spatial, bias=bias, **fields)
    return one(name, chain(frames.shape[2:], expected.shape[2:], conv=node), frames, expected)


def conv1d_case(name: str, weight: tuple[int, int, int], size: int, **fields: Any) -> Case:
    kernel, bias = dyadic(4, *weight), dyadic(5, weight[0])
    settings = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | fields
    total, pad = settings["dilation"] * (weight[2] - 1), settings["padding"]
    pads = ((total // 2, total - total // 2),) if pad == "same" else ((pad, pad),)
    frames = dyadic(6, 2, 2, weight[1] * settings["groups"], size)
    rule = ((settings["stride"],), pads, (settings["dilation"],), settings["groups"])
    expected = per_frame(lambda x: correlate(x, kernel, bias, *rule), frames)
    node = conv1d(kernel, size, bias=bias, **fields)
    return one(name, chain(frames.shape[2:], expected.shape[2:], conv=node), frames, expected)


def pool_case(name: str, kind: type, kernel: Any, stride: Any, padding: Any, tolerance: float = 0.0) -> Case:
    frames = dyadic(7, 2, 2, 3, 6, 5)
    area = 1 if kind is nir.SumPool2d else kernel[0] * kernel[1]
    expected = per_frame(lambda x: window_sum(x, kernel, stride, padding) / area, frames)
    node = pool(kind, kernel, stride, padding)
    return one(name, chain((3, 6, 5), expected.shape[2:], pool=node), frames, expected, tolerance=tolerance)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _affine() -> list[Case]:
    w, b, x = dyadic(8, 3, 4), dyadic(9, 3), dyadic(10, 3, 2, 4)
    batched, xs = dyadic(11, 2, 3, 4), dyadic(12, 3, 2, 2, 4)
    by_hand = np.array([[[sum(row[i] * v[i] for i in range(4)) for row in w] for v in f] for f in x])
    stack = np.stack([xs[:, :, k] @ batched[k].T for k in range(2)], axis=2)
    wide = np.stack([xs[:, :, k] @ w.T for k in range(2)], axis=2)
    return [
        one("linear", chain((4,), (3,), a=nir.Linear(w)), x, by_hand),
        one("affine", chain((4,), (3,), a=nir.Affine(w, b)), x, by_hand + b),
        one("affine, scalar bias", chain((4,), (3,), a=nir.Affine(w, np.array(0.5))), x, by_hand + 0.5),
        one("affine, one weight per row", chain((2, 4), (2, 3), a=nir.Linear(batched)), xs, stack),
        one("affine over the last axis", chain((2, 4), (2, 3), a=nir.Affine(w, b)), xs, wide + b),
        one("integer weights", chain((4,), (3,), a=nir.Linear((w * 8).astype(np.int8))), x, by_hand * 8),
    ]


def _elementwise() -> list[Case]:
    x, s, limit = dyadic(13, 4, 2, 3), np.array([0.5, -2.0, 4.0]), np.array([0.0, 0.25, -0.5])
    delays, y = np.array([0, 2, 3]), np.zeros((4, 2, 3))
    for element, steps in enumerate(delays):
        y[steps:, :, element] = x[: 4 - steps, :, element]
    cube = dyadic(14, 2, 2, 2, 3, 4)
    shifted = np.concatenate([np.zeros((2, 2, 3)), x[:2]])
    at_least = Semantics(dt=DT, comparison=">=")
    return [
        one("scale", chain((3,), (3,), s=nir.Scale(s)), x, x * s),
        one("threshold", chain((3,), (3,), t=nir.Threshold(limit)), x, 1.0 * (x > limit)),
        one(
            "threshold, >=",
            chain((3,), (3,), t=nir.Threshold(limit)),
            x,
            1.0 * (x >= limit),
            semantics=at_least,
        ),
        one("delay per element", chain((3,), (3,), d=nir.Delay(delays * DT)), x, y),
        one("delay, one for all", chain((3,), (3,), d=nir.Delay(np.full(3, 2 * DT))), x, shifted),
        one("delay of none", chain((3,), (3,), d=nir.Delay(np.zeros(3))), x, x),
        *(
            one(
                f"flatten {a} to {b}",
                chain((2, 3, 4), shape, f=_flat(a, b)),
                cube,
                cube.reshape(2, 2, *shape),
            )
            for a, b, shape in (
                (0, -1, (24,)),
                (1, -1, (2, 12)),
                (0, 1, (6, 4)),
                (-2, -1, (2, 12)),
                (1, 1, (2, 3, 4)),
            )
        ),
    ]


def _flat(start: int, end: int) -> nir.Flatten:
    return nir.Flatten({"input": np.array([2, 3, 4])}, start, end)


def _integrators() -> list[Case]:
    x, late = dyadic(15, 12, 2, 3), Semantics(dt=DT, integrator="exponential")
    tau, r, leak = np.array([2.0, 4.0, 8.0]) * DT, np.array([2.0, -1.0, 3.0]), np.array([0.0, 0.5, -1.0])
    slow = neuron(nir.LI, 3, tau=4 * DT, r=1.0)
    own = neuron(nir.LI, 3, tau=tau, r=r, v_leak=leak)
    euler = np.stack(
        [low_pass(r[n] * x[..., n] + leak[n], 1 - DT / tau[n], DT / tau[n]) for n in range(3)], -1
    )
    held = np.broadcast_to(x[:1], x.shape)
    time = DT * np.arange(1, 13).reshape(-1, 1, 1)
    exact = (r * held + leak) * (1 - np.exp(-time / tau))
    cuba = neuron(nir.CubaLI, 3, tau_mem=8 * DT, tau_syn=np.array([2.0, 4.0, 16.0]) * DT, v_leak=leak)
    return [
        one("I", chain((3,), (3,), n=neuron(nir.I, 3, r=r / DT)), x, r * np.cumsum(x, 0)),
        one("LI, r = 1", chain((3,), (3,), n=slow), x, low_pass(x, 0.75, 0.25), tolerance=1e-6),
        one("LI, Euler", chain((3,), (3,), n=own), x, euler, tolerance=1e-5),
        one(
            "LI, exact for a constant input",
            chain((3,), (3,), n=own),
            held,
            exact,
            semantics=late,
            tolerance=1e-5,
        ),
        one("CubaLI, Euler", chain((3,), (3,), n=cuba), x, _cuba(cuba, x, False), tolerance=1e-5),
        one(
            "CubaLI, exponential",
            chain((3,), (3,), n=cuba),
            x,
            _cuba(cuba, x, True),
            semantics=late,
            tolerance=1e-5,
        ),
        _impulse_case(),
    ]


def _cuba(node: nir.CubaLI, x: np.ndarray, exponential: bool) -> np.ndarray:
    """Two filters in a row, neuron by neuron."""

    def kept(tau: float) -> float:
        return float(np.exp(-DT / tau)) if exponential else 1 - DT / tau

    columns = []
    for n in range(3):
        syn, mem = kept(node.tau_syn[n]), kept(node.tau_mem[n])
        current = low_pass(x[..., n], syn, (1 - syn) * node.w_in[n])
        columns.append(low_pass(node.r[n] * current + node.v_leak[n], mem, 1 - mem))
    return np.stack(columns, -1)


def _impulse_case() -> Case:
    """One spike into a CubaLI: v_n = beta w k (a^(n+1) - s^(n+1)) / (a - s), a geometric sum."""
    frames = np.zeros((10, 1, 1))
    frames[0] = 1
    a, s, n = 1 - 1 / 8, 1 - 1 / 2, np.arange(10)
    node = neuron(nir.CubaLI, 1, tau_mem=8 * DT, tau_syn=2 * DT, w_in=3.0, r=5.0)
    v = 5 / 8 * 3 / 2 * (a ** (n + 1) - s ** (n + 1)) / (a - s)
    of = chain((1,), (1,), n=node)
    return one(
        "CubaLI, impulse",
        of,
        frames,
        v.reshape(-1, 1, 1),
        tolerance=1e-6,
        states={"n.v": v.reshape(-1, 1, 1)},
    )


STATELESS = [
    *_affine(),
    *_elementwise(),
    conv1d_case("conv1d", (3, 2, 3), 7),
    conv1d_case("conv1d, stride 2, padding 2, dilation 2", (3, 2, 3), 9, stride=2, padding=2, dilation=2),
    conv1d_case("conv1d, same, even kernel", (2, 2, 4), 6, padding="same"),
    conv1d_case("conv1d, groups", (4, 2, 3), 6, groups=2),
    conv2d_case("conv2d", (3, 2, 3, 3), (5, 6)),
    conv2d_case("conv2d, stride (2, 1), padding (1, 2)", (3, 2, 3, 3), (5, 6), stride=(2, 1), padding=(1, 2)),
    conv2d_case("conv2d, kernel 2 x 3", (3, 2, 2, 3), (5, 6), padding=(0, 1)),
    conv2d_case("conv2d, dilation (2, 1)", (2, 2, 3, 2), (7, 4), dilation=(2, 1)),
    conv2d_case("conv2d, same", (2, 2, 3, 3), (4, 5), padding="same"),
    conv2d_case("conv2d, same, even kernel", (2, 2, 2, 4), (4, 5), padding="same"),
    conv2d_case("conv2d, same, dilated", (2, 2, 3, 2), (6, 5), padding="same", dilation=(2, 3)),
    conv2d_case("conv2d, valid", (2, 2, 3, 3), (4, 5), padding="valid"),
    conv2d_case("conv2d, groups", (4, 2, 3, 3), (4, 4), groups=2, padding=1),
    conv2d_case("conv2d, depthwise", (3, 1, 3, 3), (4, 4), groups=3, padding=1),
    pool_case("sum pool", nir.SumPool2d, (2, 2), (2, 2), (0, 0)),
    pool_case("sum pool, padded", nir.SumPool2d, (3, 2), (2, 1), (1, 1)),
    pool_case("sum pool, wide padding", nir.SumPool2d, (2, 2), (1, 2), (2, 2)),
    pool_case("average pool", nir.AvgPool2d, (2, 2), (2, 2), (0, 0)),
    pool_case("average pool, padding counted", nir.AvgPool2d, (3, 2), (1, 2), (1, 1), tolerance=1e-6),
]

INTEGRATORS = _integrators()
