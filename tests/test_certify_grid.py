"""On a grid and for coins certificates are exact statements about integers: held against full enumeration."""

from __future__ import annotations

import dataclasses
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats
from toy_models import Linear

from rsc.coding import ENCODERS, encode, keyed_noise
from rsc.coding.stages import apply_stages
from rsc.coding.thresholds import thresholds
from rsc.encoder_spec import EncoderSpec
from rsc.results import Keys
from rsc.robustness.certificate import certificate_of
from rsc.robustness.certificate_gaussian import GaussianCertificate, table_slack
from rsc.robustness.certify import certify
from rsc.robustness.predict import Generated, Keyed
from rsc.robustness.statistics import clopper_pearson_high, clopper_pearson_low, draws_to_show

WHOLE = 1 << 60


def table_law(sigma: float) -> np.ndarray:
    """Exact probabilities of -R .. R in units of 2^-60, object integers."""
    edges = [0, *(int(v) for v in thresholds(sigma)), WHOLE]
    return np.array([b - a for a, b in itertools.pairwise(edges)], object)


@pytest.mark.parametrize("sigma", [0.7, 2.0, 6.5])
@pytest.mark.parametrize("steps", [1, 2])
def test_every_covered_integer_shift_keeps_the_majority_of_the_table(sigma: float, steps: int) -> None:
    """F = [sum of levels <= c], the worst case: exact probabilities of the drawn law, no sampling at all."""
    law = table_law(sigma)
    for _ in range(steps - 1):
        law = np.convolve(law, table_law(sigma))
    total = WHOLE**steps
    below = np.concatenate([[0], np.cumsum(law)])  # P[sum < k - half] for k = 0..
    half = len(law) // 2
    spec = EncoderSpec("rsc2", steps, sigma / 100, grid=100)
    certificate = certificate_of(spec, 1)
    assert isinstance(certificate, GaussianCertificate)
    tight = 0
    for c in range(half):
        p = Fraction(int(below[half + 1 + c]), total)
        low = float(p) * (1 - 1e-15)
        square = certificate.squared_levels(certificate.radius(low))
        shift = math.isqrt(square)  # whole levels, the worst direction
        moved = Fraction(int(below[max(0, half + 1 + c - steps * shift)]), total)
        assert moved > Fraction(1, 2)
        assert moved >= Fraction(float(certificate.run_bound(low, shift / 100))) - Fraction(1, 10**12)
        tight += Fraction(int(below[max(0, half + 1 + c - steps * (shift + 1))]), total) <= Fraction(1, 2)
    assert tight >= 1


def test_the_table_is_as_close_to_its_law_as_the_slack_says() -> None:
    """All thresholds against scipy, as far as doubles can tell."""
    spec = EncoderSpec("rsc2", 3, 64 / 255, grid=255)
    slack = table_slack(spec, 3072)
    assert 0 < slack < 1e-10
    k = np.arange(-len(thresholds(64.0)) // 2, len(thresholds(64.0)) // 2)
    near = abs(thresholds(64.0).astype(np.float64) / WHOLE - stats.norm.cdf((k + 0.5) / 64))
    assert near.max() < 1e-15


def test_radius_pays_for_the_slack() -> None:
    bare = GaussianCertificate(1.0, "")
    paid = GaussianCertificate(1.0, "", slack=1e-3)
    assert paid.radius(0.9) == pytest.approx(stats.norm.ppf(0.899) - stats.norm.ppf(0.501))
    assert paid.radius(0.5015) == 0 < bare.radius(0.5015)
    assert paid.radius(paid.needed(0.3)) == pytest.approx(0.3)
    assert paid.run_bound(0.9, 0.2).item() < bare.run_bound(0.9, 0.2).item()


def test_a_perturbed_image_is_covered_by_a_sum_of_integers() -> None:
    law = GaussianCertificate(0.1, "", grid=255)
    assert law.squared_levels(0.0) == 0
    assert law.squared_levels(3 / 255) == 8  # strictly below 3 levels
    assert law.squared_levels(3.0001 / 255) == 9


@dataclasses.dataclass(frozen=True)
class ReadsFractions:
    """Class 1 if a frame is off the grid: what a network could do with a leak of the image's fraction."""

    encoder: EncoderSpec
    rounded_before: bool

    def __call__(self, x: np.ndarray, keys: Keys) -> np.ndarray:
        if self.rounded_before:
            grid = self.encoder.grid or 1
            noise = keyed_noise(self.encoder, keys, x.shape[1:])
            assert noise is not None
            level = x[None].astype(np.float64) * grid + noise
        else:
            level = encode(self.encoder, x, keys).astype(np.float64) * (self.encoder.grid or 1)
        off = np.asarray(abs(level - np.rint(level)) > 1e-3)
        return np.asarray(off.any((0, 2)), np.int64)


def test_noise_that_is_rounded_before_it_is_added_certifies_falsehoods() -> None:
    """The control gets a radius and changes its class in every run at a hundredth of it; ours cannot."""
    spec = EncoderSpec("rsc2", 2, 0.25, grid=16)
    x = np.full((1, 3), 5 / 16, np.float32)
    near = x + np.float32(0.001)
    for rounded_before, sound in ((True, False), (False, True)):
        model = ReadsFractions(spec, rounded_before)
        found = certify(model, x, np.zeros(1), encoder=spec, n=500)
        assert found.images[0].radius > 0.2
        keys = Keys(1, np.zeros(400, int), np.arange(400), "run")
        classes = model(np.broadcast_to(near, (400, 3)), keys)
        assert bool((classes == found.images[0].predicted).mean() > 0.5) is sound


def test_whole_path_on_a_grid_matches_the_closed_form() -> None:
    spec = EncoderSpec("rsc2", 4, 0.5, grid=32, mean=(0.25,), std=(0.5,))
    rng = np.random.default_rng(2)
    w = torch.tensor(rng.normal(size=3), dtype=torch.float32)
    x = (rng.integers(-20, 33, (150, 3)) / 32).astype(np.float32)
    score = (x - 0.25) @ w.numpy()
    y = (score <= 0).astype(np.int64)
    report = certify(Linear(w, 0.0, spec), x, y, n0=50, n=1500, alpha=0.01)
    found, distance = np.array([i.radius for i in report.images]), np.abs(score) / float(w.norm())
    assert (found > distance).sum() <= stats.binom.ppf(0.9999, 150, 0.01)
    assert (report.soundness, report.off_grid) == ("sampler", 0)
    assert len(report.squared_levels) == 150
    squares = np.array(report.squared_levels)
    assert (squares < np.maximum((found * 32) ** 2, 1e-9) + 1e-9).all()
    assert certify(Linear(w, 0.0, spec), x + np.float32(0.01), y, n=20).off_grid == 150


def test_soundness_says_where_floating_point_is_left() -> None:
    def of(model: object, encoder: EncoderSpec) -> str:
        return certify(model, np.zeros((1, 1)), np.zeros(1), encoder=encoder, n=20).soundness

    grid, real = EncoderSpec("rsc2", 2, 0.5, grid=16), EncoderSpec("rsc2", 2, 0.5)
    assert of(Linear(torch.ones(1), 1.0, real), real) == "real"
    assert of(Keyed(Linear(torch.ones(1), 1.0, grid)), grid) == "sampler"
    assert of(Generated(Linear(torch.ones(1), 1.0, grid)), grid) == "real"
    assert (
        of(Linear(torch.ones(1), 1.0, EncoderSpec("bernoulli", 2)), EncoderSpec("bernoulli", 2)) == "sampler"
    )


def frame_law(spec: EncoderSpec, points: np.ndarray) -> np.ndarray:
    """Probabilities [points, outcomes] of all spike frames, by running the encoder on all noise there is."""
    steps = 1 if spec.shared else spec.steps
    pixels = points.shape[1]
    noise = np.array(list(itertools.product(range(1 << spec.bits), repeat=steps * pixels)))
    noise = noise.reshape(-1, steps, pixels).transpose(1, 0, 2)
    codes = 3 ** np.arange(steps * pixels)
    law = np.zeros((len(points), 3 ** (steps * pixels)))
    for k, x in enumerate(points):
        image = np.broadcast_to(x.astype(np.float32), noise.shape[1:])
        spikes = apply_stages(spec, image[None], noise, ENCODERS[spec.kind]).astype(int) + 1
        outcome = spikes.transpose(1, 0, 2).reshape(noise.shape[1], -1) @ codes
        law[k] = np.bincount(outcome, minlength=law.shape[1]) / noise.shape[1]
    return law


def grid_points(kind: str, bits: int) -> np.ndarray:
    low = -(1 << bits) if kind == "signed" else 0
    axis = np.arange(low, (1 << bits) + 1) / (1 << bits)
    return np.array(list(itertools.product(axis, repeat=2)))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", ["bernoulli", "signed"])
def test_no_classifier_of_coins_breaks_its_certificate(kind: str, shared: bool) -> None:
    """All images of two pixels, all noise, 400 classifiers of all spike frames: exact probabilities."""
    spec = EncoderSpec(kind, 2, shared=shared, bits=2)  # type: ignore[arg-type]
    points = grid_points(kind, 2)
    law = frame_law(spec, points)
    assert law.sum(1) == pytest.approx(1)
    certificate = certificate_of(spec, 2, levels=4)
    distance = abs(points[:, None] - points[None]).sum(2)
    rng = np.random.default_rng(0)
    certified = wrong_without_t = 0
    for trial in range(400):
        classes = rng.random(law.shape[1]) < rng.uniform(0.2, 0.8)
        if trial % 2:  # classifiers that are nearly always right at one image are the dangerous ones
            classes = law[rng.integers(len(points))] > 0
        p = law @ classes  # whole multiples of 2^-8 or so: exact
        radii = np.array([certificate.radius(float(v)) for v in p])
        inside = (distance <= radii[:, None]) & (p > 0.5)[:, None]
        certified += int((radii > 0).sum())
        assert (p[None].repeat(len(p), 0)[inside] > 0.5).all()
        for r in (0.25, 0.5):
            bound = certificate.run_bound(p, r)
            worst = np.where(distance <= r, p[None], 1.0).min(1)
            assert (bound <= worst + 1e-9).all()
        naive = distance < (p - 0.5)[:, None]
        wrong_without_t += int((p[None].repeat(len(p), 0)[naive] <= 0.5).sum())
    assert certified > 1000
    assert (wrong_without_t > 0) is (not shared)  # the control: pA - 1/2 without T


def test_coin_radii_are_the_published_ones_and_both_forms_are_ordered() -> None:
    """0.500, 0.293, 0.159, 0.083, 0.042 for T = 1, 2, 4, 8, 16 at pA = 1."""
    for steps, r in zip((1, 2, 4, 8, 16), (0.5, 0.293, 0.159, 0.083, 0.042), strict=True):
        law = certificate_of(EncoderSpec("bernoulli", steps), 4)
        assert law.radius(1.0) == pytest.approx(r, abs=5e-4)
        assert law.radius(0.9) >= 0.4 / steps - 1e-8
        assert law.needed(law.radius(0.9)) == pytest.approx(0.9)
        assert law.norm == "l1"
    assert certificate_of(EncoderSpec("signed", 16, shared=True), 4).radius(0.9) == pytest.approx(0.4)


def test_few_bits_cost_radius_and_known_levels_give_it_back() -> None:
    """8 bits, 784 pixels: 784/256 more than any radius, unless images are known to be 8-bit ones."""
    spec = EncoderSpec("bernoulli", 1, bits=8)
    assert certificate_of(spec, 784).radius(1.0) == 0
    assert certificate_of(spec, 784, levels=255).radius(1.0) == pytest.approx(0.5 / (1 + 255 / 256))
    assert certificate_of(spec, 784, levels=256).radius(1.0) == pytest.approx(0.5)
    assert certificate_of(spec, 784, levels=512).radius(1.0) < 0.2
    centred = EncoderSpec("signed", 1, mean=(0.5,), std=(0.5,), order=("normalise", "clip", "noise"))
    assert certificate_of(centred, 4).radius(1.0) == pytest.approx(0.25)


@pytest.mark.parametrize("kind", ["bernoulli", "signed"])
def test_whole_path_of_coins_matches_the_closed_form(kind: str) -> None:
    """Class 0 while no spike comes from a pixel of value v: P = (1 - v)^T, the coupling's bound itself."""
    spec = EncoderSpec(kind, 4)  # type: ignore[arg-type]

    def silent(x: np.ndarray, keys: Keys) -> np.ndarray:
        return (encode(spec, x, keys) != 0).any((0, 2)).astype(np.int64)

    x = np.linspace(0, 0.15, 40, dtype=np.float32)[:, None]
    report = certify(silent, x, np.zeros(40), encoder=spec, n=2000, alpha=0.01)
    border = 1 - 0.5**0.25 - x[:, 0]  # how much v may grow before silence is as likely as not
    found = np.array([i.radius for i in report.images])
    assert (found > border).sum() <= stats.binom.ppf(0.9999, 40, 0.01)
    assert found[0] > 0.95 * border[0]
    assert report.norm == "l1"
    assert report.rows[-1].linf_eps == pytest.approx(report.ceiling)  # one pixel


def exact_tail(hits: int, n: int, p: Fraction) -> Fraction:
    """P[at least `hits` of n]."""
    return sum(
        (Fraction(math.comb(n, k)) * p**k * (1 - p) ** (n - k) for k in range(hits, n + 1)), start=Fraction(0)
    )


@pytest.mark.parametrize(
    ("hits", "n", "alpha"), [(1, 1, 0.05), (37, 50, 0.01), (59, 60, 1e-3), (3, 40, 1e-6)]
)
def test_bounds_agree_with_scipy_and_are_on_the_safe_side_in_exact_arithmetic(
    hits: int, n: int, alpha: float
) -> None:
    low, high = clopper_pearson_low(hits, n, alpha), clopper_pearson_high(n - hits, n, alpha)
    theirs = stats.binomtest(hits, n, alternative="greater").proportion_ci(1 - alpha, "exact").low
    assert low == pytest.approx(theirs, rel=1e-9)
    above = stats.binomtest(n - hits, n, alternative="less").proportion_ci(1 - alpha, "exact").high
    assert high == pytest.approx(above, rel=1e-9)
    assert exact_tail(hits, n, Fraction(low)) <= Fraction(alpha)
    assert exact_tail(hits, n, Fraction(1) - Fraction(high)) <= Fraction(alpha)
    assert exact_tail(hits, n, Fraction(low) * (1 + Fraction(1, 10**9))) > Fraction(alpha)


def test_draws_to_show_a_probability_is_the_least_number() -> None:
    for p, alpha in ((0.9, 0.001), (0.5, 0.05), (0.9999, 0.001)):
        n = draws_to_show(p, alpha)
        assert n is not None
        assert clopper_pearson_low(n, n, alpha) > p >= clopper_pearson_low(n - 1, n - 1, alpha)
    assert draws_to_show(1.0, 0.1) is None
