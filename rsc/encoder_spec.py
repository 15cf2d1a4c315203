"""How an image becomes input frames: the value that says it, without the code that does it."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import msgspec

from rsc.errors import UsageError

EncoderKind = Literal["direct", "rsc1", "rsc2", "bernoulli", "signed"]
Stage = Literal["noise", "clip", "normalise"]
GAUSSIAN, COINS = ("rsc1", "rsc2"), ("bernoulli", "signed")
BITS = (1, 32)


def written(default: Any) -> Any:
    """A default that is written to files all the same, as it was before there were defaults that are not."""
    return msgspec.field(default_factory=lambda: default)


class EncoderSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How an image x becomes T input frames z_t (Wu et al., arXiv 2407.20099; see docs/coding.md).

    direct: z_t = x.  rsc1: z_t = x + sigma e, one e ~ N(0, I) shared by all steps.
    rsc2: z_t = x + sigma_t e_t, fresh e_t ~ N(0, I) at every step.
    bernoulli: z_t = [u_t < x], u_t uniform in [0, 1), x in [0, 1].
    signed: z_t = sign(x) [u_t < |x|], x in [-1, 1].

    The fields after `version` came later; their defaults are written to no file.

    Fields:
        kind: which of them.
        steps: T, number of frames, at least 1.
        sigma: standard deviation of the noise, in the units of the input at the "noise" stage.
        clip: (low, high) applied at the "clip" stage, or None.
        mean, std: per-channel constants of the "normalise" stage, (z - mean) / std.
        order: order of the three stages; the paper does not state its own. Coins are tossed at "noise".
        step_sigma: sigma_t of rsc2, one for each step, in place of sigma; () for the same at all.
        shared: one uniform number per pixel for all steps of a coin, instead of a fresh one for each.
        bits: r of a coin's comparator: u_t is an r-bit integer U_t / 2^r, and fires if U_t < round(2^r x).
        grid: levels per unit of the image; image and noise are whole multiples of 1/grid, and the noise is
            the discretised Gaussian, so that adding them is exact in integers: round(x + e) = x + round(e).
            The mean is rounded to the grid, too. None: real numbers.
    """

    kind: EncoderKind
    steps: int
    sigma: float = written(0.0)
    clip: tuple[float, float] | None = written(None)
    mean: tuple[float, ...] = written((0.0,))
    std: tuple[float, ...] = written((1.0,))
    order: tuple[Stage, Stage, Stage] = written(("noise", "clip", "normalise"))
    version: int = written(1)
    step_sigma: tuple[float, ...] = ()
    shared: bool = False
    bits: int = 32
    grid: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(EncoderKind):
            raise UsageError(
                f"Encoder kind is '{self.kind}'.", f"Known: {', '.join(get_args(EncoderKind))}.", "Use one."
            )
        if self.steps < 1:
            raise UsageError(
                f"steps (T) is {self.steps}.", "At least one time step is needed.", "Use T >= 1."
            )
        if not all(math.isfinite(s) and s >= 0 for s in (self.sigma, *self.step_sigma)):
            raise UsageError(
                f"sigma is {self.step_sigma or self.sigma}.",
                "A standard deviation is finite and not negative.",
                "Use sigma >= 0.",
            )
        if self.kind not in GAUSSIAN and (self.sigma or self.step_sigma):
            raise UsageError(
                f"Encoder '{self.kind}' was given sigma {self.sigma or self.step_sigma}.",
                "It adds no Gaussian noise.",
                "Use rsc1 or rsc2.",
            )
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise UsageError(
                f"Encoder clip is {self.clip}.", "It is (low, high), low below high.", "Correct it."
            )
        if sorted(self.order) != ["clip", "noise", "normalise"]:
            raise UsageError(
                f"Encoder order is {self.order}.", "Each stage occurs once.", "Use noise, clip, normalise."
            )
        if any(not s > 0 for s in self.std) or len(self.std) != len(self.mean):
            raise UsageError(
                "Encoder mean/std do not fit.", "Lengths agree and every std is > 0.", "Correct them."
            )
        self._check_later_fields()

    def _check_later_fields(self) -> None:
        if self.step_sigma and (self.kind != "rsc2" or len(self.step_sigma) != self.steps or self.sigma):
            raise UsageError(
                f"Encoder '{self.kind}' with T = {self.steps} has {len(self.step_sigma)} step_sigma "
                f"and sigma {self.sigma:g}.",
                "Only rsc2 takes them, one for each step and in place of sigma.",
                "Give T of them, or sigma.",
            )
        low, high = BITS
        if not low <= self.bits <= high or (self.kind not in COINS and (self.shared or self.bits != high)):
            raise UsageError(
                f"Encoder '{self.kind}' has bits {self.bits}, shared {self.shared}.",
                f"Comparators of bernoulli and signed have {low} to {high} bits; others have none.",
                "Leave them out.",
            )
        if self.grid is not None and (
            self.grid < 1 or self.kind in COINS or len(set(self.std)) > 1 or len(self.mean) != len(self.std)
        ):
            raise UsageError(
                f"Encoder '{self.kind}' with std {self.std} has grid {self.grid}.",
                "A grid has at least one level per unit, one step for all channels, and Gaussian noise.",
                "Use one std for all channels, or no grid.",
            )

    @property
    def stochastic(self) -> bool:
        """Whether two runs with different keys give different frames."""
        return self.kind in COINS or (self.kind in GAUSSIAN and max(self.sigmas) > 0)

    @property
    def latched(self) -> bool:
        """Whether every frame of a run is the same."""
        return self.kind in ("direct", "rsc1") or (self.kind in COINS and self.shared)

    @property
    def events(self) -> bool:
        """Whether frames are spikes, 0 or 1."""
        return self.kind == "bernoulli" and not self.scaled_after_noise

    @property
    def scaled_after_noise(self) -> bool:
        """Whether the "normalise" stage changes what leaves the "noise" stage."""
        after = self.order.index("normalise") > self.order.index("noise")
        return after and (any(self.mean) or any(s != 1 for s in self.std))

    @property
    def sigmas(self) -> tuple[float, ...]:
        """sigma_t, T of them."""
        return self.step_sigma or (self.sigma,) * self.steps

    @property
    def sigma_in_pixels(self) -> float:
        """sigma in the units of the image: the smallest over channels if noise follows normalisation.

        With step_sigma, that sigma which would give the same certificate: sqrt(T / sum_t 1 / sigma_t^2).
        """
        before = self.order.index("normalise") < self.order.index("noise")
        sigma = self.sigma
        if self.step_sigma:
            least = min(self.step_sigma)
            sigma = math.sqrt(self.steps / sum(1 / s**2 for s in self.step_sigma)) if least else 0.0
        return sigma * min(self.std) if before else sigma
