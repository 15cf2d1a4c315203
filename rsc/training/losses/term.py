"""What every loss term shares: a weight, the images it looks at, and what it needs recorded."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import msgspec

from rsc.errors import UsageError

Input = Literal["clean", "noisy", "adversarial"]
Need = Literal["currents", "spikes", "readout", "image gradient", "image box", "teacher"]


class Term(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", kw_only=True):
    """A weighted part of an objective; each loss is one subclass with `value(passes) -> scalar tensor`.

    Fields:
        weight: factor of the term in the sum, finite and not negative; 0 computes it without effect.
        on: the images it is a loss of: "clean" (the batch as it is), "noisy" (Gaussian augmentation) or
            "adversarial" (worst images found in the ball).
    """

    always: ClassVar[frozenset[Need]] = frozenset()
    weight: float = 1.0
    on: Input = "clean"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise UsageError(
                f"{self.label} has weight {self.weight}.",
                "Weights are finite and not negative.",
                "Correct it.",
            )
        self.check()

    def check(self) -> None:
        """Refuse values out of range (UsageError)."""

    @property
    def label(self) -> str:
        """Name in logs: kind and images."""
        return f"{self.__struct_config__.tag}/{self.on}"

    @property
    def inputs(self) -> tuple[Input, ...]:
        """All images the term looks at."""
        return (self.on,)

    @property
    def needs(self) -> frozenset[Need]:
        """What has to be there beyond the outputs."""
        return self.always

    def refuse_unless(self, held: bool, name: str, rule: str) -> None:
        """Raise UsageError for the field `name` unless it holds."""
        if not held:
            raise UsageError(f"{self.label} has {name} = {getattr(self, name)}.", rule, "Correct it.")
