"""SA-PGD: normalised momentum with a per-element step and a falling step size (arXiv 2512.22522)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from rsc.robustness.attacks.base import Attack, Query
from rsc.robustness.ball import Ball
from rsc.robustness.results import Norm

_FIRST, _SECOND = 0.5, 0.8  # momenta


@dataclasses.dataclass(frozen=True)
class SaPgd(Attack):
    """m <- m/2 + g/mean|g|;  v <- 0.8 v + g^2/mean(g^2);  z <- project(z + clip(eta m/sqrt(v), -eta, eta)).

    eta starts at eps and halves after 22 % of the steps, then after ever shorter stretches. The
    iterate of largest mean loss and the last one are candidates.
    """

    name: ClassVar[str] = "sa_pgd"
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)

    steps: int = 100
    random_start: bool = True

    @property
    def queries(self) -> tuple[int, int]:
        """Of one restart."""
        return self.steps, 2

    def _search(self, query: Query, ball: Ball, start: Tensor) -> list[Tensor]:
        z, best, best_loss = start, start, torch.full_like(ball.eps, -torch.inf)
        m, v = torch.zeros_like(z), torch.zeros_like(z)
        for eta in step_sizes(self.steps):
            loss, grad = query.gradient(z)
            better = loss > best_loss
            best = torch.where(better.reshape_as(ball.radius), z, best)
            best_loss = torch.where(better, loss, best_loss)
            m = _FIRST * m + grad / _mean(grad.abs())
            v = _SECOND * v + grad.square() / _mean(grad.square())
            limit = eta * ball.radius
            step = limit * m / (v.sqrt() + 1e-12)
            z = ball.project(z + torch.maximum(torch.minimum(step, limit), -limit))
        return [z, best]


def step_sizes(steps: int) -> list[float]:
    """eta / eps at every step; for 100 steps it halves after 22, 41, 57, 70, 80, 87, 93 and 99."""
    stretch, least, less = (max(int(share * steps + 1e-9), 1) for share in (0.22, 0.06, 0.03))
    sizes: list[float] = []
    eta = 1.0
    while len(sizes) < steps:
        sizes += [eta] * stretch
        eta, stretch = eta / 2, max(stretch - less, least)
    return sizes[:steps]


def _mean(values: Tensor) -> Tensor:
    """Mean over each image, [B, 1, ...]; never zero, so a zero gradient gives a zero step."""
    return values.flatten(1).mean(1).clamp_min(1e-30).reshape(-1, *[1] * (values.ndim - 1))
