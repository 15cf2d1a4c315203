"""Random perturbations of full size: the floor that every real attack must beat."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor

from rsc.robustness.attacks.base import Attack, Query
from rsc.robustness.ball import NORMS, Ball
from rsc.robustness.results import Norm


@dataclasses.dataclass(frozen=True)
class RandomNoise(Attack):
    """One random corner (L_inf), direction (L2, L1) or choice of values (L0) per restart; no gradient."""

    name: ClassVar[str] = "random"
    norms: ClassVar[tuple[Norm, ...]] = (*NORMS, "l0")
    keeps_start: ClassVar[bool] = False

    @property
    def queries(self) -> tuple[int, int]:
        """Of one restart."""
        return 0, 1

    def _search(self, query: Query, ball: Ball, start: Tensor) -> list[Tensor]:
        return [ball.surface(query.generator)]
