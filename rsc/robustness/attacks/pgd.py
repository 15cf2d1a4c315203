"""Projected gradient ascent (Madry et al. 2018)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rsc.robustness.attacks.base import Attack, Query
from rsc.robustness.ball import Ball


@dataclasses.dataclass(frozen=True)
class Pgd(Attack):
    """z <- project(z + step * steepest(grad)).

    Fields:
        rel_step: step as a fraction of eps.
        loss: "ce", "margin" or "dlr".
    """

    name: ClassVar[str] = "pgd"

    steps: int = 20
    random_start: bool = True
    rel_step: float = 0.25
    loss: Literal["ce", "margin", "dlr"] = "ce"

    @property
    def queries(self) -> tuple[int, int]:
        """Of one restart."""
        return self.steps, 2

    def _search(self, query: Query, ball: Ball, start: Tensor) -> list[Tensor]:
        z, best, best_loss = start, start, torch.full_like(ball.eps, -torch.inf)
        for _ in range(self.steps):
            loss, grad = query.gradient(z, self.loss)
            better = loss > best_loss
            best = torch.where(better.reshape_as(ball.radius), z, best)
            best_loss = torch.where(better, loss, best_loss)
            z = ball.project(z + self.rel_step * ball.radius * ball.steepest(grad, z))
        return [z, best]
