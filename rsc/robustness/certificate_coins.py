"""Coins (rate coding): an L1 radius, by coupling.

Toss the coins of x and of x' = x + delta with the same uniform numbers: a pixel's spikes of one step differ
with probability |delta_i| (signed coins: at most that, also across 0), so all frames agree with probability
prod_i (1 - |delta_i|)^T >= (1 - ||delta||_1)^T, and no class probability moves by more than
1 - (1 - ||delta||_1)^T. The vote cannot change while that is below pA - 1/2:

    fresh coins at each of T steps   R = 1 - (3/2 - pA)^(1/T)   >= (pA - 1/2) / T
    one coin for all steps           R = pA - 1/2

Mukhoty et al. (ICLR 2024, "Certified Adversarial Robustness for Rate Encoded SNNs", Theorem 5) tie the
bound to T as well. It is tiny: at most 0.5 / T, of the pixel mass of the whole image.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from rsc.encoder_spec import EncoderSpec
from rsc.robustness.results import Norm
from rsc.robustness.statistics import ROUNDING


@dataclasses.dataclass(frozen=True)
class CoinCertificate:
    """R = (1 - (3/2 - pA)^(1/T) - offset) / stretch.

    A comparator of r bits fires with probability round(2^r x) / 2^r: what it sees of a perturbation is up
    to 2^-r more per changed pixel.

    Fields:
        tosses: T for fresh coins, 1 for shared ones.
        offset: that, for all pixels: d 2^-r.
        stretch: or, for images on a grid of 1/L, where a changed pixel changes by 1/L at least: 1 + L 2^-r;
            times 1 / std where coins are tossed after normalisation.
    """

    tosses: int
    rule: str
    offset: float = 0.0
    stretch: float = 1.0
    norm: Norm = "l1"

    def radius(self, p_low: float) -> float:
        """L1, pixel units, rounded down."""
        if p_low <= 0.5:
            return 0.0
        seen = -np.expm1(np.log1p(0.5 - p_low) / self.tosses)
        return max(0.0, (float(seen) * (1 - ROUNDING) - self.offset) / self.stretch)

    def run_bound(self, p_low: Any, r: float) -> np.ndarray:
        """pA - (1 - (1 - r)^T), with what the comparator adds to r; at least 0."""
        seen = min(1.0, r * self.stretch + (self.offset if r > 0 else 0.0))
        return np.maximum(np.asarray(p_low, np.float64) - (1 - (1 - seen) ** self.tosses), 0.0)

    def needed(self, r: float) -> float:
        """3/2 - (1 - r)^T."""
        seen = min(1.0, r * self.stretch + (self.offset if r > 0 else 0.0))
        return 1.5 - (1 - seen) ** self.tosses


def coins(encoder: EncoderSpec, dimensions: int, levels: int | None = None) -> CoinCertificate:
    """The certificate of bernoulli or signed coins for images of so many pixels.

    Args:
        levels: images and perturbed images are multiples of 1/levels, if that is known.
    """
    before = encoder.order.index("normalise") < encoder.order.index("noise")
    unit = 1 / min(encoder.std) if before else 1.0
    tosses = 1 if encoder.shared else encoder.steps
    rule = f"{encoder.kind}: " + ("pA-1/2" if tosses == 1 else "1-(3/2-pA)^(1/T)")
    grain = 2.0**-encoder.bits
    if levels is None:
        return CoinCertificate(tosses, rule, dimensions * grain, unit)
    if not before and levels == 1 << min(encoder.bits, levels.bit_length() - 1):
        return CoinCertificate(tosses, rule)  # levels divide 2^r: the comparator is exact
    return CoinCertificate(tosses, rule, 0.0, unit + levels * grain)
