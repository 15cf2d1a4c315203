"""Conclusions say what the numbers show, and as plainly what they do not show."""

from __future__ import annotations

import msgspec
import pytest
from report_sample import accuracy, energy, parity, robustness, sample

from rsc.energy.results import Ratio
from rsc.report import Report, TargetRow, conclude
from rsc.robustness.results import HealthCheck

replace = msgspec.structs.replace


def said(report: Report) -> str:
    return "\n".join(conclude(report).conclusions)


def attacked(ours: dict[int, float], theirs: dict[int, float], half: float = 0.04) -> Report:
    found = (robustness("RSC-II", ours, half), robustness("direct SNN", theirs, half))
    return replace(sample(), robustness=found)


def test_an_empty_report_concludes_nothing() -> None:
    assert conclude(Report("t", "now", conclusions=("made up",))).conclusions == ()


def test_concluding_twice_changes_nothing() -> None:
    once = conclude(sample())
    assert once.conclusions
    assert conclude(once) == once


def test_a_lead_beyond_the_intervals_is_a_win_there_and_only_there() -> None:
    text = said(attacked({8: 0.612, 16: 0.40}, {8: 0.31, 16: 0.39}))
    assert "RSC-II beats direct SNN by more than their intervals at L∞ 8/255;" in text
    assert "at the other strength the intervals meet" in text
    assert "61.2 % [57.2, 65.2] against 31.0 % [27.0, 35.0]" in text


def test_overlapping_intervals_are_no_win() -> None:
    text = said(attacked({8: 0.612, 16: 0.40}, {8: 0.55, 16: 0.39}))
    assert "RSC-II and direct SNN stay within each other's intervals at all 2 strengths" in text
    assert "beats" not in text


def test_touching_intervals_are_no_win() -> None:
    assert "beats" not in said(attacked({8: 0.75}, {8: 0.25}, half=0.25))


def test_a_loss_is_called_a_loss() -> None:
    text = said(attacked({8: 0.31, 16: 0.2}, {8: 0.612, 16: 0.21}))
    assert "RSC-II does not beat direct SNN at any of 2 strengths" in text
    assert "is worse by more than their intervals at L∞ 8/255" in text


def test_the_strongest_attack_counts_not_the_first() -> None:
    report = attacked({8: 0.612}, {8: 0.31})
    weak = report.robustness[0].attacks[0]
    strong = replace(weak, attack="strongest", scores=replace(weak.scores, per_run=accuracy(0.30)))
    first = replace(report.robustness[0], attacks=(weak, strong))
    assert "beats" not in said(replace(report, robustness=(first, report.robustness[1])))


def test_a_smoothed_ann_that_is_better_is_said_to_be() -> None:
    report = attacked({8: 0.4}, {8: 0.7})
    models = (report.models[0], replace(report.models[1], name="smoothed ANN", role="smoothed-ann"))
    found = (report.robustness[0], robustness("smoothed ANN", {8: 0.7}))
    text = said(replace(report, models=models, robustness=found))
    assert "RSC-II does not beat smoothed ANN" in text
    assert "worse" in text


@pytest.mark.parametrize(("value", "where"), [(0.955, "inside"), (0.80, "outside")])
def test_what_the_integer_network_lost_is_stated_with_its_intervals(value: float, where: str) -> None:
    targets = (
        TargetRow("torch", True, "2", "float32", 500, accuracy(0.97), model="RSC-II"),
        TargetRow("loihi", True, "1", "integer", 500, accuracy(value), model="RSC-II"),
    )
    text = said(replace(sample(), targets=targets))
    assert f"{100 * (value - 0.97):+.1f} points, {where} the intervals (n = 500)" in text


def test_robustness_after_deployment_names_where_the_images_were_made() -> None:
    text = said(sample())
    assert "After deployment on loihi RSC-II keeps 60.0 %" in text
    assert "images made on RSC-II on torch, not on loihi" in text


def test_parity_is_exact_or_counted_or_void() -> None:
    assert "Equal in every compared value, bit for bit" in said(
        replace(sample(), parity=(parity(exact=True),))
    )
    assert "differ in 41,321 values" in said(replace(sample(), parity=(parity(),)))
    void = replace(parity(exact=True), same_frames=False)
    text = said(replace(sample(), parity=(void,)))
    assert "nothing follows" in text
    assert "agree exactly" not in text


@pytest.mark.parametrize(
    ("low", "high", "lower_bound", "verdict"),
    [
        (1.49, 5.25, False, "needs more"),
        (0.2, 0.9, False, "needs less"),
        (0.2, 0.9, True, "may need more or less"),
        (0.5, 2.0, False, "may need more or less"),
        (1.49, 5.25, True, "needs more"),
    ],
)
def test_energy_claims_need_the_whole_interval(
    low: float, high: float, lower_bound: bool, verdict: str
) -> None:
    ratio = Ratio("all", None, low, high, low, high)
    text = said(replace(sample(), energy=(energy("conv1", "a" * 64, ratio, lower_bound),)))
    assert f"by these costs it {verdict} than the ANN" in text
    assert ("lower bounds" in text) == lower_bound


def test_failed_health_checks_cast_doubt_and_missing_ones_are_told() -> None:
    report = attacked({8: 0.6}, {8: 0.3})
    failed = HealthCheck("R4", "large eps breaks everything", "FAIL", {"accuracy": 0.4}, "Fix it.")
    first = replace(report.robustness[0], checks=(failed,))
    text = said(replace(report, robustness=(first, report.robustness[1])))
    assert "R4 large eps breaks everything (RSC-II on torch)" in text
    assert "may be overstated" in text
    bare = tuple(replace(r, checks=()) for r in report.robustness)
    assert "The attacks were not checked for health." in said(replace(report, robustness=bare))


def test_a_target_that_did_not_run_is_told() -> None:
    assert "lava was not run: There is no lava-nc." in said(sample())
