"""Coins, integer Gaussians, per-step noise: laws, covariance over time, exactness, gradients, golden bits."""

from __future__ import annotations

import hashlib
from typing import Any

import mpmath
import msgspec
import numpy as np
import pytest
import torch
from scipy import stats

from rsc.coding import draw_noise, encode, encode_torch, keyed_noise, recorded_noise
from rsc.coding.thresholds import thresholds
from rsc.errors import InputRefused, UsageError
from rsc.program import EncoderSpec
from rsc.results import Keys


def spec_of(kind: str, steps: int = 8, **fields: Any) -> EncoderSpec:
    return EncoderSpec(kind, steps, **fields)  # type: ignore[arg-type]


CODERS = {
    "rsc1": spec_of("rsc1", sigma=0.5),
    "rsc2": spec_of("rsc2", sigma=0.5),
    "rsc2 per step": spec_of("rsc2", step_sigma=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)),
    "rsc1 on a grid": spec_of("rsc1", sigma=0.5, grid=16),
    "rsc2 on a grid": spec_of("rsc2", sigma=0.5, grid=16),
    "bernoulli": spec_of("bernoulli"),
    "shared bernoulli": spec_of("bernoulli", shared=True),
    "signed": spec_of("signed"),
    "direct": spec_of("direct"),
}


def moments(name: str) -> tuple[float, np.ndarray]:
    """(mean, covariance over time [8, 8]) of a coder at x = 0.25, from the textbook."""
    spec = CODERS[name]
    if name == "direct":
        return 0.25, np.zeros((8, 8))
    if spec.kind in ("bernoulli", "signed"):
        variance = np.full(8, 0.25 * 0.75)
    else:
        # Rounding to a grid of 16 adds 1/12 of a step squared (Sheppard; the rest is below 1e-100).
        variance = np.array(spec.sigmas) ** 2 + (1 / (12 * 16**2) if spec.grid else 0)
    together = spec.kind == "rsc1" or spec.shared
    return 0.25, np.sqrt(np.outer(variance, variance)) if together else np.diag(variance)


@pytest.mark.parametrize("name", CODERS)
def test_expectation_variance_and_covariance_over_time(name: str) -> None:
    """All are unbiased; RSC-II and coins are independent over time, RSC-I and shared coins are not."""
    n = 20_000
    x = np.full((n // 10, 10), 0.25, np.float32)
    frames = encode(CODERS[name], x, Keys(3, np.arange(n // 10))).astype(np.float64).reshape(8, n)
    mean, covariance = moments(name)
    largest = np.sqrt(covariance.diagonal().max())
    assert np.abs(frames.mean(1) - mean).max() <= 4.5 * largest / np.sqrt(n)
    found = np.cov(frames, bias=True) if covariance.any() else np.zeros((8, 8))
    assert np.abs(found - covariance).max() <= 4.5 * largest**2 * np.sqrt(2 / n) + 1e-12
    averaged = frames.mean(0).var()
    assert averaged == pytest.approx(covariance.mean(), rel=0.05, abs=1e-12)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.7, 8.0])
def test_thresholds_are_those_of_the_discretised_gaussian(sigma: float) -> None:
    table = thresholds(sigma)
    reach = len(table) // 2
    with mpmath.workdps(60):
        expected = [
            int(mpmath.nint(mpmath.ncdf((k + mpmath.mpf("0.5")) / mpmath.mpf(sigma)) * 2**60))
            for k in range(-reach, reach)
        ]
    assert [int(t) for t in table] == expected
    beyond = mpmath.ncdf(-(reach + mpmath.mpf("0.5")) / sigma) * 2**60
    assert beyond < 0.5  # what is not in the table is less than half of its unit


@pytest.mark.parametrize("sigma", [0.05, 0.5])
def test_grid_noise_has_the_law_of_a_rounded_gaussian(sigma: float) -> None:
    spec = spec_of("rsc2", 4, sigma=sigma, grid=16)
    noise = keyed_noise(spec, Keys(11, np.arange(500)), (50,))
    assert noise is not None
    assert noise.dtype == np.int64
    k = np.arange(-40, 41)
    law = np.diff(stats.norm.cdf(np.append(k - 0.5, 40.5) / (16 * sigma)))
    found = np.bincount(noise.ravel() + 40, minlength=81)
    likely = law * noise.size > 5
    assert found[~likely].sum() <= stats.poisson.ppf(0.99999, law[~likely].sum() * noise.size + 1)
    assert stats.chisquare(found[likely], law[likely] / law[likely].sum() * found[likely].sum()).pvalue > 1e-4


def test_on_a_grid_adding_and_rounding_commute() -> None:
    """round(x + e) = x + round(e): frames are whole levels, whatever the order of the batch."""
    spec = spec_of("rsc2", sigma=0.5, grid=255, mean=(0.3,), std=(0.35,), clip=(-0.5, 1.5))
    x = (np.random.default_rng(0).integers(0, 256, (6, 1, 5, 5)) / 255).astype(np.float32)
    keys = Keys(2, np.arange(6))
    noise = keyed_noise(spec, keys, (1, 5, 5))
    levels = np.clip(np.rint(x.astype(np.float64) * 255) + noise, np.rint(-127.5), np.rint(382.5))
    expected = (levels - np.rint(0.3 * 255)) / (255 * 0.35)
    frames = encode(spec, x, keys)
    np.testing.assert_array_equal(frames, expected.astype(np.float32))
    np.testing.assert_array_equal(np.rint(frames.astype(np.float64) * 255 * 0.35), levels - 76)


def test_noise_after_normalising_is_drawn_in_levels_of_the_image() -> None:
    late = spec_of(
        "rsc1", 2, sigma=1.0, grid=64, mean=(0.5,), std=(0.25,), order=("normalise", "clip", "noise")
    )
    early = msgspec.structs.replace(late, sigma=0.25, order=("noise", "clip", "normalise"))
    x, keys = np.full((3, 1, 4, 4), 0.5, np.float32), Keys(1, np.arange(3))
    np.testing.assert_array_equal(encode(late, x, keys), encode(early, x, keys))


@pytest.mark.parametrize("bits", [1, 4, 8, 32])
def test_a_coin_is_an_exact_comparison_of_integers(bits: int) -> None:
    spec, keys = spec_of("bernoulli", 16, bits=bits), Keys(5, np.arange(40))
    x = np.random.default_rng(1).random((40, 12), np.float32)
    drawn = keyed_noise(spec, keys, (12,))
    assert drawn is not None
    assert drawn.min() >= 0
    assert drawn.max() < 2**bits
    fires = [[[int(u) < round(float(p) * 2**bits) for u, p in zip(us, ps, strict=True)]
              for us, ps in zip(step, x, strict=True)] for step in drawn]  # fmt: skip
    np.testing.assert_array_equal(encode(spec, x, keys) != 0, fires)


@pytest.mark.parametrize("kind", ["bernoulli", "signed"])
@pytest.mark.parametrize("bits", [1, 8, 32])
def test_certain_pixels_never_change(kind: str, bits: int) -> None:
    x = np.array([0.0, 1.0], np.float32).repeat(500).reshape(20, 50)
    frames = encode(spec_of(kind, 32, bits=bits), x, Keys(0, np.arange(20)))
    np.testing.assert_array_equal(frames, np.broadcast_to(x, (32, 20, 50)))
    torch_frames = encode_torch(
        spec_of(kind, 32, bits=bits),
        torch.from_numpy(x),
        draw_noise(spec_of(kind, 32, bits=bits), torch.from_numpy(x), torch.Generator().manual_seed(0)),
    )
    np.testing.assert_array_equal(torch_frames.numpy(), frames)


def test_signed_coins_carry_the_sign_of_the_pixel() -> None:
    x = np.array([[-0.7, 0.7, -1.0, 0.0]], np.float32).repeat(300, 0)
    frames = encode(spec_of("signed"), x, Keys(0, np.arange(300)))
    assert set(np.unique(frames[..., 0])) == {-1.0, 0.0}
    assert set(np.unique(frames[..., 1])) == {0.0, 1.0}
    assert (frames[..., 2] == -1).all()
    assert not frames[..., 3].any()
    assert frames[..., 0].mean() == pytest.approx(-0.7, abs=4.5 * np.sqrt(0.21 / 2400))


@pytest.mark.parametrize("name", CODERS)
def test_torch_replays_recorded_noise_bit_by_bit(name: str) -> None:
    spec = msgspec.structs.replace(CODERS[name], mean=(0.25,), std=(0.5,), clip=(-0.75, 1.5))
    keys = Keys(9, np.arange(5))
    x = np.random.default_rng(2).random((5, 1, 3, 3), np.float32)
    for kind in (torch.float32, torch.float64):
        given = torch.from_numpy(x).to(kind)
        frames = encode_torch(spec, given, recorded_noise(spec, keys, given))
        assert frames.dtype == kind
        np.testing.assert_allclose(frames.numpy(), encode(spec, x, keys), rtol=0, atol=3e-7)


@pytest.mark.parametrize("name", CODERS)
def test_gradient_reaches_the_image(name: str) -> None:
    """Exact for additive noise; straight-through, the sum over the steps, for coins and rounding."""
    spec = msgspec.structs.replace(CODERS[name], std=(0.25,))
    x = torch.rand(2, 1, 3, 3, requires_grad=True)
    frames = encode_torch(spec, x, draw_noise(spec, x, torch.Generator().manual_seed(0)))
    weight = torch.randn(frames.shape, generator=torch.Generator().manual_seed(1))
    (frames * weight).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0) / 0.25)


@pytest.mark.parametrize("name", CODERS)
def test_generated_noise_has_the_law_of_keyed_noise(name: str) -> None:
    spec, x = CODERS[name], torch.full((4000, 3), 0.25)
    mean, covariance = moments(name)
    frames = encode_torch(spec, x, draw_noise(spec, x, torch.Generator().manual_seed(4))).double().flatten(1)
    n = frames.shape[1]
    largest = float(np.sqrt(covariance.diagonal().max()))
    assert (frames.mean(1) - mean).abs().max() <= 4.5 * largest / np.sqrt(n)
    if largest:
        found = np.cov(frames.numpy(), bias=True)
        assert np.abs(found - covariance).max() <= 4.5 * largest**2 * np.sqrt(2 / n)


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("rsc2 per step", "52178653546b9368"),
        ("rsc2 on a grid", "d6c112456737d8c8"),
        ("rsc1 on a grid", "4454472d721027d8"),
        ("bernoulli", "507bb0387d9d6d41"),
        ("shared bernoulli", "7ab96a692280ccae"),
        ("signed", "507bb0387d9d6d41"),
    ],
)
def test_frames_are_golden(name: str, digest: str) -> None:
    x = (np.arange(2 * 4 * 4, dtype=np.float32) / 32).reshape(2, 1, 4, 4)
    frames = encode(CODERS[name], x, Keys(7, np.array([3, 1000]), draw=2, stream="score"))
    if name == "rsc2 per step":  # passes through the machine's logarithm and cosine
        frames = frames.round(4) + 0.0
    assert hashlib.sha256(frames.tobytes()).hexdigest()[:16] == digest


def test_new_fields_change_no_old_digest() -> None:
    written = msgspec.json.decode(msgspec.json.encode(EncoderSpec("rsc2", 4, 0.5)))
    names = ("kind", "steps", "sigma", "clip", "mean", "std", "order", "version")
    assert tuple(written) == names


def test_coins_are_refused_for_what_is_no_probability() -> None:
    with pytest.raises(InputRefused, match="probabilities"):
        encode(spec_of("bernoulli"), np.full((1, 3), 1.5, np.float32), Keys(0, np.arange(1)))
    with pytest.raises(InputRefused, match="probabilities"):
        encode(spec_of("bernoulli"), np.full((1, 3), -0.1, np.float32), Keys(0, np.arange(1)))


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"kind": "poisson"}, "poisson"),
        ({"kind": "bernoulli", "sigma": 0.1}, "Gaussian"),
        ({"kind": "rsc1", "step_sigma": (0.1,) * 8}, "rsc2"),
        ({"kind": "rsc2", "step_sigma": (0.1,) * 7}, "one for each step"),
        ({"kind": "rsc2", "sigma": 0.1, "step_sigma": (0.1,) * 8}, "in place of"),
        ({"kind": "rsc2", "sigma": 0.1, "bits": 8}, "bits"),
        ({"kind": "bernoulli", "bits": 33}, "bits"),
        ({"kind": "rsc2", "sigma": 0.1, "shared": True}, "shared"),
        ({"kind": "rsc2", "sigma": 0.1, "grid": 0}, "grid"),
        ({"kind": "bernoulli", "grid": 255}, "grid"),
        ({"kind": "rsc2", "sigma": 0.1, "grid": 255, "mean": (0.1, 0.2), "std": (1.0, 2.0)}, "std"),
    ],
)
def test_impossible_encoders_are_refused(fields: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        spec_of(**fields)


def test_per_step_noise_counts_as_its_harmonic_mean() -> None:
    """The certificate's radius is Phi^-1(pA) / sqrt(sum 1 / sigma_t^2)."""
    spec = spec_of("rsc2", 2, step_sigma=(0.3, 0.4))
    assert spec.sigma_in_pixels / np.sqrt(2) == pytest.approx(1 / np.sqrt(1 / 0.09 + 1 / 0.16))
