"""Scores rest on fresh noise, name what they mean, and carry intervals that cover."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
import torch
from scipy import stats
from toy_models import Linear, digits, trained

from rsc import data
from rsc.errors import InputRefused, UsageError
from rsc.hw_targets import deploy
from rsc.neurons.surrogates import triangle
from rsc.program import EncoderSpec, Program
from rsc.results import Keys
from rsc.robustness.attacks import Pgd, RandomNoise, Square
from rsc.robustness.eot import Eot
from rsc.robustness.evaluate import Runs, Scoring, accuracy_curve, attack_row, compare, measure, qte, score
from rsc.robustness.model import from_deployed, from_module, with_surrogate
from rsc.robustness.predict import Generated, Keyed, encoder_of
from rsc.robustness.results import AttackRow, Curve
from rsc.robustness.statistics import all_of, bootstrap_mean, clopper_pearson_low, majority, wilson


def noisy(n: int = 400, right: float = 0.9) -> tuple[Linear, torch.Tensor, torch.Tensor]:
    """A model whose every run is right with probability `right`, whatever the image index."""
    model = Linear(torch.ones(1), 0.0, EncoderSpec("rsc1", 1, 1.0))
    x = torch.full((n, 1), float(stats.norm.ppf(right)))
    return model, x, torch.zeros(n, dtype=torch.int64)


def test_three_accuracies_match_their_closed_forms() -> None:
    model, x, y = noisy()
    scores = score(model, x, y, draws=10, seed=3)
    n = len(x)
    assert abs(scores.per_run.value - 0.9) < 4 * math.sqrt(0.9 * 0.1 / (10 * n))
    assert abs(scores.vote.value - float(majority(np.array(0.9), 10) + stats.binom.pmf(5, 10, 0.9))) < 0.02
    worst = 0.9**10
    assert abs(scores.worst_of.value - worst) < 4 * math.sqrt(worst * (1 - worst) / n)
    assert scores.per_run.interval.low < 0.9 < scores.per_run.interval.high


def test_noise_is_never_counted_as_an_attack() -> None:
    """With a radius of 1e-6 an attack with many restarts changes nothing; "any run wrong" would say 0.35."""
    model, x, y = noisy()
    attack = Pgd(steps=5, restarts=5)
    row = attack_row(attack, Eot(model, 2), x, y, 1e-6, Scoring(draws=10))
    assert abs(row.per_run.value - row.baseline.per_run.value) < 1e-3
    assert abs(row.per_run.value - 0.9) < 0.03
    assert row.worst_of.value < 0.45
    assert row.worst_of.value == pytest.approx(row.baseline.worst_of.value, abs=0.01)


@pytest.mark.parametrize("stream", ["attack", "train"])
def test_noise_that_an_attack_saw_cannot_score(stream: str) -> None:
    model, x, y = noisy(4)
    with pytest.raises(UsageError, match="has seen that noise"):
        measure(model, x, y, 2, stream=stream)


def test_worst_of_fewer_tries_is_the_exact_average_over_subsets() -> None:
    """C(c, q) / C(d, q) against a count over all subsets."""
    from itertools import combinations

    hits, draws, tries = np.array([0, 2, 4, 5]), 5, 2
    for value, c in zip(all_of(hits, draws, tries), hits, strict=True):
        row = np.arange(draws) < c
        subsets = [row[list(s)].all() for s in combinations(range(draws), tries)]
        assert value == pytest.approx(np.mean(subsets))


def test_vote_is_the_most_frequent_class() -> None:
    classes = np.array([[0, 2, 1], [1, 2, 0], [1, 0, 2]])
    runs = Runs(classes, np.array([1, 2, 0]), "toy", 0, "score", "keyed")
    assert runs.votes.tolist() == [1, 2, 0]
    assert runs.scores().vote.value == 1


def test_results_do_not_depend_on_the_batch() -> None:
    _, _, x, y = digits()
    one = measure(trained(), x[:50], y[:50], 3, chunk=50)
    many = measure(trained(), x[:50], y[:50], 3, chunk=7)
    assert np.array_equal(one.classes, many.classes)


def test_generator_noise_is_reproducible_and_named() -> None:
    model, x, y = noisy()
    runs = [measure(Generated(model), x, y, 5, seed=2) for _ in range(2)]
    assert np.array_equal(runs[0].classes, runs[1].classes)
    assert not np.array_equal(runs[0].classes[0], runs[0].classes[1])
    assert runs[0].source == "generator"
    assert abs(runs[0].right.mean() - 0.9) < 0.03
    assert encoder_of(Keyed(model)) == model.encoder


def test_paired_difference_counts_what_changed() -> None:
    """McNemar by hand: 6 images only the first gets right, 1 only the second."""
    y = np.zeros(40, np.int64)
    first, second = np.zeros((1, 40), np.int64), np.zeros((1, 40), np.int64)
    second[0, :6], first[0, 6] = 1, 1
    a, b = (Runs(c, y, n, 0, "score", "keyed") for c, n in ((first, "float"), (second, "integer")))
    gap = compare(a, b)
    assert (gap.only_first, gap.only_second, gap.flipped_runs, gap.runs) == (6, 1, 7, 40)
    assert gap.mcnemar_p == pytest.approx(2 * (1 + 7) / 2**7)
    assert gap.per_run == pytest.approx(-5 / 40)
    assert gap.interval.low < gap.per_run < gap.interval.high
    same = compare(a, a)
    assert same.per_run == 0
    assert same.interval.low < 0 < same.interval.high


def test_pairs_need_the_same_noise() -> None:
    model, x, y = noisy(10)
    with pytest.raises(UsageError, match="same images and noise"):
        compare(measure(model, x, y, 2, seed=0), measure(model, x, y, 2, seed=1))


def test_intervals_cover_as_often_as_they_say() -> None:
    """500 samples of 200 images; misses of a 95 % interval are binomial."""
    rng = np.random.default_rng(0)
    p = rng.beta(8, 2, (500, 200))
    misses = sum(not (i.low <= 0.8 <= i.high) for i in (bootstrap_mean(row, 0, resamples=400) for row in p))
    assert misses <= stats.binom.ppf(0.9999, 500, 0.06)
    hits = rng.binomial(200, 0.9, 2000)
    missed = sum(not (i.low <= 0.9 <= i.high) for i in (wilson(h, 200) for h in hits))
    assert missed <= stats.binom.ppf(0.9999, 2000, 0.06)


def test_wilson_matches_scipy_and_exact_bound_matches_its_definition() -> None:
    ours, theirs = wilson(37, 50), stats.binomtest(37, 50).proportion_ci(0.95, "wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    low = clopper_pearson_low(37, 50, 0.01)
    assert stats.binom.sf(36, 50, low) == pytest.approx(0.01)
    assert clopper_pearson_low(0, 50, 0.01) == 0
    assert bootstrap_mean(np.ones(50), 0).low < 1


def test_curve_falls_and_its_area_is_the_trapezoid() -> None:
    _, _, x, y = digits()
    curve = accuracy_curve(Pgd(steps=8), Eot(trained(), 2), x[:80], y[:80], ["0.05", "0.1", 0.2], Scoring(8))
    values = [row.per_run.value for row in curve.rows]
    assert [row.eps_text for row in curve.rows] == ["0", "0.05", "0.1", "0.2"]
    assert values == sorted(values, reverse=True)
    assert curve.rows[0].per_run.value == curve.rows[0].baseline.per_run.value
    assert curve.qte == pytest.approx(float(np.trapezoid(values, [0, 0.05, 0.1, 0.2])))
    assert msgspec.json.decode(msgspec.json.encode(curve), type=Curve) == curve


def test_area_of_a_line() -> None:
    assert qte([0, 1, 3], [1.0, 0.75, 0.25]) == pytest.approx((0.875 + 1.0, 1.875 / 3))
    assert qte([0], [0.7]) == (0, 0.7)


def test_images_made_on_one_model_are_scored_on_another() -> None:
    _, _, x, y = digits()
    x, y = x[:60], y[:60]

    def target(images: np.ndarray, keys: Keys) -> np.ndarray:
        return Keyed(trained())(np.round(images * 16) / 16, keys)

    row = attack_row(Pgd(steps=8), trained(), x, y, "2/16", Scoring(4, levels=16), predict=target)
    assert (row.crafted_on, row.target, row.levels) == ("toy", "function", 16)
    assert row.largest_norm <= 2 / 16
    assert row.per_run.value < row.baseline.per_run.value - 0.1
    assert msgspec.json.decode(msgspec.json.encode(row), type=AttackRow) == row


def test_random_noise_row_beats_nothing() -> None:
    _, _, x, y = digits()
    row = attack_row(RandomNoise(), trained(), x[:100], y[:100], 0.05, Scoring(8))
    assert row.per_run.value > row.baseline.per_run.value - 0.05


def test_predictions_that_are_no_classes_are_refused() -> None:
    _, x, y = noisy(4)
    with pytest.raises(InputRefused, match="class indices"):
        measure(lambda images, keys: images, x, y, 1)
    with pytest.raises(UsageError, match="cannot predict"):
        measure(3, x, y, 1)


def test_a_deployed_program_and_its_twin_are_the_same_model(program: Program) -> None:
    """Same keys, same frames, same classes; and the twin can be attacked through any surrogate."""
    deployed = deploy(program, "torch")
    assert program.encoder is not None
    assert program.bounds is not None
    module = deployed.module  # type: ignore[attr-defined]
    twin = from_module(module, program.encoder, program.bounds, program.semantics.readout)
    found = data.load("digits", "test").head(40)
    x, y = torch.tensor(found.images), torch.tensor(found.targets).long()
    gap = compare(measure(twin, x, y, 3), measure(deployed, x, y, 3))
    assert (gap.flipped_runs, gap.first, gap.second) == (0, "torch", "torch")
    for model in (twin, with_surrogate(twin, triangle)):
        row = attack_row(Pgd(steps=4), Eot(model, 2), x, y, 0.15, Scoring(3), predict=deployed)
        assert row.per_run.value < row.baseline.per_run.value - 0.2
    assert with_surrogate(twin, triangle).surrogate == "triangle"
    assert twin.module.surrogate is not triangle  # type: ignore[attr-defined]
    blind = from_deployed(deployed)
    row = attack_row(Square(steps=30), blind, x, y, 0.25, Scoring(3))
    assert row.per_run.value < row.baseline.per_run.value
