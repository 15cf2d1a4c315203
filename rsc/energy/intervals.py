"""The intervals of a price, each of its own kind: costs, choices of the model, data; and who moves it most.

They are never mixed into one: cost intervals are ranges of published numbers, model intervals are choices,
and only the interval over samples is a statistic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy.special import stdtrit

from rsc.energy.results import DataInterval, Energy, Histogram, ModelInterval, Swing
from rsc.energy.terms import Term
from rsc.errors import UsageError

ENDS = ("low", "nominal", "high")

# class -> the choice that its counts leave open
CHOICES = {
    "synapses": "zero weights skipped or not",
    "neurons": "which updates had synaptic input",
    "weights": "weights reused or read for every operation",
    "accumulators": "accumulator in a register or in memory",
    "hops": "links that an event crosses",
}


def energy_of(terms: Sequence[Term]) -> Energy:
    """nJ per pass, mean over the passes; costs and counts at their ends together."""
    return Energy(*(sum(float(t.energy(end).mean()) for t in terms) / 1e3 for end in ENDS))


def data_interval(name: str, unit: str, values: np.ndarray, seeds: int = 1) -> DataInterval:
    """Mean with 95 % t-interval and percentiles of one value per pass.

    Args:
        values: [seeds * n], all samples under the first seed, then all under the next. Passes of one sample
            are not independent, so the interval is over the n means per sample.
        seeds: passes per sample.
    """
    values = np.asarray(values, dtype=np.float64)
    if seeds < 1 or len(values) % seeds:
        raise UsageError(f"{len(values)} passes are not {seeds} per sample.", "They differ.", "Correct them.")
    table = values.reshape(seeds, -1)
    means = table.mean(0)
    n, mean = len(means), float(means.mean())
    half = float(stdtrit(n - 1, 0.975) * means.std(ddof=1) / np.sqrt(n)) if n > 1 else None
    p5, p50, p95 = (float(p) for p in np.percentile(values, (5, 50, 95)))
    ends = (None, None) if half is None else (mean - half, mean + half)
    between = float(np.sqrt(table.var(0, ddof=1).mean())) if seeds > 1 else None
    return DataInterval(name, unit, n, mean, *ends, p5, p50, p95, seeds, between)


def histogram(name: str, unit: str, values: np.ndarray, seeds: int = 1, most: int = 30) -> Histogram:
    """Distribution of one value per pass over the samples; arguments as in `data_interval`.

    Args:
        most: bins at most; fewer where numpy's rule "auto" finds fewer enough.
    """
    means = np.asarray(values, dtype=np.float64).reshape(seeds, -1).mean(0)
    bins = min(most, len(np.histogram_bin_edges(means, "auto")) - 1)
    counts, edges = np.histogram(means, bins)
    return Histogram(name, unit, tuple(map(float, edges)), tuple(map(int, counts)))


def model_interval(terms: Sequence[Term]) -> ModelInterval:
    """The energy at nominal costs with every choice of the model at its ends."""
    ends = [sum(float(getattr(t, end).mean()) * t.cost.nominal for t in terms) / 1e3 for end in ENDS]
    return ModelInterval(min(ends[0], ends[1]), ends[1], ends[2], tuple(_open_choices(terms)))


def swings(terms: Sequence[Term]) -> tuple[Swing, ...]:
    """The tornado of nJ per pass: every uncertain cost and open choice alone, the widest first."""

    def value(costs: Callable[[Term], float], counts: Callable[[Term], str]) -> float:
        return sum(float(getattr(t, counts(t)).mean()) * costs(t) for t in terms) / 1e3

    return widest_first(terms, value)


def widest_first(
    terms: Sequence[Term], value: Callable[[Callable[[Term], float], Callable[[Term], str]], float]
) -> tuple[Swing, ...]:
    """Swings of `value(cost of a term, end of its counts)` over the uncertain costs and open choices."""
    found = [*_cost_swings(terms, value), *_model_swings(terms, value)]
    return tuple(sorted(found, key=lambda s: (s.low - s.high, s.name)))


def _cost_swings(terms: Sequence[Term], value: Callable[..., float]) -> Iterator[Swing]:
    for key in sorted({t.key for t in terms if t.cost.low < t.cost.high}):
        ends = [
            value(
                lambda t, e=end, k=key: getattr(t.cost, e if t.key == k else "nominal"), lambda t: "nominal"
            )
            for end in ("low", "high")
        ]
        if ends[0] != ends[1]:
            yield Swing(key.split(":")[-1], "cost", min(ends), max(ends))


def _model_swings(terms: Sequence[Term], value: Callable[..., float]) -> Iterator[Swing]:
    for group in _open_groups(terms):
        ends = [
            value(lambda t: t.cost.nominal, lambda t, e=end, g=group: e if t.group == g else "nominal")
            for end in ("low", "high")
        ]
        if ends[0] != ends[1]:
            yield Swing(CHOICES.get(group, group), "model", min(ends), max(ends))


def _open_groups(terms: Sequence[Term]) -> list[str]:
    return list(dict.fromkeys(t.group for t in terms if not np.array_equal(t.low, t.high)))


def _open_choices(terms: Sequence[Term]) -> list[str]:
    return [CHOICES.get(group, group) for group in _open_groups(terms)]
