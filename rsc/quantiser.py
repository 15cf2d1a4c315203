"""How a program is put into Loihi's integers, where it is not left to the program's own bounds."""

from __future__ import annotations

import math

import msgspec

from rsc.errors import UsageError

BITS = (2, 9)
MIXED_BITS = 8  # the most that one connection with weights of both signs holds


class Quantiser(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Grid and scales of a quantised program; rides in its metadata, so that all targets run the same.

    Fields:
        bits: of the weights, sign included, 2 to 9: the step of the grid is 2^(9 - bits) on -256..256. Loihi
            keeps 8 bits of a weight, of which the sign takes one unless all weights of a connection share it.
            So 9 bits, -255..255 in steps of 1, are two connections where there are weights of both signs:
            one of those above 0 and one of those below.
        scales: (layer, S, keep): integer weight units per unit of the float program, and the share of the
            largest weight of a connection that the end of the grid holds (more is clipped). A layer that is
            not named gets the largest S at which no state can overflow, and clips nothing.
        input_scale: payload units per unit of the input frames; None: as fine as costs no weight bits.
    """

    bits: int = 8
    scales: tuple[tuple[str, float, float], ...] = ()
    input_scale: float | None = None

    def __post_init__(self) -> None:
        low, high = BITS
        if not low <= self.bits <= high:
            raise UsageError(
                f"{self.bits} bits were asked for.", f"Weights have {low} to {high}.", "Correct it."
            )
        numbers = [x for _, *both in self.scales for x in both] + [self.input_scale or 1.0]
        if not all(math.isfinite(x) and x > 0 for x in numbers):
            raise UsageError(
                "A scale of the quantiser is not positive.", f"{numbers}.", "Calibrate it again."
            )

    @property
    def step(self) -> int:
        """Distance of neighbouring weights on the grid."""
        return 2 ** (9 - self.bits)

    @property
    def largest(self) -> int:
        """The largest weight on the grid."""
        return 256 - self.step

    @property
    def smallest(self) -> int:
        """The smallest weight on the grid."""
        return -255 if self.splits else -256

    @property
    def splits(self) -> bool:
        """Whether weights of both signs need two connections."""
        return self.bits > MIXED_BITS

    def scale_of(self, layer: str) -> tuple[float, float] | None:
        """(S, keep) of a layer, None if it is left to the bounds."""
        return next(((scale, keep) for name, scale, keep in self.scales if name == layer), None)
