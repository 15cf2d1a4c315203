"""The demo in small: every part runs, and the report holds what it promises."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from rsc.bundle import Bundle
from rsc.demo import TARGETS, Sizes, run_demo
from rsc.hw_targets import get_target
from rsc.report import Report, read_report

TINY = Sizes(
    epochs=2,
    run=12,
    slow_run=2,
    parity=6,
    slow_parity=1,
    attack=6,
    draws=2,
    eot=1,
    lava_attack=2,
    lava_draws=1,
    certify=2,
    certify_draws=40,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    out = tmp_path_factory.mktemp("demo") / "runs" / "demo"
    return run_demo(out, seed=1, sizes=TINY), out


def test_files_are_there_and_say_the_same(made: tuple[Report, Path]) -> None:
    report, out = made
    assert {p.name for p in out.iterdir()} == {"bundle", "report.html", "report.json", "report.md"}
    assert read_report(out) == report
    assert Bundle.load(out / "bundle").program.digest == report.models[0].program_digest
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "smoothed ANN" in page


def test_every_target_ran_or_says_why_not(made: tuple[Report, Path]) -> None:
    report, _ = made
    rows = {row.spec: row for row in report.targets}
    assert set(rows) == set(TARGETS)
    for spec, row in rows.items():
        if get_target(spec).available() is None:
            assert row.available
            assert row.accuracy is not None
        else:
            assert row.reason
            assert row.fix
    assert all(row.exact for row in report.parity if "loihi" not in (row.target_b,))


def test_both_networks_were_attacked_certified_and_priced(made: tuple[Report, Path]) -> None:
    report, _ = made
    places = {(r.model, r.target) for r in report.robustness}
    assert places >= {("RSC-II", "torch"), ("RSC-II", "loihi"), ("direct SNN", "torch"), ("ANN", "torch")}
    deployed = next(r for r in report.robustness if r.target == "loihi")
    assert {row.attack for row in deployed.attacks} == {"fgsm", "pgd"}
    assert all(row.crafted_on == "RSC-II" for row in deployed.attacks)
    assert {(c.model, c.target) for c in report.certificates} >= {("RSC-II", "torch"), ("RSC-II", "loihi")}
    assert {e.target for e in report.energy} == {"torch", "loihi"}
    smoothed = next(m for m in report.models if m.role == "smoothed-ann")
    single = next(m for m in report.models if m.role == "ann")
    assert smoothed.cost is not None
    assert single.cost is not None
    assert smoothed.cost.macs == 8 * (single.cost.macs or 0)
    assert report.conclusions


def test_what_was_not_tried_is_what_the_plan_left_out(made: tuple[Report, Path]) -> None:
    report, _ = made
    spiking, ann = [line for line in report.not_done if line.startswith("Not tried")]
    ran = {row.attack for r in report.robustness for row in r.attacks}
    for sentence in (spiking, ann):
        attacks = sentence.partition("attacks ")[2].rstrip(".").partition(";")[0].split(", ")
        assert {"apgd", "sa_pgd", "square", "spsa"} <= set(attacks)
        assert not ran & set(attacks)
    assert spiking.startswith("Not tried on RSC-II, direct SNN: ")
    assert "gradients atan:10, triangle" in spiking  # atan is their own
    assert ann.startswith("Not tried on ANN, smoothed ANN: ")
    assert "gradients" not in ann  # it has no spikes


def test_integers_in_onnx_runtime_equal_the_loihi_model(made: tuple[Report, Path]) -> None:
    report, _ = made
    pairs = [row for row in report.parity if row.target_b == "onnxruntime:integer"]
    assert bool(pairs) == (get_target("onnxruntime").available() is None)
    assert all(node.different == 0 for row in pairs for node in row.nodes)


def test_no_number_is_missing(made: tuple[Report, Path]) -> None:
    """JSON has no NaN, so encoding and decoding again finds one."""
    report, _ = made
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report
