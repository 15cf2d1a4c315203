"""What integer layers do in one step, as ONNX operations: Lava's fixed-point LIF, and exact synaptic sums."""

from __future__ import annotations

import math

import numpy as np

from rsc.export.onnx_layers import gathered_convolution, gathered_sum
from rsc.export.onnx_scope import Scope, is_all
from rsc.layered import Connection, Layer
from rsc.shapes import Window

UV = 1 << 23
EXACT = 1 << 24


def forgets(layer: Layer, small: bool) -> bool:
    """Whether u is a << 6, whatever it was."""
    return small and is_all(layer.du, 4095)


def step_lif(s: Scope, layer: Layer, a: str, u: str, v: str, small: bool) -> tuple[str, str, str, str]:
    """One step of Lava's fixed-point LIF: spikes, u, v, and where v was clipped; all int64 or bool [B, ...].

    Args:
        a: synaptic sums int64; u: "" where it is forgotten at once.
        small: whether neither u nor a sum can leave int32.
    """
    driven = s.op("Mul", a, s.constant(64, "int64"))
    if not small:
        driven = _wrap32(s, driven)
    if u:
        driven = s.op("Add", _decay(s, u, np.asarray(layer.du) + 1), driven)
    if not small:
        driven = _wrap32(s, driven)
    if u or not small:
        driven = _wrap24(s, driven)
    y = s.op("Add", _decay(s, v, np.asarray(layer.dv)), driven)
    bias = bias_of(layer)
    if not is_all(bias, 0):
        y = s.op("Add", y, _whole(s, bias))
    if not small:
        y = _wrap32(s, y)
    clipped = s.op("Clip", y, s.constant(1 - UV, "int64"), s.constant(UV - 1, "int64"))
    beyond = s.op("Greater", s.op("Abs", y), s.constant(UV - 1, "int64"))
    fired = s.op("Greater", clipped, _whole(s, np.asarray(layer.vth, np.int64) << 6))
    return fired, driven, s.op("Where", fired, s.constant(0, "int64"), clipped), beyond


def synaptic_sums(
    s: Scope, c: Connection, weight: np.ndarray, x: str, shape: tuple[int, ...], bound: int
) -> str:
    """int32 [N, *shape] of a connection from float32 values x [N, ...].

    Args:
        bound: of |sum| and its parts, before the shift by weight_exp.
    """
    if not c.graded:
        x = s.cast(s.cast(x, "bool"), "float32")
    narrow = "float32" if bound < EXACT else "float64"
    x = s.op("Reshape", s.cast(x, narrow) if narrow == "float64" else x, s.ints(-1, *c.source_shape))
    seen = c.source_shape
    if c.pool:
        x, seen = _pooled(s, x, seen, *c.pool, narrow)
    if c.kind == "dense":
        flat = s.op("Reshape", x, s.ints(-1, math.prod(seen)))
        sums = s.op("MatMul", flat, _weights(s, weight.reshape(len(weight), -1).T, narrow))
        if c.weight_exp:
            sums = s.op("Floor", s.op("Mul", s.cast(sums, "float64"), s.number(2.0**c.weight_exp)))
        whole = s.cast(s.cast(sums, "int64"), "int32")
    else:
        whole = s.cast(_convolved(s, c, weight, x, seen, narrow), "int64")
        if bound >= UV:
            turn = s.constant(2 * UV, "int64")
            whole = s.op("Mod", s.op("Add", whole, s.constant(UV, "int64")), turn)
            whole = s.op("Sub", whole, s.constant(UV, "int64"))
        whole = s.cast(whole, "int32")
    return s.op("Reshape", whole, s.ints(-1, *shape))


def by_delay(c: Connection) -> list[tuple[int, np.ndarray]]:
    """(k, weight): all synapses, or for each delay its own and 0 elsewhere, shortest delay first."""
    weight = c.weight.reshape(len(c.weight), -1) if c.kind == "dense" else c.weight
    delays = np.unique(c.delay).tolist()
    if len(delays) < 2:
        return [(int(k), weight) for k in delays]
    return [(int(k), np.where(c.delay == k, weight, 0)) for k in delays]


def bias_of(layer: Layer) -> np.ndarray:
    """Bias in the units of v, shifted by its exponent."""
    mantissa, exponent = np.asarray(layer.bias_mant, np.int64), layer.bias_exp
    return mantissa << exponent if exponent >= 0 else mantissa >> -exponent


def _weights(s: Scope, weight: np.ndarray, dtype: str) -> str:
    """Weights in the type of a product, kept in the file in as few bytes as hold them."""
    largest = int(np.abs(weight).max(initial=0))
    kind = next((k for k in ("int8", "int16") if largest <= np.iinfo(k).max), "int32")
    return s.model.cast(s.constant(weight, kind), dtype)


def _pooled(
    s: Scope, x: str, shape: tuple[int, ...], kernel: tuple[int, int], stride: tuple[int, int], dtype: str
) -> tuple[str, tuple[int, ...]]:
    """Sums over windows of [N, C, H, W]."""
    view = Window(kernel, stride, ((0, 0), (0, 0)), (1, 1))
    out = (shape[0], *view.output(shape[1:]))
    if dtype == "float64":
        return gathered_sum(s, x, shape, view), out
    ones = s.constant(np.ones((shape[0], 1, *kernel)), dtype)
    return s.op("Conv", x, ones, group=shape[0], strides=stride), out


def _convolved(
    s: Scope, c: Connection, weight: np.ndarray, x: str, shape: tuple[int, ...], dtype: str
) -> str:
    if dtype == "float64":
        padding = tuple((p, p) for p in c.padding)
        view = Window(weight.shape[2:], c.stride, padding, c.dilation)
        return gathered_convolution(s, x, shape, weight, view, c.groups, dtype)
    geometry = {"strides": c.stride, "pads": [*c.padding, *c.padding], "dilations": c.dilation}
    given = x, _weights(s, weight, dtype)
    return s.op("Conv", *given, group=c.groups, **geometry)


def _decay(s: Scope, x: str, d: np.ndarray) -> str:
    """trunc(x (4096 - d) / 4096); ONNX divides whole numbers toward zero."""
    if is_all(d, 0):
        return x
    return s.op("Div", s.op("Mul", x, _whole(s, 4096 - d)), s.constant(4096, "int64"))


def _wrap24(s: Scope, x: str) -> str:
    """Lava's single wrap of u: values beyond 3 2^23 stay outside 24 bits."""
    turn = s.constant(2 * UV, "int64")
    high = s.op("Greater", x, s.constant(UV, "int64"))
    low = s.op("LessOrEqual", x, s.constant(-UV, "int64"))
    lifted = s.op("Where", low, s.op("Add", x, turn), x)
    return s.op("Where", high, s.op("Sub", x, turn), lifted)


def _wrap32(s: Scope, x: str) -> str:
    """Whole numbers as C keeps them in an int32."""
    half, turn = s.constant(1 << 31, "int64"), s.constant(1 << 32, "int64")
    return s.op("Sub", s.op("Mod", s.op("Add", x, half), turn), half)


def _whole(s: Scope, value: np.ndarray) -> str:
    return s.number(np.asarray(value, np.int64), "int64")
