"""Certificates, proofs and what was not tried: each in its own norm, and nothing lost in the file."""

from __future__ import annotations

import io

import msgspec
import pytest
from report_sample import accuracy, attack, certificate, coins, robustness, sample, scores, verification
from rich.console import Console

from rsc.report import Report, conclude, from_json, terminal_tables, to_json
from rsc.report.html import html
from rsc.report.markdown import markdown
from rsc.report.sections import Section, sections
from rsc.report.threat import left_out, not_tried, threat_model
from rsc.robustness.results import CertifyReport, RobustnessReport

replace = msgspec.structs.replace
NEW = ("norm", "soundness", "promises", "limits", "advice", "squared_levels", "off_grid", "together")
NEW += ("conversions", "transfer", "voted")


def report(**parts: object) -> Report:
    return Report("t", "now", **parts)  # type: ignore[arg-type]


def section(value: Report, name: str) -> Section:
    return next(s for s in sections(value) if s.id == name)


def cells(value: Report, table: str) -> list[dict[str, str]]:
    found = next(t for s in sections(value) for t in s.tables if t.id == table)
    heads = [column.header for column in found.columns]
    return [dict(zip(heads, row, strict=True)) for row in found.rows]


def printed(value: Report) -> str:
    stream = io.StringIO()
    Console(file=stream, width=600, color_system=None).print(*terminal_tables(value, detail=True))
    return stream.getvalue()


# --- certificates --------------------------------------------------------------------------------


def test_a_certificate_in_l1_is_never_called_l2() -> None:
    value = report(certificates=(coins("net"),))
    for text in (html(value), markdown(value), printed(value)):
        assert "L1 radius" in text
        assert "L2 " not in text.split("All values as JSON")[0]


def test_radii_of_two_norms_are_told_apart_in_one_table() -> None:
    value = report(certificates=(certificate("rsc2", 8), coins("net")))
    assert [row["Radius"] for row in cells(value, "certificates")] == ["L2 0.125", "L1 0.0625"]
    assert [row["Radius"] for row in cells(value, "guarantees")] == ["L2 0.125", "L1 0.0625"]
    assert cells(report(certificates=value.certificates[:1]), "certificates")[0]["L2 radius"] == "0.125"


def test_every_field_of_a_certificate_survives_the_file() -> None:
    value = report(certificates=(coins("net"),))
    assert from_json(to_json(value)) == value
    assert markdown(from_json(to_json(value))) == markdown(value)
    inside = report(robustness=(replace(robustness("net", {8: 0.5}), certificates=(coins("net"),)),))
    assert from_json(to_json(inside)) == inside


def test_a_report_of_before_reads_as_the_weakest_claim() -> None:
    """Then there was Gaussian noise in floating point only."""
    old = msgspec.json.decode(to_json(report(certificates=(certificate("rsc2", 8),))))
    del old["verification"]
    for name in NEW:
        del old["certificates"][0][name]
    found = from_json(msgspec.json.encode(old)).certificates[0]
    assert (found.norm, found.soundness) == ("l2", "real")
    assert cells(report(certificates=(found,)), "certificate-parameters")[0]["Arithmetic"].startswith(
        "noise in f"
    )


@pytest.mark.parametrize("value", ["linfty", None, 2])
def test_an_unknown_norm_is_refused(value: object) -> None:
    raw = msgspec.to_builtins(coins("net")) | {"norm": value}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(raw, CertifyReport)


def test_how_it_was_certified_says_arithmetic_twin_vote_and_limits() -> None:
    value = report(certificates=(coins("net"),))
    row = cells(value, "certificate-parameters")[0]
    assert (row["Norm"], row["Arithmetic"], row["Off the grid"]) == ("L1", "integers only", "7")
    assert row["α per image"] == "0.0005 (all hold at once)"
    moved = cells(value, "transfers")[0]
    assert (moved["Target"], moved["Drawn on"], moved["Runs that differ"]) == (
        "lava",
        "loihi",
        "21 of 35,000",
    )
    vote = cells(value, "voted")[0]
    assert (vote["Right"], vote["Wrong"], vote["Abstained"]) == ("86.0 % [41.4, 68.4]", "2.0 %", "9")
    assert "Not covered: net is known." in section(value, "certificates").points


def test_a_sentence_of_two_certificates_is_told_once() -> None:
    value = report(certificates=(coins("one"), coins("two")))
    points = section(value, "certificates").points
    assert points == (
        "The vote keeps its class.",
        "one on lava: Not covered: one is known.",
        "two on lava: Not covered: two is known.",
        "A radius of 2 takes 5,000 draws.",
    )


def rivals(ours: CertifyReport, theirs: CertifyReport) -> str:
    named = (replace(ours, model="RSC-II"), replace(theirs, model="direct SNN"))
    return "\n".join(conclude(replace(sample(), certificates=named)).conclusions)


def test_only_radii_of_the_same_norm_are_compared() -> None:
    assert "Certified at L1 radius 0.0625: RSC-II" in rivals(coins(""), coins(""))
    assert "Certified at L2 radius 0.125: RSC-II" in rivals(certificate("rsc2", 8), certificate("rsc2", 8))
    text = rivals(coins(""), certificate("rsc2", 8))
    assert "RSC-II is certified in L1 and direct SNN in L2: their radii do not compare." in text
    assert "Certified at" not in text


# --- verification --------------------------------------------------------------------------------


def test_proofs_are_told_with_their_intervals_and_promise_everywhere() -> None:
    value = report(verification=(verification("net"),))
    for text in (html(value), markdown(value)):
        assert "Proofs for the deployed integers" in text
        assert "What net promises." in text
    first, second = cells(value, "verified")
    assert first["One run keeps at least"] == "61.0 % [47.1, 73.5]"
    assert first["… by noise alone"] == "33.0 % [47.1, 73.5]"
    assert (first["Refuted"], second["Refuted"]) == ("7.0 %", "31.0 %")
    assert (second["L∞ radius"], second["Vote certified"]) == ("8/255", "0.0 % [47.1, 73.5]")
    assert cells(value, "verified-neurons")[1]["Undecided"] == "65.0 %"
    assert "8/255" in printed(value)
    assert from_json(to_json(value)) == value


def test_without_noise_nothing_about_noise_is_shown() -> None:
    value = report(verification=(verification("net", noise=False),))
    row, how = cells(value, "verified")[0], cells(value, "verification")[0]
    assert not {"… by noise alone", "… by one of the two", "Majority of these draws", "Refuted"} & set(row)
    assert not {"σ", "α per image", "Expected false", "Branch and bound per ball"} & set(how)


def test_the_largest_proved_ball_is_concluded() -> None:
    text = conclude(report(verification=(verification("net"),))).conclusions
    assert len(text) == 1
    assert "within L∞ 1/255 on the integer program of net on loihi one run keeps at least 61.0 %" in text[0]
    assert "the vote is certified for 58.0 %" in text[0]


def test_nothing_proved_is_said_plainly() -> None:
    empty = verification("net")
    empty = replace(empty, rows=empty.rows[1:])
    assert conclude(report(verification=(empty,))).conclusions == (
        "Nothing is proved for the integer program of net on loihi, not even at L∞ 8/255 (n = 50).",
    )


def test_a_proof_without_noise_is_about_the_one_run() -> None:
    (text,) = conclude(report(verification=(verification("net", noise=False),))).conclusions
    assert "58.0 % [47.1, 73.5] is proved right" in text
    assert "vote" not in text


# --- what was not tried --------------------------------------------------------------------------


def test_what_the_plan_left_out_is_told_in_every_form() -> None:
    value = report(robustness=(robustness("net", {8: 0.5}),))
    sentence = "Not tried: attacks square, net; gradients hart."
    assert sentence in not_tried(value)
    assert sentence in html(value)
    assert sentence in markdown(value)


def test_lists_that_differ_name_their_models() -> None:
    one, two = (
        robustness("one", {8: 0.5}),
        replace(robustness("two", {8: 0.5}), not_tried=("attack sea", "maps")),
    )
    assert left_out((one, two)) == (
        "Not tried on one: attacks square, one; gradients hart.",
        "Not tried on two: attacks sea; maps.",
    )
    assert left_out((replace(one, not_tried=()),)) == ()


def test_the_plan_knows_better_than_the_rows() -> None:
    """Black-box attacks and gradients are named by the plan; without one the rows are asked."""
    told = report(robustness=(robustness("net", {8: 0.5}),))
    untold = report(robustness=(replace(told.robustness[0], not_tried=()),))
    guesses = ("Not tried: black-box attacks (square, SPSA).", "Not tried: several surrogate gradients.")
    assert all(guess in not_tried(untold) for guess in guesses)
    assert not any(guess in not_tried(told) for guess in guesses)
    assert "Not tried: more than one restart." not in not_tried(told)
    assert not_tried(report()) == ("No attack was run.",)


# --- names of attacks ----------------------------------------------------------------------------


def attacked(**changes: object) -> Report:
    row = replace(attack("net", 8, 0.5), **changes)
    return report(
        robustness=(RobustnessReport("torch", "net", scores(0.9), (row,), not_tried=("attack spsa",)),)
    )


def test_an_ensemble_is_no_gradient_and_has_no_steps() -> None:
    value = attacked(attack="ensemble", surrogate="worst of 5")
    assert (
        cells(value, "attacks")[0]["Attack"] == "ensemble, worst of 5 per image, 16 fresh draws per gradient"
    )
    assert "Surrogate gradients: –." in threat_model(value)


@pytest.mark.parametrize("name", ["apgd_dlr", "apgd_targeted"])
def test_attacks_with_a_loss_in_their_name_are_white_box(name: str) -> None:
    row = cells(attacked(attack=name), "robust")[0]
    assert row["White box, where the model was attacked"] == f"50.0 % [46.0, 54.0] torch ({name})"
    assert "Black box" not in row


def test_where_attacks_were_combined_the_least_of_the_noisy_scores_is_no_headline() -> None:
    """Of many rows the least is low by luck, too; the ensemble's images were chosen on other noise."""
    found = {"pgd": 0.45, "ensemble": 0.5, "apgd": 0.6}
    rows = [replace(attack("net", 8, value), attack=name) for name, value in found.items()]
    value = report(robustness=(RobustnessReport("torch", "net", scores(0.9), tuple(rows)),))
    row = cells(value, "robust")[0]
    assert row["White box, where the model was attacked"] == "50.0 % [46.0, 54.0] torch (ensemble)"


def test_images_of_queries_of_the_twin_are_no_black_box_attack_on_the_target() -> None:
    row = cells(attacked(attack="square", crafted_on="net (integers)"), "robust")[0]
    assert "Black box" not in row
    replayed = row["Same images replayed on a target"]
    assert replayed == "50.0 % [46.0, 54.0] torch (square of net (integers))"


def test_an_attack_on_spikes_is_a_threat_of_its_own() -> None:
    value = attacked(attack="sea", norm="l0", eps=5.0, eps_text="5")
    text = threat_model(value)
    assert "sees the spikes of one run and changes them within L0 5." in text
    assert "before the noise is drawn" not in text
    assert cells(value, "robust")[0]["Ball"] == "L0 5"


def test_curves_through_different_gradients_are_told_apart() -> None:
    found = robustness("net", {8: 0.5})
    curve = found.curves[0]
    other = replace(curve, rows=tuple(replace(row, surrogate="hart") for row in curve.rows))
    own = replace(curve, rows=tuple(replace(row, surrogate="model") for row in curve.rows))
    value = report(robustness=(replace(found, curves=(curve, other, own)),))
    assert [r["Attack"] for r in cells(value, "curves")] == ["pgd through atan", "pgd through hart", "pgd"]
    assert "Surrogate gradients: atan, hart, the model's own." in threat_model(value)


# --- energy --------------------------------------------------------------------------------------


def test_measurements_curves_and_what_moves_them_are_in_the_energy_section() -> None:
    value = sample()
    found = section(value, "energy")
    assert {t.id for t in found.tables} >= {"measured", "neurobench", "traffic", "curve", "tornado"}
    assert "RSC-II: NVML is not readable here." in found.points
    assert "What moves the energy: RSC-II on loihi" in html(value)
    assert accuracy(0.955).value in [point.accuracy for point in value.energy[0].curve]


def test_a_meter_that_could_not_be_read_is_told_without_a_table() -> None:
    value = sample()
    unread = replace(value, energy=(replace(value.energy[0], measured=()),))
    assert "RSC-II: NVML is not readable here." in section(unread, "energy").points
