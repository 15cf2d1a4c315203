"""What a certificate says in words: what it promises, what it does not, and what would give more."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from rsc.encoder_spec import COINS, EncoderSpec
from rsc.robustness.certificate import Certificate, inside
from rsc.robustness.predict import source_of
from rsc.robustness.results import CertifiedImage, Soundness
from rsc.robustness.statistics import clopper_pearson_high, draws_to_show

_NORMS = {"l2": "L2", "l1": "L1", "linf": "L_inf"}
_USUAL = 8 / 255


@dataclasses.dataclass(frozen=True)
class Circumstances:
    """Under which images were certified; alpha is per image, dimensions are pixels.

    paired: draws of twin and target, 0 without a twin.
    """

    encoder: EncoderSpec
    certificate: Certificate
    n: int
    alpha: float
    dimensions: int
    ceiling: float
    soundness: Soundness
    paired: int = 0

    @property
    def share(self) -> float:
        """Of alpha, what is left to the estimate."""
        return self.alpha / 2 if self.paired else self.alpha

    @property
    def cost(self) -> float:
        """What the paired draws take of pA even if they never differ."""
        return clopper_pearson_high(0, self.paired, self.share) if self.paired else 0.0


def soundness(encoder: EncoderSpec, predict: Any) -> Soundness:
    """How far the certificate is free of floating point; see `Certified`."""
    exact = encoder.kind in COINS or encoder.grid is not None
    if not exact or source_of(predict) != "keyed":
        return "real"
    model = getattr(predict, "model", predict)
    return "integer" if getattr(model, "arithmetic", "") == "integer" else "sampler"


def promises(facts: Circumstances, images: int) -> tuple[str, ...]:
    """What holds."""
    norm, encoder = _NORMS[facts.certificate.norm], facts.encoder
    first = (
        f"The vote over independent noise keeps its class under every perturbation whose {norm} norm is "
        f"below the radius, the same at all {encoder.steps} steps; each certificate with confidence "
        f"{1 - facts.alpha:.10g}, so that {images * facts.alpha:.3g} of {images} may be false in expectation."
    )
    runs = "One run, or the majority of K runs, keeps it with the probabilities of the guarantees at least."
    if facts.soundness == "real":
        return first, runs
    integers = "Frames are drawn by comparing integers, so no rounding of noise is involved."
    if encoder.grid is None:
        return first, runs, integers
    grid = (
        f"It holds for perturbed images on the grid of 1/{encoder.grid}, decided by a sum of squared whole "
        "levels; for all others at half the radius, as rounding at most doubles a difference. What the table "
        "of the noise differs from its law, 2^-60 per threshold, is paid for by the radius."
    )
    return first, runs, integers, grid


def limits(facts: Circumstances) -> tuple[str, ...]:
    """What does not hold."""
    said = [
        "Noise that an attacker can predict voids it: draw a secret seed for every query.",
        "Averaging logits or spike counts over runs is another classifier, which this says nothing about.",
    ]
    if facts.soundness == "real":
        said.append(
            "Noise was added in floating point, whose rounding tells of the image (arXiv 2207.07209): an "
            "encoder on a grid, with keyed noise, has no such gap."
        )
    if facts.soundness != "integer":
        said.append(
            "The network's floating point is part of what was certified: other batches or machines may round "
            "otherwise. An integer target does not."
        )
    return tuple(said)


def advice(facts: Circumstances, images: Sequence[CertifiedImage], radii: Sequence[float]) -> tuple[str, ...]:
    """What would give more."""
    said, norm, ceiling = [], facts.certificate.norm, facts.ceiling
    top = sum(i.at_ceiling for i in images)
    if not ceiling:
        least = draws_to_show(0.5 + facts.cost, facts.share)
        more = "more paired draws" if least is None else f"{least:,} at least"
        said.append(f"{facts.n:,} draws can certify nothing at this alpha: it takes {more}.")
    wanted = max((r for r in radii if r > ceiling), default=None)
    if top:
        said.append(
            f"{top} of {len(images)} images are at the ceiling of {ceiling:.4g}, which {facts.n:,} draws "
            "cannot exceed; more draws may give a larger radius."
        )
    if wanted is not None:
        said.append(_reach(facts, wanted, f"A radius of {wanted:.4g}"))
    if facts.cost > 0.01:
        said.append(
            f"The {facts.paired:,} paired draws take {facts.cost:.3g} of pA even where twin and target never "
            "differ; with more they take less."
        )
    covered = inside(norm, ceiling, facts.dimensions).linf
    if covered < _USUAL:
        usual = _USUAL * (facts.dimensions if norm == "l1" else math.sqrt(facts.dimensions))
        what = f"To cover L_inf 8/255 (the ceiling covers {covered:.2g}) a radius of {usual:.4g}"
        said.append(_reach(facts, usual, what))
    return tuple(said)


def _reach(facts: Circumstances, radius: float, what: str) -> str:
    needed = facts.certificate.needed(radius)
    draws = draws_to_show(needed, facts.share)
    if draws is None or draws > 10**9:
        return f"{what} is out of reach of any number of draws with this encoder."
    if facts.paired:
        draws = draws_to_show(needed + facts.cost, facts.share)
        if draws is None:
            return f"{what} is out of reach of {facts.paired:,} paired draws."
    return f"{what} takes {draws:,} draws that all agree."
