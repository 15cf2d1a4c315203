"""Random perturbations of full size: the floor that every real attack must beat."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor

from rsc.robustness.attacks.base import Attack, Query
from rsc.robustness.ball import Ball


@dataclasses.dataclass(frozen=True)
class RandomNoise(Attack):
    """One random corner (L_inf) or direction (L2, L1) per restart; no gradient is used."""

    name: ClassVar[str] = "random"
    keeps_start: ClassVar[bool] = False

    def _search(self, query: Query, ball: Ball, start: Tensor) -> list[Tensor]:
        return [ball.surface(query.generator)]
