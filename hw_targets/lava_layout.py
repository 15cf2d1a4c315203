"""A layered program in the shapes and number types of Lava's processes.

Lava holds images as (W, H, C) and flips convolution kernels, torch holds (C, H, W) and does not, so

    w_lava = w[:, :, ::-1, ::-1].transpose(0, 3, 2, 1),   x_lava = x.transpose(2, 1, 0).

Lava has no pooling process. A sum pooling (kernel k, stride s) in front of a convolution (K, stride S,
padding P, dilation D) is the convolution with the kernel w'[i D s + a] = w[i] (a < k, added where
windows overlap), stride S s and padding P s, as long as no tap that falls on the convolution's
padding covers real pixels; where one would, and for kernels Lava's 8-bit fields cannot hold, the
operator is written out as a sparse matrix.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse

from rsc.errors import UnsupportedNode
from rsc.layered import STATE_MAX, VTH_MAX, Connection, Layer, LayeredProgram

WEIGHT_RANGE = (-256, 254)
CONV_FIELD_MAX = 127  # Lava keeps kernel size, stride, padding, dilation and groups in int8
QUICK_MATRIX = 4_000_000  # synapses up to which a written-out convolution is quicker than Lava's own
MATRIX_LIMIT = 50_000_000  # synapses of one written-out operator, about 600 MB


@dataclasses.dataclass(frozen=True, eq=False)
class Synapses:
    """One connection process: `kind` "conv", "dense" or "sparse", its fields and its arrays."""

    kind: str
    fields: dict[str, Any]
    arrays: dict[str, np.ndarray]


def to_lava(x: np.ndarray, lead: int) -> np.ndarray:
    """Reverse all axes after the first `lead`: [..., C, H, W] to [..., W, H, C] and back."""
    return np.ascontiguousarray(x.transpose(*range(lead), *range(x.ndim - 1, lead - 1, -1)))


def flat_order(shape: tuple[int, ...]) -> np.ndarray:
    """Flat index in `shape` of each element in Lava's flat order."""
    return to_lava(np.arange(int(np.prod(shape))).reshape(shape), 0).ravel()


def synapses(
    connection: Connection, layer: Layer, integer: bool, payload_max: int = 1, matrices: bool = False
) -> Synapses:
    """The Lava process that computes the connection's current.

    Args:
        connection, layer: what to build.
        integer: fixed-point arithmetic.
        payload_max: largest magnitude the source sends.
        matrices: write a convolution out as a sparse matrix where that is the same operator and small.

    Raises:
        UnsupportedNode: Lava would compute something else.
    """
    weight = _typed_weight(connection, layer, integer)
    bits = max(1, int(payload_max).bit_length() + 1) if connection.graded else 0
    if connection.kind == "dense":
        matrix = weight.reshape(weight.shape[0], -1)
        if connection.pool is not None:
            matrix = np.asarray(matrix @ _pool_matrix(connection, connection.pool))
        _check_matrix(matrix, connection, layer, integer)
        rows, columns = flat_order(layer.shape), flat_order(connection.source_shape)
        fields = {"message_bits": bits, "weight_exp": int(connection.weight_exp)}
        return Synapses("dense", fields, {"weight": np.ascontiguousarray(matrix[np.ix_(rows, columns)])})
    if connection.weight_exp:
        _refuse(layer, "Lava's convolution ignores weight_exp.", "Fold the exponent into the weights.")
    if matrices and _same_as_matrix(weight, connection, layer, integer, payload_max):
        # Spikes are 0 and 1 already: read as numbers Sparse needs one product instead of a column selection.
        return _sparse(weight, connection, layer, integer, bits or int(payload_max <= 1))
    composed = _composed(weight, connection)
    if composed is not None and max(composed.fields["limits"]) <= CONV_FIELD_MAX:
        _check_conv_sum(composed.arrays["weight"], layer, integer, payload_max if connection.graded else 1)
        fields = {k: v for k, v in composed.fields.items() if k != "limits"} | {"message_bits": bits}
        return Synapses("conv", fields, composed.arrays)
    return _sparse(weight, connection, layer, integer, bits)


def _composed(weight: np.ndarray, c: Connection) -> Synapses | None:
    """The convolution with the pooling folded in; None where that is not the same operator."""
    (ky, kx), (sy, sx) = c.pool or ((1, 1), (1, 1))
    kernel = weight.shape[2:]
    for axis, (k, s) in enumerate(((ky, sy), (kx, sx))):
        if not _foldable(c.source_shape[1 + axis], k, s, kernel[axis], axis, c):
            return None
    dilation, stride, padding = c.dilation, c.stride, c.padding
    if c.pool is not None:
        step = (dilation[0] * sy, dilation[1] * sx)
        size = ((kernel[0] - 1) * step[0] + ky, (kernel[1] - 1) * step[1] + kx)
        wide = np.zeros((*weight.shape[:2], *size), weight.dtype)
        for i, j in np.ndindex(*kernel):
            y, x = i * step[0], j * step[1]
            wide[:, :, y : y + ky, x : x + kx] += weight[:, :, i, j, None, None]
        weight, dilation = wide, (1, 1)
        stride, padding = (stride[0] * sy, stride[1] * sx), (padding[0] * sy, padding[1] * sx)
    limits = [*weight.shape[2:], *stride, *padding, *dilation, c.groups]
    fields = {
        "input_shape": c.source_shape[::-1],
        "stride": stride[::-1],
        "padding": padding[::-1],
        "dilation": dilation[::-1],
        "groups": c.groups,
        "limits": [int(v) for v in limits],
    }
    return Synapses("conv", fields, {"weight": np.ascontiguousarray(_flipped(weight))})


def _flipped(weight: np.ndarray) -> np.ndarray:
    """[C_out, C_in/groups, Kh, Kw] of a correlation to [C_out, Kw, Kh, C_in/groups] of a convolution."""
    return weight[:, :, ::-1, ::-1].transpose(0, 3, 2, 1)


def _foldable(size: int, k: int, s: int, taps: int, axis: int, c: Connection) -> bool:
    """Whether taps on the padding of the pooled image see no real pixel, along one axis."""
    pooled = (size - k) // s + 1
    reach = c.dilation[axis] * (taps - 1)
    outputs = (pooled + 2 * c.padding[axis] - reach - 1) // c.stride[axis] + 1
    last = (outputs - 1) * c.stride[axis] + reach - c.padding[axis]
    return (c.padding[axis] == 0 or k <= s) and (last < pooled or pooled * s >= size)


def _same_as_matrix(weight: np.ndarray, c: Connection, layer: Layer, integer: bool, payload_max: int) -> bool:
    """Whether Lava's Sparse keeps the weights and no current can reach the 24 bits at which Conv wraps."""
    fan_in = weight.reshape(len(weight), -1)
    size = fan_in.size * int(np.prod(layer.shape[1:])) * int(np.prod(c.pool[0]) if c.pool else 1)
    if size > QUICK_MATRIX:
        return False
    if not integer:
        return True
    windows = c.pool is None or all(k <= s for k, s in zip(*c.pool, strict=True))
    grid = not (weight % 2).any() and WEIGHT_RANGE[0] <= weight.min() and weight.max() <= WEIGHT_RANGE[1]
    most = (payload_max if c.graded else 1) * (int(np.prod(c.pool[0])) if c.pool else 1)
    largest = int(np.abs(fan_in.astype(np.int64)).sum(1).max(initial=0)) * most
    return windows and bool(grid) and largest < STATE_MAX


def _sparse(weight: np.ndarray, c: Connection, layer: Layer, integer: bool, bits: int) -> Synapses:
    """The whole operator, pooling included, as a csr matrix in Lava's order."""
    matrix = conv_matrix(weight, c, layer)
    if c.pool is not None:
        matrix = matrix @ _pool_matrix(c, c.pool)
    matrix = scipy.sparse.csr_matrix(matrix)[flat_order(layer.shape)][:, flat_order(c.source_shape)]
    matrix.sort_indices()
    _check_matrix(matrix.data, c, layer, integer)
    arrays = {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr}
    fields = {"message_bits": bits, "weight_exp": 0, "matrix_shape": matrix.shape}
    return Synapses("sparse", fields, arrays)


def conv_matrix(weight: np.ndarray, c: Connection, layer: Layer) -> scipy.sparse.csr_matrix:
    """The convolution as a matrix [flat output, flat (pooled) input], C order of (C, H, W)."""
    channels, height, width = c.source_shape
    if c.pool is not None:
        height, width = ((n - k) // s + 1 for n, k, s in zip((height, width), *c.pool, strict=True))
    outputs, per_group, kh, kw = weight.shape
    out_h, out_w = layer.shape[1:]
    if outputs * per_group * kh * kw * out_h * out_w > MATRIX_LIMIT:
        _refuse(
            layer, f"written out, it has more than {MATRIX_LIMIT} synapses.", "Use non-overlapping pooling."
        )
    o, i, ky, kx, y, x = np.ogrid[:outputs, :per_group, :kh, :kw, :out_h, :out_w]
    row = y * c.stride[0] + ky * c.dilation[0] - c.padding[0]
    column = x * c.stride[1] + kx * c.dilation[1] - c.padding[1]
    channel = o // (outputs // c.groups) * per_group + i
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    shape = np.broadcast_shapes(o.shape, i.shape, ky.shape, kx.shape, y.shape, x.shape)
    keep = np.broadcast_to(inside, shape)
    target = np.broadcast_to((o * out_h + y) * out_w + x, shape)[keep]
    source = np.broadcast_to((channel * height + row) * width + column, shape)[keep]
    values = np.broadcast_to(weight[..., None, None], shape)[keep]
    size = (outputs * out_h * out_w, channels * height * width)
    return scipy.sparse.csr_matrix((values, (target, source)), shape=size)


def _pool_matrix(c: Connection, pool: tuple[tuple[int, int], tuple[int, int]]) -> scipy.sparse.csr_matrix:
    """The sum pooling as a 0/1 matrix [flat pooled, flat source]."""
    (ky, kx), (sy, sx) = pool
    channels, height, width = c.source_shape
    out_h, out_w = (height - ky) // sy + 1, (width - kx) // sx + 1
    ch, y, x, a, b = np.ogrid[:channels, :out_h, :out_w, :ky, :kx]
    shape = (channels, out_h, out_w, ky, kx)
    target = np.broadcast_to((ch * out_h + y) * out_w + x, shape).ravel()
    source = np.broadcast_to((ch * height + y * sy + a) * width + x * sx + b, shape).ravel()
    ones = np.ones(len(target), np.int32)
    return scipy.sparse.csr_matrix(
        (ones, (target, source)), shape=(channels * out_h * out_w, channels * height * width)
    )


def _typed_weight(c: Connection, layer: Layer, integer: bool) -> np.ndarray:
    weight = np.asarray(c.weight)
    if not np.isfinite(weight).all():
        _refuse(layer, "a weight is not finite.", "Check the export.")
    if not integer:
        return weight.astype(np.float64)
    if not np.array_equal(weight, np.rint(weight)) or np.abs(weight).max(initial=0) > STATE_MAX:
        _refuse(
            layer, "fixed-point weights must be integers of at most 24 bits.", "Quantise the program first."
        )
    return weight.astype(np.int32)


def _check_matrix(values: np.ndarray, c: Connection, layer: Layer, integer: bool) -> None:
    """Dense and Sparse clip to -256..254 and drop the lowest bit, silently."""
    if not integer or not values.size:
        return
    low, high = WEIGHT_RANGE
    if values.min() < low or values.max() > high or (values % 2).any():
        pooled = " after summing overlapping pooling windows" if c.pool is not None else ""
        _refuse(
            layer,
            f"weights span {values.min()}..{values.max()}{pooled}; Lava keeps even {low}..{high}.",
            "Quantise to that grid.",
        )


def _check_conv_sum(weight: np.ndarray, layer: Layer, integer: bool, payload_max: int) -> None:
    """Lava casts the sum from float64 to int32 before it wraps to 24 bits; the cast must be defined."""
    largest = (
        int(np.abs(weight.astype(np.int64)).sum((1, 2, 3)).max(initial=0)) * payload_max if integer else 0
    )
    if largest >= 1 << 31:
        _refuse(layer, f"the current may reach {largest}, beyond 32 bits.", "Use a smaller scale.")


def neuron(layer: Layer, integer: bool) -> dict[str, Any]:
    """Scalar fields of the layer's LIF, checked: a float where Lava shifts bits would hang its runtime.

    Raises:
        UnsupportedNode: not integers, or outside what Lava's model and Loihi hold.
    """
    fields = {"du": layer.du, "dv": layer.dv, "vth": layer.vth, "bias_exp": layer.bias_exp}
    if not integer:
        if not np.isfinite([*fields.values()]).all() or not np.isfinite(layer.bias_mant).all():
            _refuse(layer, "a neuron parameter is not finite.", "Check the export.")
        return {k: float(v) for k, v in fields.items()} | {"bias_exp": 0}
    limits = {"du": (0, 4095), "dv": (0, 4096), "vth": (0, VTH_MAX), "bias_exp": (-7, 7)}
    for name, (low, high) in limits.items():
        if fields[name] != int(fields[name]) or not low <= fields[name] <= high:
            _refuse(
                layer,
                f"{name} is {fields[name]}; integers {low}..{high} are possible.",
                "Quantise the program.",
            )
    return {k: int(v) for k, v in fields.items()}


def bias(layer: Layer, integer: bool) -> np.ndarray:
    """The layer's bias in Lava's layout: int32 mantissas of 13 signed bits, or float64."""
    values = np.broadcast_to(np.asarray(layer.bias_mant), layer.shape)
    if integer and (
        not np.array_equal(values, np.rint(values)) or values.min() < -4096 or values.max() > 4095
    ):
        _refuse(layer, "bias mantissas must be integers in -4096..4095.", "Use a larger bias_exp.")
    return to_lava(values.astype(np.int32 if integer else np.float64), 0)


def check_depths(layered: LayeredProgram) -> dict[str, int]:
    """Depth of each layer; each connection delays by one step, so all paths must be equally long.

    Raises:
        UnsupportedNode: some are not.
    """
    depth = layered.depth()
    for layer in layered.layers:
        sources = {c.source: depth[c.source] for c in layer.connections}
        if len(set(sources.values())) > 1:
            _refuse(
                layer, f"its inputs lag by different numbers of steps: {sources}.", "Insert relay layers."
            )
    return depth


def _refuse(layer: Layer, why: str, fix: str) -> None:
    raise UnsupportedNode(f"Lava cannot run layer '{layer.name}' as it is:", why, fix)
