"""Certificates by Monte Carlo: an L2 radius inside which the vote over encoder noise cannot change.

Procedure of Cohen et al. (arXiv 1902.02918): n0 draws choose a class, n *other* draws bound its
probability from below, both numbers fixed in advance. The radius depends on the coder. One run is
F(z_1..z_T) with z_t = x + sigma e_t; stacking the T frames gives ordinary Gaussian smoothing in T d
dimensions, where a perturbation delta of a static image is repeated T times and has norm
sqrt(T) ||delta||:

    rsc1 (one draw for all steps):  R = sigma Phi^-1(pA)
    rsc2 (a fresh draw per step):   R = sigma / sqrt(T) Phi^-1(pA)          tight for linear F

What is certified is the vote over *independent* noise. A seed that an attacker can predict voids it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from scipy import special, stats

from rsc.encoder_spec import GAUSSIAN
from rsc.errors import UsageError
from rsc.program import EncoderSpec
from rsc.results import Keys
from rsc.robustness.predict import Predictor, as_predictor, checked, encoder_of, name_of, source_of
from rsc.robustness.results import (
    CertifiedImage,
    CertifyReport,
    CertifyRow,
    Guarantee,
    NoiseSource,
)
from rsc.robustness.statistics import clopper_pearson_low, majority, wilson

ABSTAIN = -1
RULES = {"rsc1": "rsc1: sigma*Phi^-1(pA)", "rsc2": "rsc2: sigma/sqrt(T)*Phi^-1(pA)"}


class Sampler(Protocol):
    """Counts how often each class is predicted for one image."""

    @property
    def source(self) -> NoiseSource: ...

    def counts(self, image: np.ndarray, sample: int, n: int, stream: str) -> np.ndarray:
        """int64 [K or fewer], classes of `n` independent runs; streams share no noise."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class DrawSampler:
    """Many draws of one image at once, `chunk` at a time, from any predictor.

    Fields:
        predict: (images, keys) -> classes; deployed targets get the same keyed noise everywhere.
        seed: of the experiment.
        chunk: draws per call, the bound on memory.
    """

    predict: Predictor
    seed: int = 0
    chunk: int = 1024

    @property
    def source(self) -> NoiseSource:
        """Where the noise comes from."""
        return source_of(self.predict)

    def counts(self, image: np.ndarray, sample: int, n: int, stream: str) -> np.ndarray:
        """Classes of draws 0..n-1 of the stream, counted."""
        total = np.zeros(0, np.int64)
        for at in range(0, n, self.chunk):
            draws = np.arange(at, min(at + self.chunk, n))
            batch = np.broadcast_to(image, (len(draws), *image.shape))
            keys = Keys(self.seed, np.full(len(draws), sample), draws, stream)  # type: ignore[arg-type]
            found = np.bincount(checked(self.predict(batch, keys), len(draws)))
            total = _padded(total, len(found)) + _padded(found, len(total))
        return total


def effective_sigma(encoder: EncoderSpec) -> float:
    """Radius per unit of Phi^-1(pA), in pixel units: sigma, or sigma / sqrt(T) for fresh noise per step.

    Raises:
        UsageError: the encoder adds no noise.
    """
    if encoder.kind not in GAUSSIAN or not min(encoder.sigmas):
        raise UsageError(
            f"Encoder '{encoder.kind}' with sigma {encoder.sigma:g} cannot be certified.",
            "The certificate rests on Gaussian noise of the encoder, and there is none.",
            "Use rsc1 or rsc2 with sigma > 0 at every step.",
        )
    steps = encoder.steps if encoder.kind == "rsc2" else 1
    return encoder.sigma_in_pixels / math.sqrt(steps)


def radius(encoder: EncoderSpec, p_low: float) -> float:
    """Certified L2 radius for a lower bound of the top class's probability; 0 up to one half."""
    return effective_sigma(encoder) * float(special.ndtri(p_low)) if p_low > 0.5 else 0.0


def certify_image(
    sampler: Sampler,
    image: np.ndarray,
    sample: int,
    label: int,
    encoder: EncoderSpec,
    n0: int = 100,
    n: int = 1000,
    alpha: float = 0.001,
) -> CertifiedImage:
    """Select on stream "select", estimate on stream "estimate", bound, and convert to a radius."""
    top = int(sampler.counts(image, sample, n0, "select").argmax())
    tally = sampler.counts(image, sample, n, "estimate")
    hits = int(tally[top]) if top < len(tally) else 0
    p_low = clopper_pearson_low(hits, n, alpha)
    certain = p_low > 0.5
    return CertifiedImage(
        sample, int(label), top if certain else ABSTAIN, p_low, radius(encoder, p_low), hits == n and certain
    )


def certify(
    model: Any,
    x: np.ndarray | torch.Tensor,
    y: np.ndarray | torch.Tensor,
    *,
    encoder: EncoderSpec | None = None,
    n0: int = 100,
    n: int = 1000,
    alpha: float = 0.001,
    seed: int = 0,
    samples: np.ndarray | None = None,
    radii: Sequence[float] | None = None,
    votes: Sequence[int] = (1, 11, 101),
    chunk: int = 1024,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> CertifyReport:
    """Certify images one by one.

    Args:
        model: deployed model, differentiable model, predictor or function (x, keys) -> classes.
        x: images [N, ...]; y: labels [N].
        encoder: needed when `model` is a plain function.
        n0, n: draws to select and to estimate, fixed beforehand: stopping early voids the confidence.
        alpha: probability of a false certificate, per image.
        samples: identity of the images; keys of the noise.
        radii, votes: of the tables; eight radii up to the ceiling by default.
        chunk: draws per call.
        on_progress: called with images done and all images.

    Raises:
        UsageError: no noise, or parameters out of range.
    """
    images, labels = _numpy(x), _numpy(y)
    fitting = len(images) == len(labels) > 0
    if not (fitting and min(n0, n, chunk) >= 1 and 0 < alpha < 1):
        raise UsageError(
            f"n0 {n0}, n {n}, alpha {alpha}, {len(images)} images and {len(labels)} labels do not fit.",
            "Draws are at least 1 and alpha lies between 0 and 1.",
            "Correct them.",
        )
    predict = as_predictor(model)
    spec = encoder or encoder_of(predict)
    sigma = effective_sigma(spec)
    sampler = DrawSampler(predict, seed, chunk)
    ids = np.arange(len(images)) if samples is None else np.asarray(samples)
    found: list[CertifiedImage] = []
    for image, i, label in zip(images, ids, labels, strict=True):
        found.append(certify_image(sampler, image, int(i), int(label), spec, n0, n, alpha))
        on_progress(len(found), len(images))
    ceiling = radius(spec, clopper_pearson_low(n, n, alpha))
    grid = np.linspace(0, ceiling, 8) if radii is None else np.asarray(radii, np.float64)
    return CertifyReport(
        rule=RULES[spec.kind],
        encoder=spec.kind,
        sigma=spec.sigma_in_pixels,
        steps=spec.steps,
        n0=n0,
        n=n,
        alpha=alpha,
        seed=seed,
        source=sampler.source,
        expected_false=len(images) * alpha,
        abstained=sum(i.predicted == ABSTAIN for i in found),
        at_ceiling=sum(i.at_ceiling for i in found),
        ceiling=ceiling,
        images=tuple(found),
        rows=tuple(_row(found, float(r), math.prod(images.shape[1:])) for r in grid),
        guarantees=tuple(_guarantee(found, float(r), sigma, votes) for r in grid),
        target=name_of(predict),
    )


def _row(found: Sequence[CertifiedImage], r: float, dimensions: int) -> CertifyRow:
    hits = sum(i.predicted == i.label and i.radius >= r for i in found)
    n = len(found)
    return CertifyRow(r, hits / n, n, wilson(hits, n), r / math.sqrt(dimensions))


def _guarantee(found: Sequence[CertifiedImage], r: float, sigma: float, votes: Sequence[int]) -> Guarantee:
    """Mean lower bounds over all images; one that abstains or is wrong counts as 0."""
    p_low = np.array([i.p_low if i.predicted == i.label else 0.0 for i in found])
    p = run_bound(p_low, r, sigma)
    return Guarantee(r, float(p.mean()), {k: float(majority(p, k).mean()) for k in votes})


def run_bound(p_low: np.ndarray, r: float, sigma: float) -> np.ndarray:
    """Least probability that one run is right under any L2 attack of size r: Phi(Phi^-1(pA) - r / sigma).

    `sigma` is the effective one, sigma / sqrt(T) for rsc2.
    """
    return special.ndtr(special.ndtri(p_low) - r / sigma)


def predict_or_abstain(
    model: Any,
    x: np.ndarray | torch.Tensor,
    *,
    n: int = 100,
    alpha: float = 0.001,
    seed: int = 0,
    chunk: int = 1024,
) -> np.ndarray:
    """The vote of n runs per image, int64 [N], or -1 where the two top classes cannot be told apart.

    A two-sided binomial test of the top two counts, wrong with probability at most alpha per image
    (same source, PREDICT).
    """
    sampler = DrawSampler(as_predictor(model), seed, chunk)
    images = _numpy(x)
    return np.array([_vote(sampler.counts(image, i, n, "estimate"), alpha) for i, image in enumerate(images)])


def _vote(tally: np.ndarray, alpha: float) -> int:
    ranked = np.argsort(-_padded(tally, 2), kind="stable")
    first, second = (int(c) for c in _padded(tally, 2)[ranked[:2]])
    return int(ranked[0]) if stats.binomtest(first, first + second).pvalue <= alpha else ABSTAIN


def _padded(counts: np.ndarray, size: int) -> np.ndarray:
    return np.pad(counts, (0, max(0, size - len(counts))))


def _numpy(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
