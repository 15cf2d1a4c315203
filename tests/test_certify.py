"""Certificates against closed forms: linear classifiers, whose exact robustness is known."""

from __future__ import annotations

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
from rsc.robustness.certificate import Certificate, certificate_of, inside
from rsc.robustness.certify import ABSTAIN, certify, judge, predict_or_abstain, vote_or_abstain
from rsc.robustness.predict import Generated, Keyed
from rsc.robustness.results import CertifiedImage, CertifyReport
from rsc.robustness.statistics import majority


def drawn(
    p: np.ndarray,
    rng: np.random.Generator,
    law: Certificate,
    n0: int,
    n: int,
    alpha: float,
    shared: bool = False,
) -> CertifiedImage:
    """One certificate of a classifier with class probabilities `p`; `shared` is the forbidden short cut."""
    select = rng.multinomial(n0, p)
    estimate = select if shared else rng.multinomial(n, p)
    chosen, counted = (dict(enumerate(t.tolist())) for t in (select, estimate))
    return judge(0, 0, chosen, counted, law, alpha)


def false_certificates(
    sigmas: tuple[float, ...], equal: bool, naive: bool, trials: int = 2000, alpha: float = 0.01
) -> int:
    """Random F = 1[sum_t w_t . z_t > b]: how often the radius exceeds the exact distance to the border.

    `equal`: w_t = w / sigma_t^2, for which the radius is tight.
    """
    steps, sigma = len(sigmas), np.array(sigmas)
    rng = np.random.default_rng(steps)
    law = certificate_of(EncoderSpec("rsc2", steps, step_sigma=sigmas), 6)
    false = 0
    for _ in range(trials):
        w = rng.normal(size=(1, 6)) / sigma[:, None] ** 2 if equal else rng.normal(size=(steps, 6))
        noise = float(np.linalg.norm(w * sigma[:, None]))
        gap = noise * rng.uniform(0.02, 2.5)  # sum_t w_t . x - b, class 0 = positive
        p = float(stats.norm.cdf(gap / noise))
        distance = gap / np.linalg.norm(w.sum(0))
        found = drawn(np.array([p, 1 - p]), rng, law, 50, 2000, alpha)
        certified = found.radius * (math.sqrt(steps) if naive else 1)
        false += int(found.predicted == 0 and certified > distance)
    return false


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("sigmas", [(0.5,), (0.5,) * 4, (0.5,) * 16, (0.1, 0.3, 0.9), (2.0, 0.5)])
def test_false_certificates_stay_below_alpha(sigmas: tuple[float, ...], equal: bool) -> None:
    """2,000 random models each; 1 % may be false."""
    assert false_certificates(sigmas, equal, naive=False) <= stats.binom.ppf(0.9999, 2000, 0.01)


@pytest.mark.parametrize("steps", [4, 16])
def test_the_radius_without_sqrt_t_is_false(steps: int) -> None:
    """The control: smoothing's own formula, blind to the repetition of the image."""
    assert false_certificates((0.5,) * steps, False, naive=True, trials=800) > 0.1 * 800
    assert false_certificates((0.5,) * steps, True, naive=True, trials=300) > 0.9 * 300


@pytest.mark.parametrize("sigmas", [(0.5,) * 4, (0.2, 0.4, 0.8)])
def test_radius_is_the_exact_distance_for_weights_that_fit_the_noise(sigmas: tuple[float, ...]) -> None:
    """F = 1[sum_t w . z_t / sigma_t^2 > 0]: at the radius the vote is even; just inside it still holds."""
    law, sigma = certificate_of(EncoderSpec("rsc2", len(sigmas), step_sigma=sigmas), 16), np.array(sigmas)
    precision = float((1 / sigma**2).sum())
    distance = 0.3204 if len(set(sigmas)) == 1 else 0.2
    p = float(stats.norm.cdf(distance * math.sqrt(precision)))
    r = law.radius(p)
    assert r == pytest.approx(distance, rel=1e-9)
    assert law.needed(r) == pytest.approx(p, rel=1e-9)
    z = np.random.default_rng(1).normal(size=(200_000, len(sigmas))) / sigma  # noise along w only
    for scale, holds in ((0.95, True), (1.05, False)):
        hits = int(((distance - scale * r) * precision + z.sum(1) > 0).sum())
        assert stats.binomtest(hits, 200_000).pvalue < 1e-3
        assert (hits > 100_000) is holds


def test_a_step_without_noise_gives_everything_away() -> None:
    with pytest.raises(UsageError, match="cannot be certified"):
        certificate_of(EncoderSpec("rsc2", 2, step_sigma=(0.5, 0.0)), 4)


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
    law, p = certificate_of(EncoderSpec("rsc1", 1, 0.5), 1), np.array([0.4995, 0.4995, 0.001])
    false = {}
    for shared in (False, True):
        rng = np.random.default_rng(0)
        found = [drawn(p, rng, law, 400, 400, 0.05, shared) for _ in range(3000)]
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
    found = judge(0, 1, {0: 10}, {1: 100}, certificate_of(EncoderSpec("rsc1", 1, 1.0), 1), 0.01)
    assert (found.predicted, found.radius, found.p_low) == (ABSTAIN, 0.0, 0.0)


def test_ceiling_of_sampling_is_the_published_one() -> None:
    """Phi^-1 of the bound when all n agree, alpha = 0.001 (1.50, 2.46, 3.20, 3.81)."""
    law = certificate_of(EncoderSpec("rsc1", 1, 1.0), 1)
    found = [judge(0, 0, {0: 1}, {0: n}, law, 0.001).radius for n in (100, 1000, 10_000, 100_000)]
    assert found == pytest.approx([1.50, 2.46, 3.20, 3.81], abs=0.006)
    x = np.full((2, 1), 50.0)
    report = certify(Linear(torch.ones(1), 0.0, EncoderSpec("rsc1", 1, 1.0)), x, np.zeros(2), n=100)
    assert report.at_ceiling == 2
    assert report.images[0].radius == report.ceiling == pytest.approx(1.50, abs=0.01)
    assert report.rows[-1].certified_accuracy == 1


def test_guarantee_for_few_runs() -> None:
    """pA .99, sigma .25, T 4: .937 per run at r = .1 and .975 for 11 votes at r = .2."""
    law = certificate_of(EncoderSpec("rsc2", 4, 0.25), 1)
    p = law.run_bound(0.99, 0.1).item(), law.run_bound(np.array([0.99]), 0.2)[0]
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


@pytest.mark.parametrize("how", [{"chunk": 17}, {"chunk": 17, "batch": 1000}, {"chunk": 1000, "batch": 7}])
def test_certificates_do_not_depend_on_batches(how: dict[str, int]) -> None:
    model = Linear(torch.ones(2), 0.0, EncoderSpec("rsc2", 2, 0.5))
    x, y = np.linspace(-0.4, 0.4, 10, dtype=np.float32).reshape(5, 2), np.zeros(5)
    assert certify(model, x, y, n=301, **how) == certify(model, x, y, n=301)  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_conversions_are_the_largest_balls_inside(norm: str) -> None:
    """Against random points of those balls, and the worst corner of each."""
    rng, d, r = np.random.default_rng(0), 9, 0.7
    ball, order = inside(norm, r, d), int(norm[1])  # type: ignore[arg-type]
    for size, other in ((ball.linf, np.inf), (ball.l2, 2), (ball.l1, 1)):
        v = rng.normal(size=(2000, d))
        v = np.concatenate([v, np.ones((1, d)), np.eye(d)[:1]])
        v *= size / np.linalg.norm(v, other, axis=1, keepdims=True)
        longest = np.linalg.norm(v, order, axis=1).max()
        assert longest == pytest.approx(r)


def test_images_with_the_same_identity_are_refused() -> None:
    model = Linear(torch.ones(1), 0.0, EncoderSpec("rsc1", 1, 1.0))
    with pytest.raises(UsageError, match="same sample id"):
        certify(model, np.zeros((2, 1)), np.zeros(2), samples=np.array([3, 3]))


def test_one_alpha_for_all_images_is_divided_among_them() -> None:
    model = Linear(torch.ones(1), 0.0, EncoderSpec("rsc1", 1, 1.0))
    x, y = np.full((5, 1), 50.0), np.zeros(5)
    each, together = (certify(model, x, y, alpha=0.01, together=t) for t in (False, True))
    assert (each.expected_false, together.expected_false) == pytest.approx((0.05, 0.01))
    assert together.ceiling < each.ceiling
    assert together.images[0].p_low == pytest.approx(0.002 ** (1 / 1000))


def test_a_report_says_how_many_draws_a_radius_takes() -> None:
    """alpha^(1/n) must exceed Phi(r / sigma): r = 3, sigma = 1 take 5,114 draws at 0.001."""
    model = Linear(torch.ones(1), 0.0, EncoderSpec("rsc1", 1, 1.0))
    report = certify(model, np.full((2, 1), 50.0), np.zeros(2), n=100, radii=[0, 3])
    needed = math.ceil(math.log(0.001) / math.log(stats.norm.cdf(3)))
    assert any(f"{needed:,} draws" in text for text in report.advice)
    assert any("2 of 2 images are at the ceiling" in text for text in report.advice)
    assert any("floating point" in text for text in report.limits)


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
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == ((0, 21 * 600), (21 * 600, 21 * 600))
    assert report.expected_false == pytest.approx(0.21)
    assert report.abstained == sum(i.predicted == ABSTAIN for i in report.images) > 0
    assert report.rows[1].linf_eps == report.conversions[1].linf == pytest.approx(0.05)
    assert report.rule == "rsc2: sigma/sqrt(T)*Phi^-1(pA)"
    assert msgspec.json.decode(msgspec.json.encode(report), type=CertifyReport) == report
    assert msgspec.json.decode(msgspec.json.encode(report), type=CertifyReport).images == report.images


def test_votes_are_counted_right_wrong_or_not_at_all() -> None:
    model = Linear(torch.ones(1), 0.0, EncoderSpec("rsc1", 1, 1.0))
    found = vote_or_abstain(model, np.array([[2.0], [-2.0], [0.0], [3.0]]), np.array([0, 0, 0, 0]), n=200)
    assert found.classes == (0, 1, ABSTAIN, 0)
    assert (found.accuracy, found.wrong, found.abstained) == (0.5, 0.25, 1)
    assert found.interval is not None
    assert found.interval.low < 0.5 < found.interval.high


@pytest.mark.parametrize("wrong", [{"n": 0}, {"alpha": 1.0}, {"n0": 0}, {"chunk": 0}])
def test_parameters_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    model = Linear(torch.ones(1), 0.0, EncoderSpec("rsc1", 1, 1.0))
    with pytest.raises(UsageError):
        certify(model, np.zeros((1, 1)), np.zeros(1), **wrong)  # type: ignore[arg-type]
