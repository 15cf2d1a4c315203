"""Certificates against closed forms: linear classifiers, whose exact robustness is known."""

from __future__ import annotations

import dataclasses
import math

import msgspec
import numpy as np
import pytest
import torch
from scipy import stats
from toy_models import Linear

from rsc.errors import UsageError
from rsc.program import EncoderSpec
from rsc.results import Keys
from rsc.robustness.certify import (
    ABSTAIN,
    DrawSampler,
    certify,
    certify_image,
    effective_sigma,
    predict_or_abstain,
    radius,
    run_bound,
)
from rsc.robustness.predict import Generated, Keyed
from rsc.robustness.results import CertifyReport, NoiseSource
from rsc.robustness.statistics import clopper_pearson_low, majority

IMAGE = np.zeros(1, np.float32)


@dataclasses.dataclass
class Multinomial:
    """Runs of a classifier whose class probabilities are known; `shared` is the forbidden short cut."""

    p: np.ndarray
    rng: np.random.Generator
    shared: bool = False
    source: NoiseSource = "keyed"
    seen: np.ndarray | None = None

    def counts(self, image: np.ndarray, sample: int, n: int, stream: str) -> np.ndarray:
        """One multinomial sample, or the sample of the selection again."""
        if self.shared and stream == "estimate" and self.seen is not None:
            return self.seen
        self.seen = self.rng.multinomial(n, self.p)
        return self.seen


def false_certificates(steps: int, equal: bool, naive: bool, trials: int = 2000, alpha: float = 0.01) -> int:
    """Random F = 1[sum_t w_t . z_t > b]: how often the radius exceeds the exact distance to the border."""
    rng = np.random.default_rng(steps)
    encoder = EncoderSpec("rsc2", steps, 0.5)
    false = 0
    for _ in range(trials):
        w = np.repeat(rng.normal(size=(1, 6)), steps, 0) if equal else rng.normal(size=(steps, 6))
        gap = 0.5 * np.linalg.norm(w) * rng.uniform(0.02, 2.5)  # sum_t w_t . x - b, class A = positive
        p = 0.5 * (1 + math.erf(gap / (0.5 * np.linalg.norm(w)) / math.sqrt(2)))
        distance = gap / np.linalg.norm(w.sum(0))
        found = certify_image(Multinomial(np.array([p, 1 - p]), rng), IMAGE, 0, 0, encoder, 50, 2000, alpha)
        certified = found.radius * (math.sqrt(steps) if naive else 1)
        false += int(found.predicted == 0 and certified > distance)
    return false


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("steps", [1, 4, 16])
def test_false_certificates_stay_below_alpha(steps: int, equal: bool) -> None:
    assert false_certificates(steps, equal, naive=False) <= stats.binom.ppf(0.9999, 2000, 0.01)


@pytest.mark.parametrize("steps", [4, 16])
def test_the_radius_without_sqrt_t_is_false(steps: int) -> None:
    """The control: smoothing's own formula, blind to the repetition of the image."""
    assert false_certificates(steps, False, naive=True, trials=800) > 0.1 * 800
    assert false_certificates(steps, True, naive=True, trials=300) > 0.9 * 300


def test_radius_is_the_exact_distance_for_equal_weights() -> None:
    """F = 1[w . mean z > 0], T = 4: at the radius the vote is even; just inside it still holds."""
    encoder = EncoderSpec("rsc2", 4, 0.5)
    rng = np.random.default_rng(1)
    w = rng.normal(size=16)
    w /= np.linalg.norm(w)
    x = 0.3204 * w
    p = float(stats.norm.cdf(0.3204 / (0.5 / math.sqrt(4))))
    r = radius(encoder, p)
    assert r == pytest.approx(0.3204, rel=1e-9)
    z = rng.normal(size=(200_000, 4)) * 0.5  # noise along w only; the rest does not matter
    for scale, holds in ((0.95, True), (1.05, False)):
        hits = int(((x - scale * r * w) @ w + z.mean(1) > 0).sum())
        assert stats.binomtest(hits, 200_000).pvalue < 1e-3
        assert (hits > 100_000) is holds


@pytest.mark.parametrize("kind", ["rsc1", "rsc2"])
@pytest.mark.parametrize("after", [False, True])
def test_whole_path_on_keyed_noise_matches_the_closed_form(kind: str, after: bool) -> None:
    """Encoder, counts and radius together, also with noise added after normalisation."""
    order = ("normalise", "noise", "clip") if after else ("noise", "clip", "normalise")
    encoder = EncoderSpec(kind, 4, 0.5, mean=(0.2,), std=(0.4,), order=order)  # type: ignore[arg-type]
    rng = np.random.default_rng(2)
    w = torch.tensor(rng.normal(size=3), dtype=torch.float32)
    model = Linear(w, 0.0, encoder)
    x = rng.uniform(-0.6, 1.0, (120, 3)).astype(np.float32)
    score = ((x - 0.2) / 0.4) @ w.numpy()
    y = (score <= 0).astype(np.int64)
    distance = np.abs(score) * 0.4 / float(w.norm())
    report = certify(model, x, y, n0=50, n=2000, alpha=0.01, seed=4)
    found = np.array([i.radius for i in report.images])
    assert (found > distance).sum() <= stats.binom.ppf(0.9999, 120, 0.01)
    sure = [k for k, i in enumerate(report.images) if i.predicted == y[k] and not i.at_ceiling]
    assert np.median(found[sure] / distance[sure]) > 0.85
    assert report.rows[0].certified_accuracy > 0.8
    assert report.rule.startswith(kind)


def test_selection_and_estimation_must_not_share_samples() -> None:
    """Two classes just below one half: every certificate is false, alpha = 0.05 are allowed."""
    encoder, p = EncoderSpec("rsc1", 1, 0.5), np.array([0.4995, 0.4995, 0.001])
    false = {}
    for shared in (False, True):
        sampler = Multinomial(p, np.random.default_rng(0), shared)
        found = [certify_image(sampler, IMAGE, 0, 0, encoder, 400, 400, 0.05) for _ in range(3000)]
        false[shared] = sum(i.predicted != ABSTAIN for i in found)
    limit = stats.binom.ppf(0.9999, 3000, 0.05)
    assert false[False] <= limit < false[True]


def test_streams_and_draws_of_the_procedure_never_meet() -> None:
    seen: set[tuple[str, int, int]] = set()

    def predict(x: np.ndarray, keys: Keys) -> np.ndarray:
        draws = np.atleast_1d(keys.draw)
        new = {(keys.stream, int(s), int(d)) for s, d in zip(keys.samples, draws, strict=True)}
        assert len(new) == len(x)
        assert not new & seen
        seen.update(new)
        return np.zeros(len(x), np.int64)

    certify(
        predict, np.zeros((3, 2)), np.zeros(3), encoder=EncoderSpec("rsc1", 2, 0.1), n0=30, n=70, chunk=16
    )
    assert len(seen) == 3 * (30 + 70)
    assert {s for s, _, _ in seen} == {"select", "estimate"}


def test_class_of_the_selection_is_the_one_that_is_bounded() -> None:
    """The larger count of the estimation must not take over (0 selected, 1 more frequent later)."""

    class Turncoat:
        source: NoiseSource = "keyed"

        def counts(self, image: np.ndarray, sample: int, n: int, stream: str) -> np.ndarray:
            return np.array([n]) if stream == "select" else np.array([0, n])

    found = certify_image(Turncoat(), IMAGE, 0, 1, EncoderSpec("rsc1", 1, 1.0), 10, 100, 0.01)
    assert (found.predicted, found.radius, found.p_low) == (ABSTAIN, 0.0, 0.0)


def test_ceiling_of_sampling_is_the_published_one() -> None:
    """Phi^-1 of the bound when all n agree, alpha = 0.001 (1.50, 2.46, 3.20, 3.81)."""
    found = [float(stats.norm.ppf(clopper_pearson_low(n, n, 0.001))) for n in (100, 1000, 10_000, 100_000)]
    assert found == pytest.approx([1.50, 2.46, 3.20, 3.81], abs=0.006)
    x = np.full((2, 1), 50.0)
    report = certify(Linear(torch.ones(1), 0.0, EncoderSpec("rsc1", 1, 1.0)), x, np.zeros(2), n=100)
    assert report.at_ceiling == 2
    assert report.images[0].radius == report.ceiling == pytest.approx(1.50, abs=0.01)
    assert report.rows[-1].certified_accuracy == 1


def test_guarantee_for_few_runs() -> None:
    """pA .99, sigma .25, T 4: .937 per run at r = .1 and .975 for 11 votes at r = .2."""
    sigma = effective_sigma(EncoderSpec("rsc2", 4, 0.25))
    p = run_bound(np.array([0.99, 0.99]), 0.1, sigma)[0], run_bound(np.array([0.99]), 0.2, sigma)[0]
    assert p == pytest.approx((0.937, 0.766), abs=5e-4)
    assert majority(np.array(p), 11) == pytest.approx((1.0, 0.975), abs=6e-4)


def test_guarantee_holds_under_the_worst_attack_on_a_linear_model() -> None:
    """The worst perturbation lowers one run to exactly Phi((distance - r) / sigma_eff)."""
    encoder = EncoderSpec("rsc2", 4, 0.5)
    x = np.full((1, 1), 0.6, np.float32)
    report = certify(
        Linear(torch.ones(1), 0.0, encoder), x, np.zeros(1), n=4000, radii=[0.0, 0.2, 0.4], votes=[11]
    )
    for guarantee in report.guarantees:
        truth = float(stats.norm.cdf((0.6 - guarantee.radius) / 0.25))
        assert truth - 0.06 < guarantee.per_run <= truth
        assert guarantee.votes[11] <= float(majority(np.array(truth), 11))


@pytest.mark.parametrize("encoder", [EncoderSpec("direct", 4), EncoderSpec("rsc2", 4, 0.0)])
def test_encoders_without_noise_are_refused(encoder: EncoderSpec) -> None:
    with pytest.raises(UsageError, match="cannot be certified"):
        certify(Linear(torch.ones(1), 0.0, encoder), np.zeros((1, 1)), np.zeros(1))


def test_both_noise_sources_agree_and_are_named() -> None:
    model = Linear(torch.ones(1), 0.0, EncoderSpec("rsc2", 4, 0.5))
    x, y = np.full((1, 1), 0.25), np.zeros(1)
    keyed, generated = (certify(p, x, y, n=4000) for p in (Keyed(model), Generated(model)))
    assert (keyed.source, generated.source) == ("keyed", "generator")
    truth = float(stats.norm.cdf(1.0))
    for report in (keyed, generated):
        assert truth - 0.04 < report.images[0].p_low <= truth


def test_counts_do_not_depend_on_the_chunk() -> None:
    predict = Keyed(Linear(torch.ones(2), 0.0, EncoderSpec("rsc2", 2, 0.5)))
    image = np.full(2, 0.1, np.float32)
    counts = [DrawSampler(predict, 3, chunk).counts(image, 7, 301, "estimate") for chunk in (1000, 17)]
    assert np.array_equal(counts[0], counts[1])
    assert counts[0].sum() == 301


def test_vote_abstains_when_two_classes_are_close() -> None:
    model = Linear(torch.ones(1), 0.0, EncoderSpec("rsc1", 1, 1.0))
    assert predict_or_abstain(model, np.array([[2.0], [-2.0], [0.0]]), n=200).tolist() == [0, 1, ABSTAIN]


def test_abstention_is_wrong_as_rarely_as_promised() -> None:
    """Classes at one half: any answer is a guess, allowed with probability alpha."""
    model = Linear(torch.ones(1), 0.0, EncoderSpec("rsc1", 1, 1.0))
    answers = predict_or_abstain(model, np.zeros((400, 1)), n=60, alpha=0.05, seed=1)
    assert (answers != ABSTAIN).sum() <= stats.binom.ppf(0.9999, 400, 0.05)


def test_report_is_complete_and_survives_json() -> None:
    model = Linear(torch.ones(4), 0.0, EncoderSpec("rsc2", 4, 0.5))
    x = np.linspace(-1, 1, 21)[:, None].repeat(4, 1)
    seen: list[tuple[int, int]] = []
    report = certify(
        model,
        x,
        (x[:, 0] < 0).astype(int),
        n=500,
        alpha=0.01,
        radii=[0, 0.1],
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(k + 1, 21) for k in range(21)]
    assert report.expected_false == pytest.approx(0.21)
    assert report.abstained == sum(i.predicted == ABSTAIN for i in report.images) > 0
    assert report.rows[1].linf_eps == pytest.approx(0.05)
    assert report.rule == "rsc2: sigma/sqrt(T)*Phi^-1(pA)"
    assert msgspec.json.decode(msgspec.json.encode(report), type=CertifyReport) == report


@pytest.mark.parametrize("wrong", [{"n": 0}, {"alpha": 1.0}, {"n0": 0}, {"chunk": 0}])
def test_parameters_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    model = Linear(torch.ones(1), 0.0, EncoderSpec("rsc1", 1, 1.0))
    with pytest.raises(UsageError):
        certify(model, np.zeros((1, 1)), np.zeros(1), **wrong)  # type: ignore[arg-type]
