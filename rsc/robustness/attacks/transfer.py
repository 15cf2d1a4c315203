"""Replay of images made on another model: the headline attack on targets without gradients."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from rsc.errors import UsageError
from rsc.robustness.attacks.base import Attack, Query
from rsc.robustness.ball import Ball, norm_of


@dataclasses.dataclass(frozen=True, eq=False)
class Transfer(Attack):
    """Returns saved images unchanged.

    Fields:
        saved: images [B, ...] of the whole batch.
    """

    name: ClassVar[str] = "transfer"
    keeps_start: ClassVar[bool] = False

    saved: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0))

    @property
    def queries(self) -> tuple[int, int]:
        """Of one restart."""
        return 0, 1

    def _search(self, query: Query, ball: Ball, start: Tensor) -> list[Tensor]:
        mine = self.saved[query.index].to(ball.x)
        if mine.shape != ball.x.shape:
            raise UsageError(
                f"Saved images have shape {tuple(mine.shape)}, the batch {tuple(ball.x.shape)}.",
                "Each image needs its own.",
                "Replay on the images the attack was made for.",
            )
        excess = norm_of(mine - ball.x, ball.norm) - ball.eps
        if bool((excess > 1e-5 * (1 + ball.eps)).any()):
            raise UsageError(
                "Saved images lie outside the ball.",
                f"By up to {excess.max():g}.",
                "Replay them at their own eps.",
            )
        return [mine]
