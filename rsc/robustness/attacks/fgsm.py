"""One step of full size along the gradient (Goodfellow et al. 2015)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor

from rsc.robustness.attacks.base import Attack, Query
from rsc.robustness.ball import Ball


@dataclasses.dataclass(frozen=True)
class Fgsm(Attack):
    """z = start + eps * steepest(grad)."""

    name: ClassVar[str] = "fgsm"

    @property
    def queries(self) -> tuple[int, int]:
        """Of one restart."""
        return 1, 1

    def _search(self, query: Query, ball: Ball, start: Tensor) -> list[Tensor]:
        _, grad = query.gradient(start)
        return [ball.project(start + ball.radius * ball.steepest(grad, start))]
