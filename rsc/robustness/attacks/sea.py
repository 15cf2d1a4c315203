"""Sparse encoding attack: few spikes of a frame are flipped (Mukhoty et al., ICLR 2025)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from rsc.robustness.attacks.base import Attack, Query
from rsc.robustness.ball import Ball, ranks
from rsc.robustness.results import Norm


@dataclasses.dataclass(frozen=True)
class Sea(Attack):
    """The eps entries of largest first-order gain g * delta move to their best legal value, low or high.

    Made for spike frames (`rsc.robustness.frames`). With several steps eps is spent in equal parts, each on a
    new gradient.
    """

    name: ClassVar[str] = "sea"
    norms: ClassVar[tuple[Norm, ...]] = ("l0",)

    norm: Norm = "l0"

    @property
    def queries(self) -> tuple[int, int]:
        """Of one restart."""
        return self.steps, 1

    def _search(self, query: Query, ball: Ball, start: Tensor) -> list[Tensor]:
        low, high = ball.bounds
        z = start
        for k in range(self.steps):
            _, grad = query.gradient(z)
            target = torch.where(grad > 0, high, low).to(z)
            gain = (grad * (target - z)).masked_fill(z != ball.x, 0).flatten(1)
            left = (ball.eps * (k + 1) / self.steps).floor() - (z != ball.x).flatten(1).sum(1)
            flipped = (ranks(gain) < left[:, None]) & (gain > 0)
            z = torch.where(flipped.reshape_as(z), target, z)
        return [z]
