"""Synaptic sums of a connection over a box of its source: the tightest bounds, in exact integers.

With c = low + high and r = high - low, twice the ends are W c -+ |W| r. Shift, wrap-around and the sum over
delays follow as in `rsc.hw_targets.loihi_synapses`.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from rsc.hw_targets.loihi_synapses import WRAP, Synapses
from rsc.layered import Connection
from rsc.robustness.intervals_box import INT32, Box, binary, wrapped


@dataclasses.dataclass(frozen=True, eq=False)
class _Term:
    """Synapses of one delay k; weight and |weight| in a type in which all sums are exact."""

    k: int
    weight: Tensor
    size: Tensor


class IntervalSynapses:
    """A connection that maps boxes to boxes.

    Args:
        largest: largest magnitude of what the source sends.
        shape: of the layer that is fed.
    """

    def __init__(
        self, connection: Connection, largest: int, shape: tuple[int, ...], device: torch.device
    ) -> None:
        self.connection, self.shape = connection, shape
        self.exact = Synapses(connection, largest, shape, device)
        # products of sums and differences of two values, each of at most twice the bound
        narrow = 2 * self.exact.bound < 1 << 24 and device.type == "cpu"
        self.dtype = torch.float32 if narrow else torch.float64
        self.terms = tuple(_Term(k, w.to(self.dtype), w.abs().to(self.dtype)) for k, w in self.exact.terms)

    def source(self, box: Box) -> Box:
        """What the synapses see of their source: 0 or 1 unless the connection is graded."""
        return box if self.connection.graded else binary(box)

    def over_time(self, source: Box) -> Box:
        """Sums int64 [T, B, *shape] that arrive at each step, of a source box [T, B, ...]."""
        seen, (steps, batch) = self.source(source), source.low.shape[:2]
        zero = torch.zeros((steps, batch, *self.shape), dtype=torch.int64, device=source.low.device)
        total = Box.point(zero)
        for term in self.terms:
            if term.k < steps:
                early = seen.map(lambda x, late=steps - term.k: x[:late].flatten(0, 1))
                late = self._sums(early, term).map(lambda x, n=steps - term.k: x.unflatten(0, (n, batch)))
                total = late if term.k == 0 and len(self.terms) == 1 else _added(total, late, term.k)
        return total

    def at(self, low: list[Tensor], high: list[Tensor], t: int) -> list[Box]:
        """Sums [B, *shape] that arrive at step t, one box per delay, of a source's steps 0, 1, ..."""
        return [
            self._sums(self.source(Box(low[t - term.k], high[t - term.k])), term)
            for term in self.terms
            if term.k <= t
        ]

    def _sums(self, x: Box, term: _Term) -> Box:
        """int64 [N, *shape] of source values [N, ...]."""
        low, high = (end.to(self.dtype) for end in (x.low, x.high))
        middle = self.exact.linear(low + high, term.weight).round_().long()
        half = self.exact.linear(high - low, term.size).round_().long()
        sums = Box((middle - half) >> 1, (middle + half) >> 1)
        c = self.connection
        if c.kind == "conv":
            sums = wrapped(sums, WRAP)
        elif c.weight_exp:
            exponent = c.weight_exp
            sums = sums.map(lambda y: y << exponent if exponent > 0 else y >> -exponent)
        return wrapped(sums, INT32).map(lambda y: y.reshape(-1, *self.shape))


def _added(total: Box, late: Box, k: int) -> Box:
    """`late` arrives from step k on."""
    ends = []
    for end, more in ((total.low, late.low), (total.high, late.high)):
        end = end.clone()
        end[k:] += more
        ends.append(end)
    return Box(*ends)
