"""QTE is the area under accuracy over strength, for any grid of strengths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from rsc.errors import UsageError
from rsc.robustness.qte import qte

GRIDS = st.lists(st.floats(0, 100), min_size=2, max_size=12, unique=True).map(sorted)


def test_two_strengths_give_the_trapezoid_of_the_paper() -> None:
    found = qte([0.01, 0.03], [0.8, 0.5])
    assert found.area == pytest.approx((0.03 - 0.01) * (0.5 + 0.8) / 2)
    assert found.mean == pytest.approx(0.65)


@given(GRIDS, st.integers(0, 2**32 - 1))
def test_any_grid_gives_the_area_that_other_libraries_find(strengths: list[float], seed: int) -> None:
    accuracies = np.random.default_rng(seed).uniform(size=len(strengths))
    found = qte(strengths, list(accuracies))
    assert found.area == pytest.approx(float(np.trapezoid(accuracies, strengths)), abs=1e-9)
    assert found.area == pytest.approx(float(integrate.trapezoid(accuracies, strengths)), abs=1e-9)
    assert accuracies.min() - 1e-9 <= found.mean <= accuracies.max() + 1e-9


def test_a_point_on_the_line_changes_nothing() -> None:
    coarse, fine = qte([0, 4, 8], [0.9, 0.5, 0.3]), qte([0, 1, 4, 8], [0.9, 0.8, 0.5, 0.3])
    assert coarse == pytest.approx(fine)


def test_the_mean_does_not_depend_on_the_unit_of_strength() -> None:
    pixels, levels = qte([0, 2 / 255, 8 / 255], [1.0, 0.6, 0.1]), qte([0, 2, 8], [1.0, 0.6, 0.1])
    assert pixels.mean == pytest.approx(levels.mean)
    assert pixels.area == pytest.approx(levels.area / 255)


def test_a_constant_accuracy_is_its_own_mean() -> None:
    assert qte([0, 0.3, 5], [0.7, 0.7, 0.7]).mean == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("strengths", "accuracies", "word"),
    [
        ([], [], "at least two"),
        ([0.1], [0.5], "at least two"),
        ([0, 1, 2], [0.5, 0.5], "for each"),
        ([0, 2, 1], [0.5, 0.5, 0.5], "rise"),
        ([0, 1, 1], [0.5, 0.5, 0.5], "each given once"),
        ([-1, 1], [0.5, 0.5], "negative"),
        ([0, float("nan")], [0.5, 0.5], "finite"),
        ([0, 1], [0.5, float("inf")], "finite"),
    ],
)
def test_grids_without_an_area_are_refused(
    strengths: list[float], accuracies: list[float], word: str
) -> None:
    with pytest.raises(UsageError, match=word):
        qte(strengths, accuracies)
