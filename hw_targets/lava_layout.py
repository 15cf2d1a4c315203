"""A layered program in the shapes and number types of Lava's processes.

Lava holds images as (W, H, C) and flips convolution kernels, torch holds (C, H, W) and does not, so

    w_lava = w[:, :, ::-1, ::-1].transpose(0, 3, 2, 1),   x_lava = x.transpose(2, 1, 0).

Lava has no pooling process. A sum pooling (kernel k, stride s) in front of a convolution (K, stride S,
padding P, dilation D) is the convolution with the kernel w'[i D s + a] = w[i] (a < k, added where
windows overlap), stride S s and padding P s, as long as no tap that falls on the convolution's
padding covers real pixels; where one would, for kernels Lava's 8-bit fields cannot hold and for synapses
that wait, the operator is written out as a matrix.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse

from rsc.errors import UnsupportedNode
from rsc.layered import CONSTANT, DELAY_MAX, STATE_MAX, Connection, Layer

WEIGHT_RANGE = (-256, 254)
CONV_FIELD_MAX = 127  # Lava keeps kernel size, stride, padding, dilation and groups in int8
QUICK_MATRIX = 4_000_000  # synapses up to which a written-out convolution is quicker than Lava's own
MATRIX_LIMIT = 50_000_000  # synapses of one written-out operator, about 600 MB; times the steps they wait
NO_WAIT = np.zeros((), np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class Synapses:
    """One connection process.

    Fields:
        kind: "conv", "dense", "sparse", "delay_dense" or "delay_sparse".
        fields, arrays: its parameters, ready for the header and the arrays of a job.
        arrivals: of the constant: the first step of the program at which each column of "weight" is sent.
    """

    kind: str
    fields: dict[str, Any]
    arrays: dict[str, np.ndarray]
    arrivals: tuple[int, ...] = ()


def to_lava(x: np.ndarray, lead: int) -> np.ndarray:
    """Reverse all axes after the first `lead`: [..., C, H, W] to [..., W, H, C] and back."""
    return np.ascontiguousarray(x.transpose(*range(lead), *range(x.ndim - 1, lead - 1, -1)))


def flat_order(shape: tuple[int, ...]) -> np.ndarray:
    """Flat index in `shape` of each element in Lava's flat order."""
    return to_lava(np.arange(int(np.prod(shape))).reshape(shape), 0).ravel()


def synapses(
    connection: Connection,
    layer: Layer,
    integer: bool,
    payload_max: int = 1,
    matrices: bool = False,
    waits: np.ndarray = NO_WAIT,
) -> Synapses:
    """The Lava process that computes the connection's current.

    Args:
        connection, layer: what to build.
        integer: fixed-point arithmetic.
        payload_max: largest magnitude the source sends; of spikes 1, and only if they are 0 or 1.
        matrices: write a convolution out as a sparse matrix where that is the same operator and small.
        waits: steps that each synapse waits beyond the one step of every process, [] or [out, in].

    Raises:
        UnsupportedNode: Lava would compute something else.
    """
    weight = _typed_weight(connection, layer, integer)
    if waits.min(initial=0) < 0 or waits.max(initial=0) > DELAY_MAX:
        _refuse(layer, f"a synapse waits {waits.max()} steps; Loihi holds {DELAY_MAX}.", "Delay it less.")
    if connection.source == CONSTANT:
        return _constant(weight, connection, layer, integer)
    bits = max(1, int(payload_max).bit_length() + 1) if connection.graded else 0
    if connection.kind == "dense":
        return _dense(weight, connection, layer, integer, bits, payload_max, waits)
    if connection.weight_exp:
        _refuse(layer, "Lava's convolution ignores weight_exp.", "Fold the exponent into the weights.")
    if waits.ndim:
        _refuse(layer, "the synapses of a convolution wait differently.", "Write it out as a matrix.")
    # Spikes are 0 and 1 already: read as numbers Sparse needs one product instead of a column selection.
    quick = bits or int(payload_max <= 1)
    largest = payload_max if connection.graded else 1
    if waits.any():
        return _waiting(_sparse(weight, connection, layer, integer, quick, largest), layer, int(waits))
    if matrices and _same_as_matrix(weight, connection, layer, integer, payload_max):
        return _sparse(weight, connection, layer, integer, quick, largest)
    composed = _composed(weight, connection)
    if composed is not None and max(composed.fields["limits"]) <= CONV_FIELD_MAX:
        _check_sum(composed.arrays["weight"], layer, integer, largest)
        fields = {k: v for k, v in composed.fields.items() if k != "limits"} | {"message_bits": bits}
        return Synapses("conv", fields, composed.arrays)
    return _sparse(weight, connection, layer, integer, bits, largest)


def _constant(weight: np.ndarray, c: Connection, layer: Layer, integer: bool) -> Synapses:
    """The synapses of the constant [out, 1], one column for each step from which some are heard."""
    if c.kind != "dense" or weight.size != len(weight):
        _refuse(
            layer, "the constant is one value, heard through a matrix [out, 1].", "Use a dense connection."
        )
    column = weight.reshape(len(weight), 1)
    _check_matrix(column, c, layer, integer)
    arrivals = np.unique(c.delay)
    matrix = np.where(c.delay.reshape(-1, 1) == arrivals, column, 0)[flat_order(layer.shape)]
    fields = {"message_bits": 1, "weight_exp": int(c.weight_exp)}
    return Synapses("dense", fields, {"weight": np.ascontiguousarray(matrix)}, tuple(arrivals.tolist()))


def _dense(
    weight: np.ndarray,
    c: Connection,
    layer: Layer,
    integer: bool,
    bits: int,
    payload_max: int,
    waits: np.ndarray,
) -> Synapses:
    """Lava's Dense, or DelayDense where a synapse waits."""
    matrix = weight.reshape(weight.shape[0], -1)
    if c.pool is not None:
        if waits.ndim:
            _refuse(layer, "synapses behind a pooling wait differently.", "Use a connection for each delay.")
        matrix = np.asarray(matrix @ _pool_matrix(c, c.pool))
    _check_matrix(matrix, c, layer, integer)
    if bits and c.weight_exp < 0:
        _check_sum(matrix, layer, integer, payload_max)
    at = np.ix_(flat_order(layer.shape), flat_order(c.source_shape))
    fields = {"message_bits": bits, "weight_exp": int(c.weight_exp)}
    arrays = {"weight": np.ascontiguousarray(matrix[at])}
    if not waits.any():
        return Synapses("dense", fields, arrays)
    longest = int(waits.max())
    _check_waiting(matrix.size, longest, layer)
    if integer and bits and payload_max * -WEIGHT_RANGE[0] >= 1 << 31:
        _refuse(layer, f"a payload of {payload_max} times a weight exceeds 32 bits.", "Use a smaller scale.")
    arrays["delays"] = np.ascontiguousarray(np.broadcast_to(waits, matrix.shape)[at]).astype(np.int64)
    return Synapses("delay_dense", fields | {"longest": longest}, arrays)


def _waiting(built: Synapses, layer: Layer, wait: int) -> Synapses:
    """The sparse synapses as DelaySparse, all with the same wait."""
    _check_waiting(built.arrays["data"].size, wait, layer)
    return dataclasses.replace(built, kind="delay_sparse", fields=built.fields | {"longest": wait})


def _check_waiting(synapses: int, wait: int, layer: Layer) -> None:
    """Lava writes the synapses out once for every step that they can wait, in every step."""
    if synapses * (wait + 1) > MATRIX_LIMIT:
        _refuse(
            layer,
            f"{synapses} synapses that wait up to {wait} steps are more than {MATRIX_LIMIT} in Lava.",
            "Delay fewer synapses, or by less.",
        )


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
    exponent = _shared_exponent(weight)
    grid = _on_grid(weight >> exponent)
    most = (payload_max if c.graded else 1) * (int(np.prod(c.pool[0])) if c.pool else 1)
    largest = int(np.abs(fan_in.astype(np.int64)).sum(1).max(initial=0)) * most
    return windows and grid and largest < STATE_MAX


def _sparse(
    weight: np.ndarray, c: Connection, layer: Layer, integer: bool, bits: int, payload_max: int
) -> Synapses:
    """The whole operator, pooling included, as a csr matrix in Lava's order."""
    matrix = conv_matrix(weight, c, layer)
    if c.pool is not None:
        matrix = matrix @ _pool_matrix(c, c.pool)
    matrix = scipy.sparse.csr_matrix(matrix)[flat_order(layer.shape)][:, flat_order(c.source_shape)]
    matrix.eliminate_zeros()
    matrix.sort_indices()
    exponent = _shared_exponent(matrix.data) if integer else 0
    _check_matrix(matrix.data >> exponent if integer else matrix.data, c, layer, integer)
    if integer and int(abs(matrix).sum(1).max()) * payload_max >= STATE_MAX:
        _refuse(
            layer,
            "a convolution wraps at 24 bits; written out, Lava would not.",
            "Use a smaller scale or no delay.",
        )
    data = matrix.data >> exponent if integer else matrix.data
    arrays = {"data": data, "indices": matrix.indices, "indptr": matrix.indptr}
    fields = {"message_bits": bits, "weight_exp": exponent, "matrix_shape": matrix.shape}
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
    if not _on_grid(values):
        pooled = " after summing overlapping pooling windows" if c.pool is not None else ""
        _refuse(
            layer,
            f"weights span {values.min()}..{values.max()}{pooled}; Lava keeps even {low}..{high}.",
            "Quantise to that grid.",
        )


def _on_grid(values: np.ndarray) -> bool:
    low, high = WEIGHT_RANGE
    return not (values % 2).any() and low <= values.min(initial=0) and values.max(initial=0) <= high


def _shared_exponent(values: np.ndarray) -> int:
    """The power of two that brings integers onto the grid, without loss; 0 if none does."""
    shifts = (e for e in range(24) if not (values % (2 << e)).any() and _on_grid(values >> e))
    return next(shifts, 0)


def _check_sum(weight: np.ndarray, layer: Layer, integer: bool, payload_max: int) -> None:
    """Sums of weights [out, ...] times payloads must fit 32 bits before Lava casts or shifts them."""
    rows = np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(1) if integer else np.zeros(0, int)
    largest = int(rows.max(initial=0)) * payload_max
    if largest >= 1 << 31:
        _refuse(layer, f"the current may reach {largest}, beyond 32 bits.", "Use a smaller scale.")


def _refuse(layer: Layer, why: str, fix: str) -> None:
    raise UnsupportedNode(f"Lava cannot run layer '{layer.name}' as it is:", why, fix)
