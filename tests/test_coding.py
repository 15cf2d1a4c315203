"""Encoders: published generator vectors, moments over time, keys, order of stages, gradients."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from rsc.coding import draw_noise, encode, encode_torch
from rsc.coding.noise import _on_circle, keyed_normal, philox
from rsc.errors import UsageError
from rsc.program import EncoderSpec
from rsc.results import Keys

# Random123's known answers for philox4x32-10: counter, key, result.
KNOWN = [
    ([0, 0, 0, 0], (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    (
        [0xFFFFFFFF] * 4,
        (0xFFFFFFFF, 0xFFFFFFFF),
        [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
    ),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        (0xA4093822, 0x299F31D0),
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_published_words(
    counter: list[int], key: tuple[int, int], expected: list[int]
) -> None:
    words = philox(np.array(counter, np.uint64)[:, None], key)
    assert words[:, 0].tolist() == expected


def test_frames_are_golden() -> None:
    spec = EncoderSpec("rsc2", 3, 0.5, clip=(-1.0, 2.0), mean=(0.3,), std=(0.4,))
    x = (np.arange(2 * 3 * 3, dtype=np.float32) / 18).reshape(2, 1, 3, 3)
    frames = encode(spec, x, Keys(7, np.array([3, 1000]), draw=2, stream="score"))
    digest = hashlib.sha256(frames.tobytes()).hexdigest()
    assert digest[:16] == "75734b9cc2aa8b7d"


def test_noise_depends_on_the_key_and_not_on_the_batch() -> None:
    whole = keyed_normal(Keys(1, np.arange(6), draw=np.arange(6)), 4, (1, 5, 5))
    for i in range(6):
        alone = keyed_normal(Keys(1, np.array([i]), draw=i), 4, (1, 5, 5))
        np.testing.assert_array_equal(whole[:, i : i + 1], alone)
    shorter = keyed_normal(Keys(1, np.arange(6), draw=np.arange(6)), 2, (1, 5, 5))
    np.testing.assert_array_equal(whole[:2], shorter)


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"draw": 1}, {"stream": "score"}, {"samples": np.array([9])}]
)
def test_another_key_is_other_noise(change: dict[str, object]) -> None:
    key = Keys(1, np.array([0]))
    a, b = (keyed_normal(k, 2, (64,)).ravel() for k in (key, key.replace(**change)))
    assert not np.intersect1d(a, b).size
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.4


def test_noise_is_the_same_in_any_number_of_threads() -> None:
    keys, before, found = Keys(3, np.arange(90)), torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(keyed_normal(keys, 3, (28, 28)))
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(*found)


def test_cosine_and_sine_of_words_are_those_of_the_mathematics_library() -> None:
    special = [0, 1, (1 << 20) - 1, 1 << 20, 1 << 30, 1 << 31, 3 << 30, (1 << 32) - 1]
    words = np.concatenate([special, np.random.default_rng(0).integers(0, 1 << 32, 4000)]).astype(np.uint64)
    for ours, exact in zip(_on_circle(words), (math.cos, math.sin), strict=True):
        theirs = [exact(2 * math.pi * int(w) / 2**32) for w in words]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-15)


def test_noise_is_standard_normal() -> None:
    z = keyed_normal(Keys(5, np.arange(250)), 8, (100,)).astype(np.float64).ravel()
    n = z.size
    assert abs(z.mean()) < 4 / np.sqrt(n)
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs((z**3).mean()) < 4 * np.sqrt(15 / n)
    assert stats.kstest(z, "norm").pvalue > 1e-4


@pytest.mark.parametrize(("kind", "mean_variance"), [("rsc1", 0.25), ("rsc2", 0.25 / 8)])
def test_variance_of_the_mean_over_time(kind: str, mean_variance: float) -> None:
    """RSC-I keeps sigma^2 after averaging T steps, RSC-II leaves sigma^2 / T; both are unbiased."""
    spec = EncoderSpec(kind, 8, 0.5)  # type: ignore[arg-type]
    x = np.full((2000, 10), 0.25, np.float32)
    frames = encode(spec, x, Keys(0, np.arange(2000))).astype(np.float64)
    averaged, n = frames.mean(0).ravel(), 20000
    assert abs(averaged.mean() - 0.25) < 4 * np.sqrt(mean_variance / n)
    assert abs(averaged.var() / mean_variance - 1) < 4 * np.sqrt(2 / n)
    covariance = np.mean((frames[0] - 0.25) * (frames[5] - 0.25))
    expected = 0.25 if kind == "rsc1" else 0.0
    assert abs(covariance - expected) < 4 * 0.25 * np.sqrt(2 / n)


def test_direct_frames_are_the_image() -> None:
    x = np.random.default_rng(0).random((3, 1, 4, 4), np.float32)
    frames = encode(EncoderSpec("direct", 5), x, Keys(0, np.arange(3)))
    np.testing.assert_array_equal(frames, np.broadcast_to(x, (5, 3, 1, 4, 4)))


def test_order_of_stages_is_obeyed() -> None:
    x, keys = np.full((1, 2, 1, 1), 0.5, np.float32), Keys(0, np.array([0]))
    constants: Any = {"mean": (0.5, 0.25), "std": (0.5, 2.0)}
    late = EncoderSpec("rsc2", 4, 1.0, **constants, order=("normalise", "clip", "noise"))
    early = EncoderSpec("rsc2", 4, 1.0, **constants)
    noise = keyed_normal(keys, 4, (2, 1, 1))
    scale = np.array([0.5, 2.0], np.float32).reshape(2, 1, 1)
    np.testing.assert_allclose(encode(late, x, keys), (x - [[[[0.5]], [[0.25]]]]) / scale + noise, atol=1e-6)
    np.testing.assert_allclose(encode(early, x, keys), (x + noise - [[[[0.5]], [[0.25]]]]) / scale, atol=1e-6)
    assert late.sigma_in_pixels == 0.5
    assert early.sigma_in_pixels == 1.0


def test_clip_bounds_the_frames() -> None:
    spec = EncoderSpec("rsc2", 4, 5.0, clip=(0.0, 1.0))
    frames = encode(spec, np.zeros((4, 50), np.float32), Keys(0, np.arange(4)))
    assert frames.min() == 0
    assert frames.max() == 1


def test_torch_path_equals_numpy_on_recorded_noise() -> None:
    spec = EncoderSpec("rsc2", 4, 0.5, clip=(-0.2, 1.2), mean=(0.3,), std=(0.7,))
    x, keys = np.random.default_rng(1).random((3, 1, 4, 4), np.float32), Keys(0, np.arange(3))
    noise = torch.from_numpy(keyed_normal(keys, 4, (1, 4, 4)))
    np.testing.assert_allclose(
        encode_torch(spec, torch.from_numpy(x), noise).numpy(), encode(spec, x, keys), atol=1e-6
    )


def test_gradient_of_additive_noise_is_exact() -> None:
    spec = EncoderSpec("rsc2", 4, 0.5, std=(0.25,), mean=(0.0,))
    x = torch.rand(2, 1, 3, 3, requires_grad=True)
    noise = draw_noise(spec, x, torch.Generator().manual_seed(0))
    encode_torch(spec, x, noise).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 4 / 0.25))


def test_generator_noise_repeats_with_its_seed() -> None:
    spec, x = EncoderSpec("rsc2", 2, 0.5), torch.zeros(2, 5)
    a, b = (draw_noise(spec, x, torch.Generator().manual_seed(3)) for _ in range(2))
    assert a is not None
    assert b is not None
    assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("rsc2", 0, 0.1), "steps"),
        (("rsc2", 4, -0.1), "sigma"),
        (("rsc2", 4, float("nan")), "sigma"),
        (("direct", 4, 0.1), "direct"),
    ],
)
def test_impossible_encoders_are_refused(arguments: tuple, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        EncoderSpec(*arguments)


def test_keys_must_match_images() -> None:
    with pytest.raises(UsageError, match="keys"):
        encode(EncoderSpec("rsc2", 2, 0.1), np.zeros((3, 4), np.float32), Keys(0, np.arange(2)))
    with pytest.raises(UsageError, match="too large"):
        keyed_normal(Keys(0, np.array([1 << 33])), 1, (2,))
