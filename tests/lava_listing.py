"""Test oracle: Lava's arithmetic written down again, one sample and one step at a time, in plain numpy.

Transcribed from the published behaviour of lava-nc 0.10.0 (LIF, Dense, DelayDense, Conv), independent of the
package: no Lava layout, no batching, no pooling folded into kernels. Arrays are (C, H, W) as in torch. Time
is the program's: the steps that connections take on Loihi are not seen (`LayeredProgram.levels`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from rsc.layered import CONSTANT, Connection, Layer, LayeredProgram

WRAP = 1 << 23


@dataclasses.dataclass
class Trace:
    """Spikes and states [T, N, ...] of one layer."""

    s: np.ndarray
    u: np.ndarray
    v: np.ndarray


def payloads(layered: LayeredProgram, frames: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What each Input node sends for its frames [T, N, ...]."""
    return {source.name: source.payload(frames[source.name], layered.arithmetic) for source in layered.inputs}


def run(layered: LayeredProgram, payloads: Mapping[str, np.ndarray]) -> dict[str, Trace]:
    """Every layer's trace for payloads [T, N, ...] by Input node; each sample from the initial state."""
    integer = layered.arithmetic == "integer"
    dtype = np.int64 if integer else np.float64
    steps, samples = next(iter(payloads.values())).shape[:2]
    traces = {
        layer.name: Trace(
            np.zeros((steps, samples, *layer.shape), bool),
            np.zeros((steps, samples, *layer.shape), dtype),
            np.zeros((steps, samples, *layer.shape), dtype),
        )
        for layer in layered.layers
    }
    for n in range(samples):
        state = {layer.name: initial(layer, dtype) for layer in layered.layers}
        past: dict[str, list[np.ndarray]] = {layer.name: [] for layer in layered.layers}
        past[CONSTANT] = [np.ones(1, dtype)] * steps
        past |= {name: list(values[:, n]) for name, values in payloads.items()}
        for t in range(steps):
            for layer in layered.layers:
                a = sum(arriving(c, past[c.source], t, layer.shape, integer) for c in layer.connections)
                rule = fixed_step if integer else float_step
                u, v, s = rule(layer, *state[layer.name], np.asarray(a))
                state[layer.name] = (u, v)
                past[layer.name].append(s)
                trace = traces[layer.name]
                trace.s[t, n], trace.u[t, n], trace.v[t, n] = s, u, v
    return traces


def initial(layer: Layer, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """u and v before the first step."""
    v = np.broadcast_to(np.asarray(layer.v_init), layer.shape).astype(dtype)
    return np.zeros(layer.shape, dtype), v


def arriving(
    c: Connection, past: list[np.ndarray], t: int, shape: tuple[int, ...], integer: bool
) -> np.ndarray:
    """What a connection delivers at step t; past: values of its source at steps 0, 1, ...

    Synapses of unequal delay are summed and shifted apart, as Lava's DelayDense does.
    """
    total = np.zeros(shape, np.int64 if integer else np.float64)
    for k in np.unique(c.delay).tolist():
        if t >= k:
            part = c
            if np.ndim(c.delay):
                weight = c.weight.reshape(c.delay.shape)
                part = dataclasses.replace(c, weight=np.where(c.delay == k, weight, 0))
            total = total + current(part, past[t - k], shape, integer)
    return int32(total) if integer else total


def fixed_step(layer: Layer, u: np.ndarray, v: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, ...]:
    """u, v, s of Lava's fixed-point LIF after one step; all sums in C's 32 bits."""
    mantissa, exponent = np.asarray(layer.bias_mant, np.int64), layer.bias_exp
    bias = mantissa << exponent if exponent >= 0 else mantissa >> -exponent
    x = int32(decay(u, np.asarray(layer.du, np.int64) + 1) + int32(a << 6))
    u = np.where(x > WRAP, x - 2 * WRAP, x)
    u = np.where(u <= -WRAP, x + 2 * WRAP, u)
    v = np.clip(int32(decay(v, np.asarray(layer.dv, np.int64)) + u + bias), -WRAP + 1, WRAP - 1)
    s = v > (np.asarray(layer.vth, np.int64) << 6)
    return u, np.where(s, 0, v), s


def decay(x: np.ndarray, d: np.ndarray) -> np.ndarray:
    """x (4096 - d) / 4096, rounded towards zero."""
    product = x * (4096 - d)
    return np.sign(product) * (np.abs(product) >> 12)


def float_step(layer: Layer, u: np.ndarray, v: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, ...]:
    """u, v, s of Lava's floating LIF after one step."""
    u = u * (1 - layer.du) + a
    v = v * (1 - layer.dv) + u + layer.bias_mant
    s = v > layer.vth
    return u, np.where(s, 0.0, v), s


def current(c: Connection, x: np.ndarray, shape: tuple[int, ...], integer: bool) -> np.ndarray:
    """What a connection sends for source values x, in the layer's shape."""
    x = np.asarray(x) if c.graded else np.asarray(x) != 0
    x = x.astype(np.int64 if integer else np.float64)
    weight = np.asarray(c.weight).astype(x.dtype)
    if c.pool is not None:
        x = sum_pool(x, *c.pool)
    if c.kind == "dense":
        total = weight.reshape(len(weight), -1) @ x.ravel()
        if not integer:
            return total.reshape(shape)
        total = total << c.weight_exp if c.weight_exp >= 0 else total >> -c.weight_exp
        return int32(total).reshape(shape)
    total = correlate(x, weight, c)
    return (total + WRAP) % (2 * WRAP) - WRAP if integer else total


def sum_pool(x: np.ndarray, kernel: tuple[int, int], stride: tuple[int, int]) -> np.ndarray:
    """Sums over windows of x (C, H, W), incomplete windows dropped."""
    height, width = ((n - k) // s + 1 for n, k, s in zip(x.shape[1:], kernel, stride, strict=True))
    out = np.zeros((len(x), height, width), x.dtype)
    for i, j in np.ndindex(height, width):
        top, left = i * stride[0], j * stride[1]
        out[:, i, j] = x[:, top : top + kernel[0], left : left + kernel[1]].sum((1, 2))
    return out


def correlate(x: np.ndarray, weight: np.ndarray, c: Connection) -> np.ndarray:
    """The convolution of deep learning, one output site at a time."""
    (py, px), (sy, sx), (dy, dx) = c.padding, c.stride, c.dilation
    x = np.pad(x, ((0, 0), (py, py), (px, px)))
    outputs, per_group, kh, kw = weight.shape
    height = (x.shape[1] - dy * (kh - 1) - 1) // sy + 1
    width = (x.shape[2] - dx * (kw - 1) - 1) // sx + 1
    out = np.zeros((outputs, height, width), x.dtype)
    for o, i, j in np.ndindex(outputs, height, width):
        first = o // (outputs // c.groups) * per_group
        patch = x[first : first + per_group, i * sy : i * sy + dy * kh : dy, j * sx : j * sx + dx * kw : dx]
        out[o, i, j] = (patch[:, :kh, :kw] * weight[o]).sum()
    return out


def int32(x: np.ndarray) -> np.ndarray:
    """What is left of x in a C int of 32 bits."""
    return (x + (1 << 31)) % (1 << 32) - (1 << 31)
