"""Three accuracies, each with its interval; noise is never taken for an attack (the lucky-noise error).

A library that marks an image broken at the first noisy run that is wrong reports the network's own noise as
the strength of the attack. Held here against attacks that cannot do anything, and against one that can.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from toy_models import Linear

from rsc.coding.noise import STREAMS, keyed_normal
from rsc.encoder_spec import EncoderSpec
from rsc.results import Keys
from rsc.robustness.attacks import ATTACKS, Attack
from rsc.robustness.eot import Eot
from rsc.robustness.evaluate import ATTACK_STREAMS, Scoring, attack_row, measure
from rsc.robustness.statistics import majority, wilson

N, RIGHT, DRAWS = 300, 0.9, 10
WEAK = {"steps": 4, "restarts": 3}  # many tries, each on noise of its own
ALONE = {"fgsm", "pgd", "apgd", "sa_pgd", "square", "spsa", "random"}  # take an image and a radius alone


def noisy(kind: str = "rsc1") -> tuple[Linear, torch.Tensor, torch.Tensor]:
    """A model whose every run is right with probability 0.9 on every image."""
    model = Linear(torch.ones(1), 0.0, EncoderSpec(kind, 1, 1.0))  # type: ignore[arg-type]
    return model, torch.full((N, 1), float(stats.norm.ppf(RIGHT))), torch.zeros(N, dtype=torch.int64)


def attack(name: str) -> Attack:
    kind: Any = ATTACKS[name]
    return kind(**{k: v for k, v in WEAK.items() if k in getattr(kind, "__dataclass_fields__", {})})


def plurality(p: float, runs: int) -> float:
    """P[the vote of an even number of runs is class 0], which wins ties."""
    return float(majority(np.array(p), runs) + stats.binom.pmf(runs / 2, runs, p))


def spread(p: float, n: int) -> float:
    """Four standard deviations of a share of n."""
    return 4 * math.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize("name", sorted(ALONE & ATTACKS.keys()))
def test_an_attack_that_can_do_nothing_leaves_all_three_accuracies_at_their_clean_values(name: str) -> None:
    """Radius 1e-9: per run 0.9, vote 0.998, worst of 10 0.35, with the very same baseline."""
    model, x, y = noisy()
    row = attack_row(attack(name), Eot(model, 2), x, y, 1e-9, Scoring(draws=DRAWS))
    assert abs(row.per_run.value - RIGHT) < spread(RIGHT, N * DRAWS)
    assert abs(row.vote.value - plurality(RIGHT, DRAWS)) < spread(plurality(RIGHT, DRAWS), N) + 1 / N
    assert abs(row.worst_of.value - RIGHT**DRAWS) < spread(RIGHT**DRAWS, N)
    for kind in ("per_run", "vote", "worst_of"):
        clean, attacked = getattr(row.baseline, kind), getattr(row.scores, kind)
        assert attacked.value == pytest.approx(clean.value, abs=1e-9)
        assert (attacked.n, attacked.draws, attacked.kind) == (clean.n, clean.draws, kind)


def test_the_control_that_counts_the_first_wrong_run_reports_noise_as_an_attack() -> None:
    """What a loop over tries with "broken if ever wrong" says of the same images: 0.35 instead of 0.9."""
    model, x, y = noisy()
    runs = measure(model, x, y, DRAWS)
    broken_if_ever_wrong = float(runs.right.all(0).mean())
    assert broken_if_ever_wrong < 0.5 < runs.scores().per_run.value
    assert runs.scores().worst_of.value == pytest.approx(broken_if_ever_wrong)


def test_a_stopped_search_for_lucky_misses_gains_nothing_on_fresh_noise() -> None:
    """Images kept because one run on the attack's noise was wrong score as well as any other."""
    model, x, y = noisy()
    seen = measure(model, x, y, 20, stream="score", seed=7).right
    lucky = np.flatnonzero(~seen.all(0))
    assert len(lucky) > 0.8 * N
    fresh = measure(model, x[lucky], y[lucky], DRAWS, samples=lucky, seed=0).scores().per_run.value
    assert abs(fresh - RIGHT) < spread(RIGHT, len(lucky) * DRAWS)


def test_noise_of_scoring_is_not_noise_that_an_attack_drew() -> None:
    keys = [Keys(0, np.arange(4), draw=1, stream=s) for s in sorted(STREAMS)]  # type: ignore[arg-type]
    drawn = [keyed_normal(k, 3, (50,)) for k in keys]
    for a in range(len(drawn)):
        for b in range(a):
            assert not np.isin(drawn[a], drawn[b]).mean() > 0.01
    assert {"attack", "train"} <= set(ATTACK_STREAMS)
    assert "score" not in ATTACK_STREAMS


def test_a_real_attack_is_told_from_noise_by_the_baseline() -> None:
    """Pushed by r, a run is right with Phi(z - r): per run, vote and worst-of all move as that says."""
    model, x, y = noisy()
    row = attack_row(attack("pgd"), Eot(model, 2), x, y, 1.0, Scoring(draws=DRAWS))
    p = float(stats.norm.cdf(stats.norm.ppf(RIGHT) - 1))
    assert abs(row.per_run.value - p) < spread(p, N * DRAWS)
    assert abs(row.vote.value - plurality(p, DRAWS)) < spread(plurality(p, DRAWS), N)
    assert abs(row.worst_of.value - p**DRAWS) < spread(p**DRAWS, N)
    assert row.baseline.worst_of.value - row.worst_of.value > 0.25


def test_intervals_are_of_the_kind_that_fits_each_accuracy_and_cover_it() -> None:
    """Wilson for votes, over images for shares of runs; 100 experiments each may miss 5 %."""
    model, x, y = noisy()
    scores = measure(model, x, y, DRAWS).scores()
    assert scores.vote.interval.method == "wilson"
    assert scores.vote.interval == wilson(round(scores.vote.value * N), N)
    assert scores.per_run.interval.method == scores.worst_of.interval.method == "bootstrap over images"
    missed = {"per_run": 0, "vote": 0, "worst_of": 0}
    truth = {"per_run": RIGHT, "vote": plurality(RIGHT, 4), "worst_of": RIGHT**4}
    for seed in range(100):
        found = measure(model, x[:100], y[:100], 4, seed=seed).scores()
        for kind, value in truth.items():
            interval = getattr(found, kind).interval
            missed[kind] += not interval.low <= value <= interval.high
    assert max(missed.values()) <= stats.binom.ppf(0.9999, 100, 0.07)


def test_more_tries_lower_the_worst_of_and_leave_the_other_two() -> None:
    model, x, y = noisy()
    runs = measure(model, x, y, 20)
    values = [runs.scores(worst_of=q) for q in (1, 5, 20)]
    assert [v.worst_of.value for v in values] == sorted((v.worst_of.value for v in values), reverse=True)
    assert values[0].worst_of.value == pytest.approx(values[0].per_run.value)
    assert len({v.per_run.value for v in values}) == len({v.vote.value for v in values}) == 1
    assert abs(values[1].worst_of.value - RIGHT**5) < spread(RIGHT**5, N)
