"""The hybrid certificate: its bound, its confidence, and that it beats what it must not contradict."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rsc.encoder_spec import EncoderSpec
from rsc.robustness.hybrid import certified, converted, either, guarantee, majority_proved, q_low

RSC2 = EncoderSpec("rsc2", 4, 0.25)


@pytest.mark.parametrize(("proved", "draws"), [(0, 10), (7, 10), (10, 10), (600, 1000), (1000, 1000)])
def test_the_lower_bound_is_that_of_clopper_and_pearson(proved: int, draws: int) -> None:
    expected = stats.binomtest(proved, draws, alternative="greater").proportion_ci(0.999, "exact").low
    assert q_low(proved, draws, 0.001) == pytest.approx(expected)
    assert certified(proved, draws, 0.001) == (expected > 0.5)


def test_ten_agreeing_draws_are_what_alpha_of_a_thousandth_takes() -> None:
    """0.001^(1/n) > 1/2 first holds at n = 10."""
    assert not certified(9, 9, 0.001)
    assert certified(10, 10, 0.001)


def test_a_box_that_is_proved_half_the_time_is_certified_as_rarely_as_promised() -> None:
    """q = 1/2 exactly: every certificate is false; 20,000 images, a binomial bound of five deviations."""
    alpha, images, draws = 0.01, 20_000, 200
    proved = np.random.default_rng(0).binomial(draws, 0.5, images)
    limit = min(k for k in range(draws + 1) if certified(k, draws, alpha))
    false = int((proved >= limit).sum())
    assert 0 < false <= images * alpha + 5 * math.sqrt(images * alpha)


def test_the_noise_alone_gives_sigma_over_root_t_and_d() -> None:
    p = 0.001 ** (1 / 1000)
    expected = 0.25 / 2 * stats.norm.ppf(p) / 8
    assert converted(RSC2, 1000, 1000, 0.001, 64) == pytest.approx(expected, rel=1e-6)
    assert converted(EncoderSpec("direct", 4), 1, 1, 0.001, 64) == 0
    assert converted(RSC2, 500, 1000, 0.001, 64) == 0
    coins = converted(EncoderSpec("bernoulli", 4), 1000, 1000, 0.001, 64)
    assert coins == pytest.approx((1 - (1.5 - p) ** (1 / 4)) / 64, rel=1e-4)


def test_the_better_of_both_pays_for_the_choice_with_half_of_alpha_each() -> None:
    eps = 1 / 64
    assert either(RSC2, eps, 600, 0, 1000, 0.001, 64) == certified(600, 1000, 0.0005)
    assert either(RSC2, eps, 0, 1000, 1000, 0.001, 64)
    assert not either(RSC2, 1 / 8, 0, 1000, 1000, 0.001, 64)
    edge = next(k for k in range(500, 1000) if certified(k, 1000, 0.001))
    assert not either(RSC2, 1 / 8, edge, 0, 1000, 0.001, 64)


def test_most_of_the_shipped_seeds_are_more_than_half() -> None:
    assert [majority_proved(k, 10) for k in (4, 5, 6)] == [False, False, True]


def test_the_guarantee_says_what_is_certain_and_what_is_likely() -> None:
    assert "0.999" in guarantee(RSC2, 100, 0.001)
    assert "100 seeds" in guarantee(RSC2, 100, 0.001)
    assert "certain" in guarantee(EncoderSpec("direct", 4), 1, 0.001)
