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
from rsc.robustness.statistics import draws_to_show

_NORMS = {"l2": "L2", "l1": "L1", "linf": "L_inf"}
_USUAL = 8 / 255


@dataclasses.dataclass(frozen=True)
class Circumstances:
    """Under which images were certified; alpha is per image, dimensions are pixels."""

    encoder: EncoderSpec
    certificate: Certificate
    n: int
    alpha: float
    dimensions: int
    ceiling: float
    soundness: Soundness


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
    wanted = max((r for r in radii if r > ceiling), default=None)
    if top:
        said.append(
            f"{top} of {len(images)} images are at the ceiling of {ceiling:.4g}, which {facts.n:,} draws "
            "cannot exceed; more draws may give a larger radius."
        )
    if wanted is not None:
        said.append(_reach(facts, wanted, f"A radius of {wanted:.4g}"))
    covered = inside(norm, ceiling, facts.dimensions).linf
    if covered < _USUAL:
        usual = _USUAL * (facts.dimensions if norm == "l1" else math.sqrt(facts.dimensions))
        what = f"To cover L_inf 8/255 (the ceiling covers {covered:.2g}) a radius of {usual:.4g}"
        said.append(_reach(facts, usual, what))
    return tuple(said)


def _reach(facts: Circumstances, radius: float, what: str) -> str:
    draws = draws_to_show(facts.certificate.needed(radius), facts.alpha)
    if draws is None or draws > 10**9:
        return f"{what} is out of reach of any number of draws with this encoder."
    return f"{what} takes {draws:,} draws that all agree."
