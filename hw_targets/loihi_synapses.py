"""Synaptic sums of a connection as Lava computes them, batched: exact integers held in floats.

Sums run in float32 while neither they nor any part of them can reach 2^24, so that every order of adding is
exact, else in float64. On CUDA a float32 product keeps only 11 bits where TF32 is allowed, and convolutions
may go through transforms (Winograd, FFT) that round: what does not fit that runs in float64 and is rounded.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rsc.layered import Connection

WRAP = 1 << 23  # Lava's Conv wraps its sums to 24 bits


class Synapses:
    """A connection on a device.

    Args:
        largest: largest magnitude of what the source sends (1: spikes).
        shape: of the layer that is fed.

    Fields:
        bound: proven bound of |sum| and of all its parts, before the shift by weight_exp.
        terms: (delay k, weight of the synapses of that delay and 0 elsewhere).
    """

    def __init__(
        self, connection: Connection, largest: int, shape: tuple[int, ...], device: torch.device
    ) -> None:
        self.connection, self.shape = connection, shape
        most = largest if connection.graded else 1
        if connection.pool:
            most *= math.prod(connection.pool[0])
        rows = np.abs(connection.weight.reshape(len(connection.weight), -1).astype(np.int64)).sum(1)
        self.bound = int(rows.max(initial=0)) * most
        narrow = self.bound < 1 << 24
        if device.type == "cuda":
            heaviest = int(np.abs(connection.weight).max(initial=0))
            narrow = narrow and connection.kind == "dense" and max(most, heaviest) < 1 << 11
        self.dtype = torch.float32 if narrow else torch.float64
        self.terms = tuple((k, torch.from_numpy(w).to(device, self.dtype)) for k, w in _by_delay(connection))
        self._heaviest_row = self.bound // most if most else 0
        self._narrow: tuple[tuple[int, Tensor], ...] | None = None

    @property
    def reach(self) -> int:
        """Proven bound of what arrives, all delays together."""
        shift = self.connection.weight_exp if self.connection.kind == "dense" else 0
        return (self.bound << shift if shift > 0 else self.bound >> -shift) + len(self.terms)

    def over_time(self, x: Tensor) -> Tensor:
        """Sums int32 [T, B, *shape] that arrive at each step, of source values x [T, B, ...]."""
        steps, batch = x.shape[:2]
        total: Tensor | None = None
        for k, weight in self._terms_for(x):
            if k >= steps:
                continue
            late = self._sums(x[: steps - k].flatten(0, 1), weight).unflatten(0, (steps - k, batch))
            if k == 0 and total is None:
                total = late
                continue
            if total is None:
                total = torch.zeros((steps, batch, *self.shape), dtype=torch.int32, device=x.device)
            total[k:] += late
        if total is None:
            total = torch.zeros((steps, batch, *self.shape), dtype=torch.int32, device=x.device)
        return total

    def _terms_for(self, x: Tensor) -> tuple[tuple[int, Tensor], ...]:
        """The terms in float32 where these values are smaller than the largest possible ones and allow it."""
        if self.dtype == torch.float32 or not self.connection.graded or x.is_cuda or x.dtype == torch.bool:
            return self.terms
        pooled = math.prod(self.connection.pool[0]) if self.connection.pool else 1
        least, most = torch.aminmax(x)
        if max(-float(least), float(most)) * self._heaviest_row * pooled >= 1 << 24:
            return self.terms
        if self._narrow is None:
            self._narrow = tuple((k, weight.float()) for k, weight in self.terms)
        return self._narrow

    def at(self, x: Tensor, t: int) -> list[Tensor]:
        """Sums int32 [B, *shape], one for each delay, that arrive at step t, of x [T, B, ...]."""
        return [self._sums(x[t - k], weight) for k, weight in self.terms if k <= t]

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """Weighted sums of source values x [N, ...], before shift and wrap: [N, ...] of x's type."""
        c = self.connection
        if c.pool:
            x = F.avg_pool2d(x, *c.pool, divisor_override=1)
        if c.kind == "dense":
            return F.linear(x.flatten(1), weight)
        return F.conv2d(x, weight, None, c.stride, c.padding, c.dilation, c.groups)

    def _sums(self, x: Tensor, weight: Tensor) -> Tensor:
        """int32 [N, *shape] of source values x [N, ...]."""
        c = self.connection
        if not c.graded and x.dtype != torch.bool:
            x = x != 0
        sums = self.linear(x.to(weight.dtype), weight)
        if c.kind == "dense":
            if c.weight_exp or self.bound >= 1 << 31:
                whole = sums.long()
                sums = whole << c.weight_exp if c.weight_exp > 0 else whole >> -c.weight_exp
        else:
            if x.is_cuda:
                sums = sums.round()
            if self.bound >= WRAP:
                sums = torch.remainder(sums.long() + WRAP, 2 * WRAP) - WRAP
        return sums.int().reshape(len(x), *self.shape)


def _by_delay(connection: Connection) -> list[tuple[int, np.ndarray]]:
    """(k, weight): all synapses, or for each delay its own and 0 elsewhere, shortest delay first."""
    weight = np.ascontiguousarray(connection.weight)
    if connection.kind == "dense":
        weight = weight.reshape(len(weight), -1)
    delays = np.unique(connection.delay).tolist()
    if len(delays) < 2:
        return [(int(k), weight) for k in delays]
    return [(int(k), np.where(connection.delay == k, weight, 0)) for k in delays]
