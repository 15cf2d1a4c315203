"""From outcomes by image to the report of a verification."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rsc.encoder_spec import EncoderSpec
from rsc.program import Program
from rsc.robustness.hybrid import certified, converted, either, guarantee, majority_proved
from rsc.robustness.results import Accuracy, Interval
from rsc.robustness.statistics import bootstrap_mean, wilson
from rsc.robustness.verify_results import VerifiedImage, VerifyReport, VerifyRow

if TYPE_CHECKING:
    from rsc.robustness.verify import VerifyPlan


def report_of(
    program: Program,
    encoder: EncoderSpec,
    plan: VerifyPlan,
    images: Sequence[VerifiedImage],
    name: str,
    wall_s: float,
) -> VerifyReport:
    """All rows, from the outcomes of all images."""
    hits = np.array([image.hits for image in images]) / plan.draws
    clean = Accuracy(float(hits.mean()), len(images), _over_images(hits, plan.seed), "per_run", plan.draws)
    dimensions = math.prod(program.input_shape)
    alpha = plan.alpha if encoder.stochastic else 0.0
    return VerifyReport(
        target=plan.target,
        model=name,
        program=program.digest,
        arithmetic="integer",
        encoder=encoder.kind,
        steps=encoder.steps,
        sigma=encoder.sigma_in_pixels,
        draws=plan.draws,
        n0=plan.n0,
        alpha=alpha,
        seed=plan.seed,
        expected_false=alpha * len(images),
        clean=clean,
        rows=tuple(_row(k, encoder, plan, images, dimensions) for k in range(len(plan.radii()))),
        images=tuple(images),
        guarantee=guarantee(encoder, plan.draws, plan.alpha),
        boxes=len(images) * plan.draws * len(plan.radii()),
        wall_s=wall_s,
        refine_s=plan.refine,
    )


def _row(
    k: int, encoder: EncoderSpec, plan: VerifyPlan, images: Sequence[VerifiedImage], dimensions: int
) -> VerifyRow:
    eps, text = plan.radii()[k]
    draws, alpha, n = plan.draws, plan.alpha, len(images)

    def flags(rule: Callable[[VerifiedImage], bool]) -> int:
        return sum(image.predicted == image.label and rule(image) for image in images)

    def by_noise(image: VerifiedImage) -> bool:
        return eps <= converted(encoder, image.hits, draws, alpha, dimensions) > 0

    def both(image: VerifiedImage) -> bool:
        return either(encoder, eps, image.proved[k], image.hits, draws, alpha, dimensions)

    majority = flags(lambda image: majority_proved(image.proved[k], draws))
    counts = {"majority": majority, "certified": majority, "by_noise": 0, "either": majority}
    if encoder.stochastic:
        counts["certified"] = flags(lambda image: certified(image.proved[k], draws, alpha))
        counts |= {"by_noise": flags(by_noise), "either": flags(both)}
    share = np.array([image.proved[k] for image in images]) / draws
    intervals = {name: wilson(hits, n) for name, hits in counts.items()}
    intervals["per_run"] = _over_images(share, plan.seed)
    refuted = sum(image.refuted[k] for image in images) / (n * draws)
    never, always, unstable = (sum(getattr(i, f)[k] for i in images) for f in ("never", "always", "unstable"))
    total = max(never + always + unstable, 1)
    return VerifyRow(
        eps=eps,
        eps_text=text,
        n=n,
        per_run=float(share.mean()),
        **{name: hits / n for name, hits in counts.items()},
        intervals=intervals,
        refuted=refuted,
        never=never / total,
        always=always / total,
        unstable=unstable / total,
    )


def _over_images(values: np.ndarray, seed: int) -> Interval:
    """Wilson where each image is right or wrong, else bootstrap."""
    whole = np.isin(values, (0, 1)).all()
    return wilson(float(values.sum()), len(values)) if whole else bootstrap_mean(values, seed)
