"""Sum pooling in front of synapses, put into the synapses: neither Lava nor netx has a process for it.

Behind a pooling (kernel k, stride s) a convolution (K, stride S, padding P, dilation D) is the convolution
with the kernel w'[i D s + a] = w[i] (a < k, added where windows overlap), stride S s and padding P s, as long
as no tap that falls on the convolution's padding covers real pixels. A matrix only gets more columns.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.sparse

from rsc.layered import Connection

Pool = tuple[tuple[int, int], tuple[int, int]]


def pooled_size(shape: tuple[int, ...], pool: Pool) -> tuple[int, int]:
    """(h, w) of an image [C, H, W] behind a pooling; incomplete windows are dropped."""
    height, width = ((n - k) // s + 1 for n, k, s in zip(shape[1:], *pool, strict=True))
    return height, width


def pool_matrix(shape: tuple[int, ...], pool: Pool) -> scipy.sparse.csr_matrix:
    """The pooling of an image [C, H, W] as a 0/1 matrix [C h w, C H W], int32."""
    (ky, kx), (sy, sx) = pool
    channels, height, width = shape
    out_h, out_w = pooled_size(shape, pool)
    ch, y, x, a, b = np.ogrid[:channels, :out_h, :out_w, :ky, :kx]
    full = (channels, out_h, out_w, ky, kx)
    target = np.broadcast_to((ch * out_h + y) * out_w + x, full).ravel()
    source = np.broadcast_to((ch * height + y * sy + a) * width + x * sx + b, full).ravel()
    ones = np.ones(len(target), np.int32)
    return scipy.sparse.csr_matrix(
        (ones, (target, source)), shape=(channels * out_h * out_w, channels * height * width)
    )


def unpooled_matrix(c: Connection, weight: np.ndarray) -> np.ndarray:
    """The matrix [out, flat source] of dense synapses with these weights that sums windows by itself."""
    matrix = weight.reshape(len(weight), -1)
    return matrix if c.pool is None else np.asarray(matrix @ pool_matrix(c.source_shape, c.pool))


def unpooled_kernel(c: Connection, weight: np.ndarray) -> Connection | None:
    """The convolution with these weights that sums windows by itself; None where there is none.

    The weights keep their type, which must hold their sums where windows overlap.
    """
    if c.pool is None:
        return dataclasses.replace(c, weight=weight)
    (ky, kx), (sy, sx) = size, step = c.pool
    taps = weight.shape[2:]
    if not all(_foldable(c, axis, size[axis], step[axis], taps[axis]) for axis in (0, 1)):
        return None
    dy, dx = c.dilation[0] * sy, c.dilation[1] * sx
    wide = np.zeros((*weight.shape[:2], (taps[0] - 1) * dy + ky, (taps[1] - 1) * dx + kx), weight.dtype)
    for i, j in np.ndindex(*taps):
        wide[:, :, i * dy : i * dy + ky, j * dx : j * dx + kx] += weight[:, :, i, j, None, None]
    return dataclasses.replace(
        c,
        weight=wide,
        pool=None,
        stride=(c.stride[0] * sy, c.stride[1] * sx),
        padding=(c.padding[0] * sy, c.padding[1] * sx),
        dilation=(1, 1),
    )


def _foldable(c: Connection, axis: int, k: int, s: int, taps: int) -> bool:
    """Whether taps on the padding of the pooled image see no real pixel, along one axis."""
    size = c.source_shape[1 + axis]
    pooled = (size - k) // s + 1
    reach = c.dilation[axis] * (taps - 1)
    outputs = (pooled + 2 * c.padding[axis] - reach - 1) // c.stride[axis] + 1
    last = (outputs - 1) * c.stride[axis] + reach - c.padding[axis]
    return (c.padding[axis] == 0 or k <= s) and (last < pooled or pooled * s >= size)
