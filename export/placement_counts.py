"""Exact counts of the synapses of a connection into any box of its targets, without unfolding convolutions.

The geometry of a convolution (stride, padding, dilation, a sum pooling in front) is separable: along an axis,
source site s and target site t are joined by a set of kernel taps, and there are few distinct sets. With a, b
the numbers of these sets along both axes, the weight of the synapse is

    E[c_out, c_in, a, b] = sum of W[c_out, c_in, i, j] over taps i in a, j in b,

and it exists where E is not 0. A dense connection is a convolution whose kernel is as large as its source.
Pooling is thus part of the synapse: one per pair of neurons (and delay), with the summed weight.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from rsc.export.chips import weight_bits
from rsc.layered import Connection

Grid = tuple[int, int, int]
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""(first, end) of channels, rows and columns."""


def whole(grid: Grid) -> Box:
    """The box of all sites."""
    return ((0, grid[0]), (0, grid[1]), (0, grid[2]))


def volume(box: Box) -> int:
    """Sites of a box."""
    return math.prod(end - first for first, end in box)


def sites(box: Box, grid: Grid) -> np.ndarray:
    """Flat indices, C order, int64, of the sites of a box."""
    c, h, w = (np.arange(first, end) for first, end in box)
    return ((c[:, None, None] * grid[1] + h[:, None]) * grid[2] + w).ravel()


@dataclasses.dataclass(frozen=True, eq=False)
class Reach:
    """Synapses per source neuron into a box, those that have none left out.

    Fields:
        sources: flat indices of the source neurons, ascending, int64 [axons].
        lengths: synapses of each, int64 [axons].
        shared: synapses of each distinct list, int64: lists of the same input channel that differ by a
            shift of rows and columns count once.
    """

    sources: np.ndarray
    lengths: np.ndarray
    shared: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Axis:
    """How source and target sites are joined along one axis.

    Fields:
        numbers: number of the set of taps or -1, int32 [targets, span]; column u is source site first + u.
        first: int64 [targets], negative in the padding.
        size: source sites.
    """

    numbers: np.ndarray
    first: np.ndarray
    size: int

    def cut(self, start: int, end: int) -> tuple[np.ndarray, int]:
        """(numbers of targets start..end by source site, the source site of their first column)."""
        low = max(0, int(self.first[start]))
        high = max(low, min(self.size, int(self.first[end - 1]) + self.numbers.shape[1]))
        table = np.full((end - start, high - low), -1, np.int32)
        for row, line, at in zip(table, self.numbers[start:end], self.first[start:end] - low, strict=True):
            left = max(0, -at)
            right = max(left, min(len(line), len(row) - at))
            row[at + left : at + right] = line[left:right]
        return table, low


@dataclasses.dataclass(frozen=True, eq=False)
class Wiring:
    """The synapses of one connection.

    Fields:
        present: synapses per [C_out, C_in/groups, A, B], bool or counts (of several delays).
        rows, cols: geometry along H and W.
        source: [C, H, W], or [n, 1, 1]; its C order is that of the source neurons.
        groups: of the convolution.
        bits, exponent: of the weights, see `rsc.export.chips.weight_bits`.
    """

    present: np.ndarray
    rows: Axis
    cols: Axis
    source: Grid
    groups: int
    bits: int
    exponent: int
    _sums: dict[tuple[int, int], np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def grid(self) -> Grid:
        """Targets [C, H, W]; of a dense connection [n, 1, 1]."""
        return (len(self.present), len(self.rows.first), len(self.cols.first))

    def reach(self, box: Box, grid: Grid | None = None, shared: bool = True) -> Reach:
        """What reaches a box of targets.

        Args:
            grid: the grid that the box is in, if it is not that of the wiring (which then is [n, 1, 1]).
            shared: False leaves `Reach.shared` empty.
        """
        if grid is None or grid == self.grid:
            (sums, channel), (_, across, along) = self._per_channel(*box[0]), box
        else:
            sums, channel = self.present[sites(box, grid)].sum(0, dtype=np.int64), 0
            across, along = (0, 1), (0, 1)
        (rows, row), (cols, col) = self.rows.cut(*across), self.cols.cut(*along)
        lengths = _combine(sums, _taps(rows, sums.shape[1]), _taps(cols, sums.shape[2]))
        c, y, x = np.nonzero(lengths)
        index = ((c + channel) * self.source[1] + y + row) * self.source[2] + x + col
        lists = np.zeros(0, np.int64)
        if shared:
            lists = _combine(sums, _taps(_shapes(rows), sums.shape[1]), _taps(_shapes(cols), sums.shape[2]))
        return Reach(index, lengths[c, y, x], lists[lists > 0])

    def fan_in(self) -> np.ndarray:
        """Synapses into each target, int64 in the shape of the grid."""
        per = self.present.sum(1, dtype=np.int64)
        tall, wide = _taps(self.rows.numbers.T, per.shape[1]), _taps(self.cols.numbers.T, per.shape[2])
        return _combine(per, tall, wide)

    def fan_out(self) -> np.ndarray:
        """Synapses out of each source neuron, int64 in the shape of the source."""
        sums, _ = self._per_channel(0, len(self.present))
        (rows, row), (cols, col) = self.rows.cut(0, self.grid[1]), self.cols.cut(0, self.grid[2])
        out = np.zeros(self.source, np.int64)
        found = _combine(sums, _taps(rows, sums.shape[1]), _taps(cols, sums.shape[2]))
        out[:, row : row + rows.shape[1], col : col + cols.shape[1]] = found
        return out

    def flattened(self) -> Wiring:
        """The same synapses with targets [n, 1, 1] and a matrix [targets, sources]; as large as it sounds."""
        matrix = np.zeros((math.prod(self.grid), math.prod(self.source)), np.int16)
        for target, (c, y, x) in enumerate(np.ndindex(self.grid)):
            found = self.reach(((c, c + 1), (y, y + 1), (x, x + 1)), shared=False)
            matrix[target, found.sources] = found.lengths
        source = (matrix.shape[1], 1, 1)
        return Wiring(matrix[:, :, None, None], _ONE, _ONE, source, 1, self.bits, self.exponent)

    def _per_channel(self, first: int, end: int) -> tuple[np.ndarray, int]:
        """(synapses [C_in, A, B] into output channels first..end, the first input channel)."""
        size = len(self.present) // self.groups
        group = first // size
        if (first, end) not in self._sums:
            if len(self._sums) > _REMEMBERED:
                self._sums.clear()
            starts = [0, *range((group + 1) * size - first, end - first, size)]
            parts = np.add.reduceat(self.present[first:end], starts, axis=0, dtype=np.int64)
            self._sums[first, end] = parts.reshape(len(starts) * parts.shape[1], *parts.shape[2:])
        return self._sums[first, end], group * self.present.shape[1]


_REMEMBERED = 64  # ranges of channels; boxes beside each other have the same
_ONE = Axis(np.zeros((1, 1), np.int32), np.zeros(1, np.int64), 1)


def wire(connection: Connection) -> Wiring:
    """Count the synapses of a connection with integer weights."""
    weight, source = connection.weight, connection.source_shape
    if connection.kind == "dense" and connection.pool is None:
        weight = weight.reshape(len(weight), -1)
        bits, exponent = weight_bits(weight)
        present = (weight != 0)[:, :, None, None]
        return Wiring(present, _ONE, _ONE, (weight.shape[1], 1, 1), 1, bits, exponent)
    channels, height, width = source
    pool = connection.pool or ((1, 1), (1, 1))
    steps = (connection.stride, connection.padding, connection.dilation)
    if connection.kind == "dense":
        pooled = ((n - k) // s + 1 for n, k, s in zip((height, width), *pool, strict=True))
        weight = weight.reshape(len(weight), channels, *pooled)
        steps = ((1, 1), (0, 0), (1, 1))
    (rows, tall), (cols, wide) = (
        _axis((height, width)[i], (pool[0][i], pool[1][i]), weight.shape[2 + i], *(step[i] for step in steps))
        for i in (0, 1)
    )
    parts = [weight]
    if connection.delay.ndim:
        delay = connection.delay.reshape(weight.shape)
        parts = [np.where(delay == d, weight, 0) for d in np.unique(delay)]
    folded = [_fold(part, tall, wide) for part in parts]
    present = folded[0] != 0
    if len(folded) > 1:
        present = np.asarray(np.sum([part != 0 for part in folded], axis=0, dtype=np.int16))
    bits, exponent = weight_bits(np.concatenate([part.ravel() for part in folded]))
    return Wiring(present, rows, cols, (channels, height, width), connection.groups, bits, exponent)


def _axis(
    size: int, pool: tuple[int, int], kernel: int, stride: int, padding: int, dilation: int
) -> tuple[Axis, np.ndarray]:
    """The geometry along one axis and its sets of taps, bool [sets, kernel].

    Args:
        pool: (kernel, stride) of the sum pooling; 1, 1 if there is none.
    """
    pooled = (size - pool[0]) // pool[1] + 1
    targets = (pooled + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    span = dilation * (kernel - 1) * pool[1] + pool[0]
    start = np.arange(targets) * stride - padding
    at = start[:, None] + np.arange(kernel) * dilation
    first = start * pool[1]
    site = first[:, None] + np.arange(span)
    after = site[:, None] - at[..., None] * pool[1]
    taps = ((at >= 0) & (at < pooled))[..., None] & (after >= 0) & (after < pool[0])
    taps &= ((site >= 0) & (site < size))[:, None]
    lines = np.packbits(taps.transpose(0, 2, 1).reshape(-1, kernel), axis=1)
    packed, number = np.unique(lines, axis=0, return_inverse=True)
    sets = np.unpackbits(packed, axis=1, count=kernel).astype(bool)
    number = number.reshape(targets, span)
    if not sets[0].any():  # the empty set sorts first
        sets, number = sets[1:], number - 1
    return Axis(number.astype(np.int32), first, size), sets


def _fold(weight: np.ndarray, tall: np.ndarray, wide: np.ndarray) -> np.ndarray:
    """E[..., a, b]: weights summed over the taps of each pair of sets."""
    if all(len(s) and (s.sum(1) == 1).all() for s in (tall, wide)):
        return weight[..., tall.argmax(1)[:, None], wide.argmax(1)]
    wide_sum = weight.astype(np.float64) @ wide.T.astype(np.float64)
    return np.rint(np.swapaxes(np.swapaxes(wide_sum, -1, -2) @ tall.T, -1, -2)).astype(np.int64)


def _taps(numbers: np.ndarray, sets: int) -> np.ndarray:
    """How often each set occurs in each column, int64 [columns, sets]."""
    columns = numbers.shape[1]
    row, column = np.nonzero(numbers >= 0)
    flat = column * sets + numbers[row, column]
    return np.bincount(flat, minlength=columns * sets).reshape(columns, sets)


def _shapes(numbers: np.ndarray) -> np.ndarray:
    """The distinct columns, each moved up until its first entry is in the first row."""
    some = numbers[:, (numbers >= 0).any(0)]
    first = (some >= 0).argmax(0)
    index = np.arange(len(some))[:, None] + first
    moved = np.where(index < len(some), np.take_along_axis(some, index % len(some), 0), -1)
    return np.unique(moved, axis=1)


def _combine(sums: np.ndarray, tall: np.ndarray, wide: np.ndarray) -> np.ndarray:
    """sum over a, b of sums[c, a, b] tall[y, a] wide[x, b], int64 [c, y, x]; exact in float64 below 2^53."""
    rows = tall.astype(np.float64) @ (sums.astype(np.float64) @ wide.T.astype(np.float64))
    return np.rint(rows).astype(np.int64)
