"""SPSA: gradients from pairs of queries along random signs (Uesato et al. 2018)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from rsc.robustness.attacks.base import Attack, Query
from rsc.robustness.ball import Ball


@dataclasses.dataclass(frozen=True)
class Spsa(Attack):
    """g = mean_i s_i (L(z + h s_i) - L(z - h s_i)) / 2h over random signs s_i, then a projected step.

    Fields:
        pairs: random directions per step, two queries each.
        probe: h as a fraction of eps.
        rel_step: step as a fraction of eps.
    """

    name: ClassVar[str] = "spsa"
    judge: ClassVar[str] = "margin"

    steps: int = 40
    pairs: int = 32
    probe: float = 0.5
    rel_step: float = 0.25

    @property
    def queries(self) -> tuple[int, int]:
        """Of one restart."""
        return 2 * self.pairs * self.steps, 1

    def _search(self, query: Query, ball: Ball, start: Tensor) -> list[Tensor]:
        z = start
        for _ in range(self.steps):
            slope = self._estimate(query, ball, z)
            z = ball.project(z + self.rel_step * ball.radius * ball.steepest(slope, z))
        return [z]

    def _estimate(self, query: Query, ball: Ball, z: Tensor) -> Tensor:
        slope = torch.zeros_like(z)
        reach = self.probe * ball.radius
        for _ in range(self.pairs):
            bits = torch.randint(0, 2, z.shape, generator=query.generator, device=z.device)
            signs = (2 * bits - 1).to(z.dtype)
            up = query.loss((z + reach * signs).clamp(*ball.bounds), "margin")
            down = query.loss((z - reach * signs).clamp(*ball.bounds), "margin")
            slope = slope + signs * (up - down).reshape_as(ball.radius)
        return slope
