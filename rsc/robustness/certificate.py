"""What encoder noise alone guarantees: class probabilities move by a bounded amount when the image does.

A certificate turns a lower bound pA of the top class's probability in one run into a radius R of a ball
around the image inside which the vote over independent noise cannot change, and into a bound on single
runs inside it. It knows nothing of the network, which sees the noisy frames alone (post-processing).

A static image is assumed: the same perturbation at all T steps. Radii are in pixel units, of the image as
it is given; what clips it before the noise does not widen a perturbation.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Protocol

import numpy as np

from rsc.encoder_spec import COINS, GAUSSIAN, EncoderSpec
from rsc.errors import UsageError
from rsc.robustness.certificate_coins import CoinCertificate, coins
from rsc.robustness.certificate_gaussian import GaussianCertificate, gaussian
from rsc.robustness.results import Norm

__all__ = ["Ball", "Certificate", "CoinCertificate", "GaussianCertificate", "certificate_of", "inside"]


class Certificate(Protocol):
    """The law of one encoder."""

    @property
    def norm(self) -> Norm:
        """Of the ball: "l2" for Gaussian noise, "l1" for coins."""
        ...

    @property
    def rule(self) -> str:
        """The formula of R, for reports."""
        ...

    def radius(self, p_low: float) -> float:
        """R in pixel units; 0 where p_low does not exceed one half."""
        ...

    def run_bound(self, p_low: Any, r: float) -> np.ndarray:
        """Least probability of that class in one run under any perturbation of size `r`; shape of p_low."""
        ...

    def needed(self, r: float) -> float:
        """The pA whose radius is `r`; 1 or more where none is."""
        ...


def certificate_of(encoder: EncoderSpec, dimensions: int, levels: int | None = None) -> Certificate:
    """The certificate of an encoder.

    Args:
        dimensions: number of pixels (all channels) of an image.
        levels: of coins: images and perturbed images are multiples of 1/levels (255 for 8-bit images), if
            that is known; it matters to comparators of few bits.

    Raises:
        UsageError: the encoder adds no noise, or not at every step.
    """
    if encoder.kind in GAUSSIAN and min(encoder.sigmas):
        return gaussian(encoder, dimensions)
    if encoder.kind in COINS:
        return coins(encoder, dimensions, levels)
    raise UsageError(
        f"Encoder '{encoder.kind}' with sigma {encoder.step_sigma or encoder.sigma} cannot be certified.",
        "The certificate rests on noise of the encoder at every step, and there is none.",
        "Use rsc1 or rsc2 with sigma > 0 at every step, or bernoulli or signed.",
    )


@dataclasses.dataclass(frozen=True)
class Ball:
    """The largest balls inside a certified one, by norm; radii in pixel units."""

    linf: float
    l2: float
    l1: float


def inside(norm: Norm, radius: float, dimensions: int) -> Ball:
    """What a ball of `radius` in `norm` contains: ||d||_2 <= sqrt(n) ||d||_inf, ||d||_1 <= sqrt(n) ||d||_2.

    An L2 ball of radius R holds the L1 ball of radius R and the L_inf ball of radius R / sqrt(n); an L1 ball
    holds L2 R / sqrt(n) and L_inf R / n. At image size these are small: no noise that is independent from
    pixel to pixel does better than a factor of n^(1/p - 1/2) for p > 2 (Kumar et al., arXiv 2002.03239).
    """
    root = math.sqrt(dimensions)
    if norm == "l2":
        return Ball(radius / root, radius, radius)
    if norm == "l1":
        return Ball(radius / dimensions, radius / root, radius)
    return Ball(radius, radius, radius)
