"""Several attacks as one: per image, the candidate of largest mean loss."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor

from rsc.errors import UsageError
from rsc.robustness.attacks.base import Attack, Query
from rsc.robustness.ball import Ball


@dataclasses.dataclass(frozen=True)
class Strongest(Attack):
    """The union of `parts`, each with its own steps, start and restarts.

    The choice is made on judging noise and must be scored once more on fresh noise, as any
    minimum over noisy numbers is too low.
    """

    name: ClassVar[str] = "strongest"
    judge: ClassVar[str] = "margin"

    parts: tuple[Attack, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.parts or any(part.norm != self.norm for part in self.parts):
            raise UsageError(
                "The attacks to combine do not fit.",
                "There is at least one, all of one norm.",
                "Correct them.",
            )

    @property
    def queries(self) -> tuple[int, int]:
        """Those of all parts."""
        asked = [(part.restarts * n, part.restarts * k) for part in self.parts for n, k in [part.queries]]
        return sum(n for n, _ in asked), sum(k for _, k in asked)

    def _search(self, query: Query, ball: Ball, start: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        for part in self.parts:
            for _ in range(part.restarts):
                begin = ball.random(query.generator) if part.random_start else ball.x
                found += part._search(query, ball, begin)
        return found
