"""Intervals and tests for proportions; textbook forms, scipy underneath."""

from __future__ import annotations

import math

import numpy as np
from scipy import special, stats

from rsc.robustness.results import Interval

ROUNDING = 1e-12  # relative; scipy's inverse beta function is good to about 1e-14


def wilson(hits: float, n: int, level: float = 0.95) -> Interval:
    """Wilson score interval of a proportion (Wilson 1927)."""
    z = float(special.ndtri(0.5 + level / 2))
    p = hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(max(0.0, middle - half), min(1.0, middle + half), level, "wilson")


def bootstrap_mean(values: np.ndarray, seed: int, level: float = 0.95, resamples: int = 2000) -> Interval:
    """Percentile interval of the mean of `values` [n] over resampled images.

    Equal values carry no spread to resample; then the Wilson interval of a proportion stands in
    (values in [0, 1] only).
    """
    values = np.asarray(values, np.float64)
    n = len(values)
    if np.ptp(values) == 0 and 0 <= values[0] <= 1:
        return wilson(float(values.sum()), n, level)
    rng = np.random.default_rng(seed)
    block = max(1, (1 << 22) // n)
    means = np.concatenate(
        [
            values[rng.integers(0, n, (min(block, resamples - at), n))].mean(1)
            for at in range(0, resamples, block)
        ]
    )
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(low), float(high), level, "bootstrap over images")


def bootstrap_difference(gaps: np.ndarray, seed: int, level: float = 0.95) -> Interval:
    """Interval of a mean paired difference in [-1, 1]; where no image differs, the Wilson limit both ways."""
    if np.ptp(gaps) > 0 or gaps[0] != 0:
        return bootstrap_mean(gaps, seed, level)
    limit = wilson(0, len(gaps), level).high
    return Interval(-limit, limit, level, "wilson, no image differs")


def clopper_pearson_low(hits: int, n: int, alpha: float) -> float:
    """One-sided exact lower bound of a proportion at confidence 1 - alpha (Clopper and Pearson 1934).

    Rounded down, so that the rounding of the special function does not cost confidence.
    """
    return 0.0 if hits == 0 else float(special.betaincinv(hits, n - hits + 1, alpha)) * (1 - ROUNDING)


def clopper_pearson_high(hits: int, n: int, alpha: float) -> float:
    """One-sided exact upper bound, rounded up; 1 - the lower bound of the misses."""
    return 1.0 if hits == n else min(1.0, 1 - clopper_pearson_low(n - hits, n, alpha) + ROUNDING)


def draws_to_show(p: float, alpha: float) -> int | None:
    """Least n whose bound exceeds `p` when all n draws agree: alpha^(1/n) > p; None if p is 1 or more."""
    if p >= 1:
        return None
    n = 1 if p <= 0 else math.floor(math.log(alpha) / math.log(p)) + 1
    while clopper_pearson_low(n, n, alpha) <= p:
        n += 1
    return n


def majority(p: np.ndarray, runs: int) -> np.ndarray:
    """Probability that more than half of `runs` independent runs hit, each with probability `p`."""
    return stats.binom.sf(runs // 2, runs, p)


def all_of(hits: np.ndarray, draws: int, tries: int) -> np.ndarray:
    """Unbiased estimate of P(all of m tries hit) from `hits` of `draws` runs: C(hits, m) / C(draws, m)."""
    steps = np.arange(tries)
    return np.prod(np.clip(hits[:, None] - steps, 0, None) / (draws - steps), axis=1)
