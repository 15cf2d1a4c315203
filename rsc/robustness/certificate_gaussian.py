"""Gaussian noise: an L2 radius, in real numbers or exactly on the grid of the image.

One run is F(z_1..z_T), z_t = x + sigma_t e_t. Dividing each frame by its sigma_t and stacking them gives
ordinary smoothing in T d dimensions (Cohen et al., arXiv 1902.02918), in which a perturbation delta of a
static image has norm ||delta|| sqrt(sum_t 1 / sigma_t^2):

    rsc1 (one draw for all steps)   R = sigma Phi^-1(pA)
    rsc2                            R = sigma / sqrt(T) Phi^-1(pA)                tight for linear F
    rsc2 with sigma_t               R = Phi^-1(pA) / sqrt(sum_t 1 / sigma_t^2)

and one run under a perturbation of size r keeps the class with probability Phi(Phi^-1(pA) - r / sigma_eff),
sigma_eff = R / Phi^-1(pA). A perturbation that changes from step to step is covered while
sqrt(sum_t ||delta_t||^2 / sigma_t^2) < Phi^-1(pA).
"""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any

import numpy as np
from scipy import special

from rsc.coding.gaussian import sigma_levels
from rsc.coding.thresholds import thresholds
from rsc.coding.words import UNIFORM_BITS
from rsc.encoder_spec import EncoderSpec
from rsc.robustness.results import Norm
from rsc.robustness.statistics import ROUNDING

RULES = {
    "rsc1": "rsc1: sigma*Phi^-1(pA)",
    "rsc2": "rsc2: sigma/sqrt(T)*Phi^-1(pA)",
    "step_sigma": "rsc2: Phi^-1(pA)/sqrt(sum_t 1/sigma_t^2)",
}


@dataclasses.dataclass(frozen=True)
class GaussianCertificate:
    """R = sigma (Phi^-1(pA - slack) - Phi^-1(1/2 + slack)).

    Fields:
        sigma: radius per unit of Phi^-1(pA), in pixel units (sigma_eff above).
        rule: the formula.
        grid: levels per unit that image and noise are whole multiples of; None for real numbers.
        slack: how far the probabilities of the frames that are drawn may be from those of the law, in total
            variation: on a grid the last bit of the table of thresholds, about 1e-11 at image size.
    """

    sigma: float
    rule: str
    grid: int | None = None
    slack: float = 0.0
    norm: Norm = "l2"

    def radius(self, p_low: float) -> float:
        """L2, pixel units, rounded down."""
        low, half = p_low - self.slack, 0.5 + self.slack
        if low <= half:
            return 0.0
        return self.sigma * float(special.ndtri(low) - special.ndtri(half)) * (1 - ROUNDING)

    def run_bound(self, p_low: Any, r: float) -> np.ndarray:
        """Phi(Phi^-1(pA - slack) - r / sigma) - slack, at least 0."""
        low = np.clip(np.asarray(p_low, np.float64) - self.slack, 0, 1)
        return np.maximum(special.ndtr(special.ndtri(low) - r / self.sigma) - self.slack, 0.0)

    def needed(self, r: float) -> float:
        """Phi(r / sigma), with the slack."""
        return float(special.ndtr(r / self.sigma + special.ndtri(0.5 + self.slack))) + self.slack

    def squared_levels(self, radius: float) -> int:
        """The largest sum of squared whole levels that is inside a radius: on a grid all that is certified.

        A perturbed image is covered if and only if sum_i (level'_i - level_i)^2 is at most this integer.
        """
        square = (Fraction(radius) * (self.grid or 1)) ** 2
        return max(0, math.ceil(square) - 1)


def effective_sigma(encoder: EncoderSpec) -> float:
    """Radius per unit of Phi^-1(pA), in pixel units: sigma, or sigma / sqrt(T) for fresh noise per step.

    Noise that is added after normalisation counts with the smallest standard deviation over channels.
    """
    steps = encoder.steps if encoder.kind == "rsc2" else 1
    return encoder.sigma_in_pixels / math.sqrt(steps)


def gaussian(encoder: EncoderSpec, dimensions: int) -> GaussianCertificate:
    """The certificate of rsc1 or rsc2 for images of so many pixels."""
    rule = RULES["step_sigma" if encoder.step_sigma else encoder.kind]
    slack = 0.0 if encoder.grid is None else table_slack(encoder, dimensions)
    return GaussianCertificate(effective_sigma(encoder), rule, encoder.grid, slack)


def table_slack(encoder: EncoderSpec, dimensions: int) -> float:
    """Total variation between the noise frames that the table draws and discretised Gaussians, at most.

    Two numbers made by comparing the same uniform number with two tables differ only where it falls between
    corresponding thresholds; each is off by less than 2^-60, as are the tails that the table leaves out.
    """
    count = encoder.steps if encoder.kind == "rsc2" else 1
    entries = sum(len(thresholds(s)) + 2 for s in sigma_levels(encoder, count))
    return dimensions * entries * 2.0**-UNIFORM_BITS
