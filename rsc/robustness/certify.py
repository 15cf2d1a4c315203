"""Certificates by Monte Carlo: a radius inside which the vote over encoder noise cannot change.

Procedure of Cohen et al. (arXiv 1902.02918): n0 draws choose a class, n *other* draws bound its probability
in one run from below, both numbers fixed in advance; the encoder's certificate (`rsc.robustness.certificate`)
turns the bound into a radius. Anything that predicts can be certified; a slow target also through its twin.

What is certified is the vote over *independent* noise. A seed that an attacker can predict voids it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rsc.encoder_spec import EncoderSpec
from rsc.errors import UsageError
from rsc.robustness.certificate import Certificate, certificate_of, inside
from rsc.robustness.certificate_gaussian import GaussianCertificate, effective_sigma
from rsc.robustness.certify_claims import Circumstances, advice, limits, promises, soundness
from rsc.robustness.certify_count import Job, Series, Share, batch_for, count, frame_bytes, identity_of
from rsc.robustness.certify_predict import ABSTAIN, plain, predict_or_abstain, vote_or_abstain
from rsc.robustness.certify_state import Tally, TallyFolder
from rsc.robustness.certify_transfer import Pairs, pairs, q_up, shares_noise, summed_up
from rsc.robustness.predict import as_predictor, encoder_of, name_of, source_of
from rsc.robustness.results import CertifiedImage, CertifyReport, CertifyRow, Conversion, Guarantee, Transfer
from rsc.robustness.statistics import clopper_pearson_high, clopper_pearson_low, majority, wilson

__all__ = [
    "ABSTAIN",
    "Plan",
    "certify",
    "effective_sigma",
    "judge",
    "predict_or_abstain",
    "vote_or_abstain",
]

CHUNK = 1024


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that is fixed before the first draw; looking at results and going on would be peeking.

    Fields:
        n0, n: draws to select and to estimate.
        alpha: probability of a false certificate, per image.
        together: alpha is for all images at once: each gets alpha / N (Bonferroni).
        paired: draws on twin and target, where there is a twin.
        seed: of the experiment.
        chunk: draws per unit of work, all that a kill -9 can cost beside the batch at work.
        batch: runs per call, the bound on memory; chosen by the size of the frames if None.
        levels: see `certificate_of`.
    """

    n0: int = 100
    n: int = 1000
    alpha: float = 0.001
    together: bool = False
    paired: int = 1000
    seed: int = 0
    chunk: int = CHUNK
    batch: int | None = None
    levels: int | None = None

    def __post_init__(self) -> None:
        least = {"select": self.n0, "draws": self.n, "paired": self.paired, "chunk": self.chunk}
        least |= {name: n for name in ("batch", "levels") if (n := getattr(self, name)) is not None}
        for name, value in least.items():
            if value < 1:
                raise UsageError(f"{name} is {value}.", "At least one is needed.", f"Use {name} 1 or more.")
        if not 0 < self.alpha < 1:
            raise UsageError(f"alpha is {self.alpha}.", "It is a probability.", "Use 0 < alpha < 1.")
        if self.seed < 0:
            raise UsageError(f"The seed is {self.seed}.", "Seeds are not negative.", "Use 0 or more.")

    def alpha_for(self, images: int) -> float:
        """Per image."""
        return self.alpha / images if self.together else self.alpha

    def runs(self, images: int, twin: bool = False) -> int:
        """Of the network, in all; paired draws run twin and target."""
        return images * (self.n0 + self.n + (2 * self.paired if twin else 0))


def judge(
    sample: int,
    label: int,
    select: Tally,
    estimate: Tally,
    certificate: Certificate,
    alpha: float,
    q: float = 0.0,
) -> CertifiedImage:
    """One image: the class that was selected, its bound in the estimate, the radius.

    Args:
        select, estimate: outcomes of independent draws; what is most frequent in `estimate` does not matter.
        alpha: of the bound.
        q: what the bound loses on the way from twin to target.
    """
    top, n = selected(select), sum(estimate.values())
    hits = estimate.get(top, 0)
    p_low = max(0.0, clopper_pearson_low(hits, n, alpha) - q)
    r = certificate.radius(p_low)
    return CertifiedImage(sample, label, top if p_low > 0.5 else ABSTAIN, p_low, r, hits == n and p_low > 0.5)


def selected(select: Tally) -> int:
    """The most frequent class, the lowest of several."""
    return min(select, key=lambda c: (-select[c], c))


def certify(
    model: Any,
    x: np.ndarray | torch.Tensor,
    y: np.ndarray | torch.Tensor,
    *,
    encoder: EncoderSpec | None = None,
    plan: Plan | None = None,
    target: Any = None,
    samples: np.ndarray | None = None,
    radii: Sequence[float] | None = None,
    votes: Sequence[int] = (1, 11, 101),
    state: Path | None = None,
    share: Share | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    **fields: Any,
) -> CertifyReport:
    """Certify images.

    Args:
        model: deployed model, differentiable model, predictor or function (x, keys) -> classes.
        x: images [N, ...]; y: labels [N].
        encoder: needed when `model` is a plain function.
        plan: draws, alpha, seed; its fields may be given by themselves instead (n=1000, alpha=0.01, ...).
        target: certify this instead, through `model` as its twin.
        samples: identity of the images, each its own; keys of the noise.
        radii, votes: of the tables; eight radii up to the ceiling by default.
        state: folder in which the tallies are kept: an interrupted certification goes on from there.
        share: of several processes that work on that folder; what torchrun says if None.
        on_progress: called with draws done and all draws.

    Raises:
        UsageError: no noise, parameters out of range, or a folder of another certification.
    """
    plan = dataclasses.replace(plan or Plan(), **fields)
    images, labels = plain(x), plain(y)
    ids = np.arange(len(images)) if samples is None else np.asarray(samples, np.int64)
    _check(images, labels, ids, () if radii is None else radii)
    predict = as_predictor(model)
    spec = encoder or encoder_of(predict)
    pair = None if target is None else _paired(predict, target, spec)
    certificate = certificate_of(spec, math.prod(images.shape[1:]), plan.levels)
    series = [Series(predict, "select", plan.n0), Series(predict, "estimate", plan.n)]
    if pair is not None:
        series.append(Series(pair, "estimate", plan.paired, plan.n))
    batch = plan.batch or batch_for(images.shape[1:], spec.steps, frame_bytes(predict))
    job = Job(images, ids, tuple(series), plan.seed, plan.chunk, batch)
    share = share or (Share() if state is None else Share.of_process())
    tallies = _tallies(state, job, spec, pair or predict, share)
    found = count(job, tallies, share, on_progress)
    return _report(found, labels, ids, images, spec, certificate, plan, radii, votes, predict, pair)


def _tallies(
    state: Path | None, job: Job, spec: EncoderSpec, predict: Any, share: Share
) -> TallyFolder | None:
    if state is None:
        return None
    digest = job.digest(spec, identity_of(predict))
    return TallyFolder(Path(state), digest, share.rank)


def _paired(twin: Any, target: Any, encoder: EncoderSpec) -> Pairs:
    """Both, which must see the same frames."""
    pair = pairs(twin, target)
    if not shares_noise(pair) or (hasattr(pair.target, "model") and encoder_of(pair.target) != encoder):
        raise UsageError(
            "Twin and target do not draw the same noise.",
            "Their disagreement is counted on the same frames.",
            "Use one encoder and keyed noise for both.",
        )
    return pair


def check_radii(radii: Sequence[float]) -> None:
    """Radii of a table are finite and not negative.

    Raises:
        UsageError: one is not.
    """
    wrong = [r for r in radii if not 0 <= r < math.inf]
    if wrong:
        raise UsageError(f"A radius is {wrong[0]}.", "Radii are finite and not negative.", "Correct it.")


def _check(images: np.ndarray, labels: np.ndarray, ids: np.ndarray, radii: Sequence[float]) -> None:
    check_radii(radii)
    n = len(images)
    if not (n == len(labels) == len(ids) > 0):
        raise UsageError(
            f"{n} images, {len(labels)} labels and {len(ids)} sample ids do not fit.",
            "Every image has one of each.",
            "Correct them.",
        )
    if len(np.unique(ids)) < n:
        raise UsageError(
            "Two images have the same sample id.",
            "They would share their noise, and the interval of certified accuracy would be false.",
            "Give each its own.",
        )


def _report(
    found: list[list[Tally]],
    labels: np.ndarray,
    ids: np.ndarray,
    x: np.ndarray,
    spec: EncoderSpec,
    certificate: Certificate,
    plan: Plan,
    radii: Sequence[float] | None,
    votes: Sequence[int],
    predict: Any,
    pair: Pairs | None,
) -> CertifyReport:
    alpha = plan.alpha_for(len(x))
    images, moved = _judged(found, labels, ids, certificate, plan, alpha, pair)
    dimensions = math.prod(x.shape[1:])
    ceiling = certificate.radius(_ceiling(plan, alpha, pair))
    grid = np.linspace(0, ceiling, 8) if radii is None else np.asarray(radii, np.float64)
    subject = predict if pair is None else pair.target
    level = spec.grid or (plan.levels or 0)
    sound, paired = soundness(spec, subject), 0 if pair is None else plan.paired
    facts = Circumstances(spec, certificate, plan.n, alpha, dimensions, ceiling, sound, paired)
    return CertifyReport(
        rule=certificate.rule,
        encoder=spec.kind,
        sigma=spec.sigma_in_pixels,
        steps=spec.steps,
        n0=plan.n0,
        n=plan.n,
        alpha=alpha,
        seed=plan.seed,
        source=source_of(subject),
        expected_false=len(images) * alpha,
        abstained=sum(i.predicted == ABSTAIN for i in images),
        at_ceiling=sum(i.at_ceiling for i in images),
        ceiling=ceiling,
        images=tuple(images),
        rows=tuple(_row(images, float(r), inside(certificate.norm, float(r), dimensions).linf) for r in grid),
        guarantees=tuple(_guarantee(images, float(r), certificate, votes) for r in grid),
        target=name_of(subject),
        norm=certificate.norm,
        soundness=facts.soundness,
        promises=promises(facts, len(images)),
        limits=limits(facts),
        advice=advice(facts, images, grid.tolist()),
        squared_levels=_squared(images, certificate),
        off_grid=_off_grid(x, level),
        together=plan.together,
        conversions=tuple(_conversion(certificate, float(r), dimensions) for r in grid),
        transfer=moved,
    )


def _judged(
    found: list[list[Tally]],
    labels: np.ndarray,
    ids: np.ndarray,
    certificate: Certificate,
    plan: Plan,
    alpha: float,
    pair: Pairs | None,
) -> tuple[list[CertifiedImage], Transfer | None]:
    """All images, and how the certificates moved from twin to target."""
    half = alpha if pair is None else alpha / 2
    tops = [selected(tallies[0]) for tallies in found]
    lost = [0.0 if pair is None else q_up(t[2], top, half) for t, top in zip(found, tops, strict=True)]
    images = [
        judge(int(i), int(label), t[0], t[1], certificate, half, q)
        for i, label, t, q in zip(ids, labels, found, lost, strict=True)
    ]
    if pair is None:
        return images, None
    return images, summed_up(pair, [t[2] for t in found], tops, plan.paired, half)


def _ceiling(plan: Plan, alpha: float, pair: Pairs | None) -> float:
    """The largest bound that so many draws can give."""
    if pair is None:
        return clopper_pearson_low(plan.n, plan.n, alpha)
    p_low = clopper_pearson_low(plan.n, plan.n, alpha / 2)
    return max(0.0, p_low - clopper_pearson_high(0, plan.paired, alpha / 2))


def _row(found: Sequence[CertifiedImage], r: float, linf: float) -> CertifyRow:
    hits = sum(i.predicted == i.label and i.radius >= r for i in found)
    n = len(found)
    return CertifyRow(r, hits / n, n, wilson(hits, n), linf)


def _guarantee(
    found: Sequence[CertifiedImage], r: float, certificate: Certificate, votes: Sequence[int]
) -> Guarantee:
    """Mean lower bounds over all images; one that abstains or is wrong counts as 0."""
    p_low = np.array([i.p_low if i.predicted == i.label else 0.0 for i in found])
    p = certificate.run_bound(p_low, r)
    return Guarantee(r, float(p.mean()), {k: float(majority(p, k).mean()) for k in votes})


def _conversion(certificate: Certificate, r: float, dimensions: int) -> Conversion:
    ball = inside(certificate.norm, r, dimensions)
    return Conversion(r, ball.linf, ball.l2, ball.l1)


def _squared(found: Sequence[CertifiedImage], certificate: Certificate) -> tuple[int, ...]:
    if not isinstance(certificate, GaussianCertificate) or certificate.grid is None:
        return ()
    return tuple(certificate.squared_levels(i.radius) for i in found)


def _off_grid(x: np.ndarray, levels: int) -> int:
    """Images with a pixel that is no multiple of 1 / levels, up to the rounding of float32."""
    if not levels:
        return 0
    fine = np.asarray(x, np.float64).reshape(len(x), -1) * levels
    return int((abs(fine - np.rint(fine)) > 1e-6 * np.maximum(1, abs(fine))).any(1).sum())
