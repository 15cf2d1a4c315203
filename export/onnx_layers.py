"""The stateless NIR primitives as ONNX operations.

Matrices and element-wise nodes take any leading axes; the rest a folded batch [N, ...] of steps and samples.
In float64 ONNX Runtime has no convolution and no pooling on a CPU: there a window is a Gather of the sites it
sees, then a product or a sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import nir
import numpy as np

from rsc.export.onnx_scope import Scope, is_all
from rsc.shapes import Shape, Window, flat_shape, window

Lowered = tuple[str, Shape]  # value [N, ...] and its shape without N


def affine(s: Scope, node: nir.Affine | nir.Linear, x: str, weights: str) -> str:
    """y = W x (+ b) over the last axis of [..., in]; leading axes of W go with those of x."""
    weight = np.asarray(node.weight)
    if weight.ndim == 2:
        y = multiplied(s, x, weight.T, weights)
    else:
        column = s.op("Unsqueeze", x, s.ints(-1))
        y = s.op("Squeeze", multiplied(s, column, weight, weights, left=True), s.ints(-1))
    return y if isinstance(node, nir.Linear) else s.plus(y, np.asarray(node.bias))


def scale(s: Scope, node: nir.Scale, x: str) -> str:
    """y = s * x, element by element."""
    return s.times(x, np.asarray(node.scale))


def multiplied(s: Scope, x: str, weight: np.ndarray, weights: str, left: bool = False) -> str:
    """x W (or W x) with W held in the type `weights`.

    float16 also multiplies in it; bfloat16, for which ONNX Runtime has no product on a CPU, rounds both
    factors to it and adds in float32, as matrix units do.
    """
    constant = s.constant(weight, weights)
    if weights == "float16":
        x = s.cast(x, "float16")
    elif weights == "bfloat16":
        x, constant = s.cast(s.cast(x, "bfloat16"), s.real), s.cast(constant, s.real)
    y = s.op("MatMul", constant, x) if left else s.op("MatMul", x, constant)
    return s.cast(y, s.real) if weights == "float16" else y


def convolution(s: Scope, node: nir.Conv1d | nir.Conv2d, x: str, shape: Shape, weights: str) -> Lowered:
    """Cross-correlation over one or two spatial axes, with bias."""
    weight, groups, view = np.asarray(node.weight), int(node.groups), window(node)
    out = (len(weight), *view.output(shape[1:]))
    bias = np.broadcast_to(np.asarray(node.bias), weight.shape[:1])
    if s.real == "float64":
        y = gathered_convolution(s, x, shape, weight, view, groups, "float64")
        return s.plus(y, bias.reshape(-1, *[1] * (len(shape) - 1))), out
    given = [s.constant(weight, weights)]
    if weights == "float16":
        x = s.cast(x, "float16")
    elif weights == "bfloat16":
        x, given[0] = s.cast(s.cast(x, "bfloat16"), s.real), s.cast(given[0], s.real)
    if not is_all(bias, 0) and weights != "float16":
        given.append(s.constant(bias, s.real))
    y = s.op("Conv", x, *given, **_geometry(view), dilations=view.dilation, group=groups)
    if weights == "float16":
        y = s.plus(s.cast(y, s.real), bias.reshape(-1, *[1] * (len(shape) - 1)))
    return y, out


def pool(s: Scope, node: nir.SumPool2d | nir.AvgPool2d, x: str, shape: Shape) -> Lowered:
    """Sum or mean over windows of [N, C, H, W]; the padding holds zeros and is counted by the mean."""
    view, summed = window(node), isinstance(node, nir.SumPool2d)
    out, sites = (shape[0], *view.output(shape[1:])), math.prod(view.kernel)
    if s.real == "float64":
        y = gathered_sum(s, x, shape, view)
        return (y if summed else s.op("Div", y, s.number(float(sites)))), out
    if any(map(any, view.padding)):
        before, after = ([p[i] for p in view.padding] for i in (0, 1))
        x = s.op("Pad", x, s.ints(0, 0, *before, 0, 0, *after), s.number(0.0))
    if summed and sites & (sites - 1):  # a mean times such a number of sites is not the sum
        ones = s.constant(np.ones((shape[0], 1, *view.kernel)), s.real)
        return s.op("Conv", x, ones, group=shape[0], strides=view.stride), out
    y = s.op("AveragePool", x, kernel_shape=view.kernel, strides=view.stride)
    return (s.times(y, np.asarray(float(sites))) if summed else y), out


def flatten(s: Scope, node: nir.Flatten, x: str, shape: Shape) -> Lowered:
    """Merge axes start_dim..end_dim, counted without batch, in C order."""
    out = flat_shape(node, shape)
    return s.op("Reshape", x, s.ints(-1, *out)), out


def gathered(s: Scope, x: str, shape: Shape, view: Window) -> str:
    """What each tap of a window sees: [N, C, ...] -> [N, C, taps, sites]; 0 in the padding."""
    size = math.prod(shape[1:])
    flat = s.op("Reshape", x, s.ints(-1, shape[0], size))
    if any(map(any, view.padding)):
        flat = s.op("Pad", flat, s.ints(0, 0, 0, 0, 0, 1))
    seen = _seen(shape[1:], view)
    return s.op("Gather", flat, s.constant(seen, "int32"), axis=2)


def gathered_sum(s: Scope, x: str, shape: Shape, view: Window) -> str:
    """Sum over windows of [N, C, ...]."""
    total = s.op("ReduceSum", gathered(s, x, shape, view), s.ints(2), keepdims=0)
    return s.op("Reshape", total, s.ints(-1, shape[0], *view.output(shape[1:])))


def gathered_convolution(
    s: Scope, x: str, shape: Shape, weight: np.ndarray, view: Window, groups: int, dtype: str
) -> str:
    """Cross-correlation [N, C, ...] -> [N, C_out, ...] as one product per group, in any type."""
    taps = math.prod(view.kernel)
    rows = shape[0] // groups * taps
    sites = view.output(shape[1:])
    columns = s.op("Reshape", gathered(s, x, shape, view), s.ints(-1, groups, rows, math.prod(sites)))
    matrix = s.constant(weight.reshape(groups, len(weight) // groups, rows), dtype)
    return s.op("Reshape", s.op("MatMul", matrix, columns), s.ints(-1, len(weight), *sites))


def _seen(spatial: Shape, view: Window) -> np.ndarray:
    """Number of the site that each tap sees for each output, [taps, outputs]; one past the last: padding."""
    grids = []
    size, out = math.prod(spatial), view.output(spatial)
    for axis, count in enumerate(out):
        start = np.arange(count) * view.stride[axis] - view.padding[axis][0]
        taps = np.arange(view.kernel[axis]) * view.dilation[axis]
        grids.append(taps[:, None] + start[None])  # [k, outputs] of one axis
    place, inside = np.zeros((1, 1), np.int64), np.ones((1, 1), bool)
    for axis, grid in enumerate(grids):
        place = (place[:, None, :, None] * spatial[axis] + grid[None, :, None, :]).reshape(
            len(place) * len(grid), -1
        )
        within = (grid >= 0) & (grid < spatial[axis])
        inside = (inside[:, None, :, None] & within[None, :, None, :]).reshape(place.shape)
    return np.where(inside, place, size)


def _geometry(view: Window) -> dict[str, Any]:
    before, after = ([p[i] for p in view.padding] for i in (0, 1))
    return {"strides": view.stride, "pads": [*before, *after]}


FOLDED: dict[type, Callable[..., Lowered]] = {
    nir.SumPool2d: pool,
    nir.AvgPool2d: pool,
    nir.Flatten: flatten,
}
