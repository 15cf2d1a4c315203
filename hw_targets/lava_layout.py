"""A layered program in the shapes and number types of Lava's processes.

Lava holds images as (W, H, C) and flips convolution kernels, torch holds (C, H, W) and does not, so

    w_lava = w[:, :, ::-1, ::-1].transpose(0, 3, 2, 1),   x_lava = x.transpose(2, 1, 0).

Lava has no pooling process: a sum pooling goes into the synapses behind it (`rsc.pooling`). Where a kernel
cannot take it in, for kernels Lava's 8-bit fields cannot hold and for synapses that wait, the operator is
written out as a matrix.

Dense and Sparse keep 8 bits of a weight, of which the sign takes one unless all weights of the process share
it. So a process of weights of both signs keeps even numbers in -256..254 ("MIXED"), one of weights of one
sign every number in 0..255 ("EXCITATORY") or -255..0 ("INHIBITORY"). Conv keeps what it is given.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NoReturn

import numpy as np
import scipy.sparse

from rsc.errors import UnsupportedNode
from rsc.layered import CONSTANT, DELAY_MAX, STATE_MAX, Connection, Layer
from rsc.pooling import pool_matrix, pooled_size, unpooled_kernel, unpooled_matrix

WEIGHT_MIN = -256
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
    kernel = unpooled_kernel(connection, weight)
    if kernel is not None and _largest_field(kernel) <= CONV_FIELD_MAX:
        _check_sum(kernel.weight, layer, integer, largest)
        return _conv(kernel, bits)
    return _sparse(weight, connection, layer, integer, bits, largest)


def _constant(weight: np.ndarray, c: Connection, layer: Layer, integer: bool) -> Synapses:
    """The synapses of the constant [out, 1], one column for each step from which some are heard."""
    if c.kind != "dense" or weight.size != len(weight):
        _refuse(
            layer, "the constant is one value, heard through a matrix [out, 1].", "Use a dense connection."
        )
    column = weight.reshape(len(weight), 1)
    signs = _signs(column, c, layer, integer)
    arrivals = np.unique(c.delay)
    matrix = np.where(c.delay.reshape(-1, 1) == arrivals, column, 0)[flat_order(layer.shape)]
    fields = {"message_bits": 1, "weight_exp": int(c.weight_exp), "sign_mode": signs}
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
    if c.pool is not None and waits.ndim:
        _refuse(layer, "synapses behind a pooling wait differently.", "Use a connection for each delay.")
    matrix = unpooled_matrix(c, weight)
    signs = _signs(matrix, c, layer, integer)
    if bits and c.weight_exp < 0:
        _check_sum(matrix, layer, integer, payload_max)
    at = np.ix_(flat_order(layer.shape), flat_order(c.source_shape))
    fields = {"message_bits": bits, "weight_exp": int(c.weight_exp), "sign_mode": signs}
    arrays = {"weight": np.ascontiguousarray(matrix[at])}
    if not waits.any():
        return Synapses("dense", fields, arrays)
    longest = int(waits.max())
    _check_waiting(matrix.size, longest, layer)
    if integer and bits and payload_max * -WEIGHT_MIN >= 1 << 31:
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


def _conv(c: Connection, bits: int) -> Synapses:
    """Lava's Conv of a convolution without pooling."""
    fields = {
        "input_shape": c.source_shape[::-1],
        "stride": c.stride[::-1],
        "padding": c.padding[::-1],
        "dilation": c.dilation[::-1],
        "groups": c.groups,
        "message_bits": bits,
    }
    return Synapses("conv", fields, {"weight": np.ascontiguousarray(_flipped(c.weight))})


def _largest_field(c: Connection) -> int:
    """The largest of the numbers that Lava keeps in 8 bits."""
    return max(*c.weight.shape[2:], *c.stride, *c.padding, *c.dilation, c.groups)


def _flipped(weight: np.ndarray) -> np.ndarray:
    """[C_out, C_in/groups, Kh, Kw] of a correlation to [C_out, Kw, Kh, C_in/groups] of a convolution."""
    return weight[:, :, ::-1, ::-1].transpose(0, 3, 2, 1)


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
    grid = bool(sign_mode(weight >> exponent))
    most = (payload_max if c.graded else 1) * (int(np.prod(c.pool[0])) if c.pool else 1)
    largest = int(np.abs(fan_in.astype(np.int64)).sum(1).max(initial=0)) * most
    return windows and grid and largest < STATE_MAX


def _sparse(
    weight: np.ndarray, c: Connection, layer: Layer, integer: bool, bits: int, payload_max: int
) -> Synapses:
    """The whole operator, pooling included, as a csr matrix in Lava's order."""
    matrix = conv_matrix(weight, c, layer)
    if c.pool is not None:
        matrix = matrix @ pool_matrix(c.source_shape, c.pool)
    matrix = scipy.sparse.csr_matrix(matrix)[flat_order(layer.shape)][:, flat_order(c.source_shape)]
    matrix.eliminate_zeros()
    matrix.sort_indices()
    exponent = _shared_exponent(matrix.data) if integer else 0
    data = matrix.data >> exponent if integer else matrix.data
    signs = _signs(data, c, layer, integer)
    if integer and int(abs(matrix).sum(1).max()) * payload_max >= STATE_MAX:
        _refuse(
            layer,
            "a convolution wraps at 24 bits; written out, Lava would not.",
            "Use a smaller scale or no delay.",
        )
    arrays = {"data": data, "indices": matrix.indices, "indptr": matrix.indptr}
    fields = {"message_bits": bits, "weight_exp": exponent, "sign_mode": signs, "matrix_shape": matrix.shape}
    return Synapses("sparse", fields, arrays)


def conv_matrix(weight: np.ndarray, c: Connection, layer: Layer) -> scipy.sparse.csr_matrix:
    """The convolution as a matrix [flat output, flat (pooled) input], C order of (C, H, W)."""
    channels, height, width = c.source_shape
    if c.pool is not None:
        height, width = pooled_size(c.source_shape, c.pool)
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


def sign_mode(values: np.ndarray) -> str:
    """Lava's sign mode in which Dense and Sparse keep integer weights as they are; "" if they never do."""
    low, high = values.min(initial=0), values.max(initial=0)
    if low >= WEIGHT_MIN and high <= 254 and not (values % 2).any():
        return "MIXED"
    if low == 0:
        return "EXCITATORY" if high <= 255 else ""
    return "INHIBITORY" if high == 0 and low >= -255 else ""


def _signs(values: np.ndarray, c: Connection, layer: Layer, integer: bool) -> str:
    """The sign mode of a matrix; what is not on its grid Lava would clip and cut silently."""
    signs = sign_mode(values) if integer else "MIXED"
    if not signs:
        pooled = " after summing overlapping pooling windows" if c.pool is not None else ""
        _refuse(
            layer,
            f"weights span {values.min()}..{values.max()}{pooled}; Lava keeps even numbers in -256..254, or "
            "0..255 or -255..0 where all have one sign.",
            "Quantise to that grid (9 bits of both signs: one connection for each sign).",
        )
    return signs


def _shared_exponent(values: np.ndarray) -> int:
    """The power of two that brings integers onto a grid, without loss; 0 if none does."""
    shifts = (e for e in range(24) if not (values % (1 << e)).any() and sign_mode(values >> e))
    return next(shifts, 0)


def _check_sum(weight: np.ndarray, layer: Layer, integer: bool, payload_max: int) -> None:
    """Sums of weights [out, ...] times payloads must fit 32 bits before Lava casts or shifts them."""
    rows = np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(1) if integer else np.zeros(0, int)
    largest = int(rows.max(initial=0)) * payload_max
    if largest >= 1 << 31:
        _refuse(layer, f"the current may reach {largest}, beyond 32 bits.", "Use a smaller scale.")


def _refuse(layer: Layer, why: str, fix: str) -> NoReturn:
    raise UnsupportedNode(f"Lava cannot run layer '{layer.name}' as it is:", why, fix)
