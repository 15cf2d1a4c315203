"""`rsc attack`: what was asked is run, it costs what was said, and it goes on where it was stopped."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from command import call as run

from rsc import data
from rsc.attacking import AttackOptions, attack_on
from rsc.bundle import Bundle
from rsc.commands import twin
from rsc.errors import MalformedFile, UsageError
from rsc.evaluation import AttackPlan, Deployed, evaluate, evaluation_cost
from rsc.hw_targets import deploy
from rsc.material import Material
from rsc.pipeline import Packed, to_bundle
from rsc.program import Program
from rsc.report import read_report
from rsc.robustness.attacks import Attack
from rsc.robustness.journal import Journal, digest_of
from rsc.robustness.qte import qte
from rsc.training import TrainConfig


@pytest.fixture(scope="module")
def bundle(packed: Packed, small_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Bundle = to_bundle(packed, small_config, "small")
    return made.save(tmp_path_factory.mktemp("bundles") / "small")


QUICK = ("--n", 4, "--steps", 2, "--eot", 1, "--draws", 2)


def test_the_standard_attack_reports_three_accuracies_per_target_and_what_was_left_out(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(
        capsys, "attack", bundle, "--on", "torch", "loihi", "--eps", "0,0.2", "--standard", "--integer",
        "--surrogates", "rga", "atan:10", "--json", *QUICK,
    )  # fmt: skip
    assert code == 0, err
    reports = {r["target"]: r for r in json.loads(out)["robustness"]}
    assert set(reports) == {"torch", "loihi"}
    for report in reports.values():
        rows = report["attacks"]
        assert {row["model"] for row in rows} == {
            "small"
        }  # whoever made the images, it is this that is scored
        through = {(row["attack"], row["surrogate"], row["crafted_on"]) for row in rows}
        assert ("sa_pgd", "rga", "" if report["target"] == "torch" else "small") in through
        assert ("apgd", "atan", "small (integers)") in through
        best = [row for row in rows if row["attack"] == "ensemble"]
        assert len(best) == 1
        assert best[0]["surrogate"].startswith("worst of")
        for row in rows:
            for kind in ("per_run", "vote", "worst_of"):
                assert {"value", "interval", "n"} <= set(row["scores"][kind])
                assert row["baseline"][kind]["value"] == report["clean"][kind]["value"]
        assert "attack square" in report["not_tried"]
        assert "gradient hart" in report["not_tried"]
        assert "gradient atan" not in report["not_tried"]  # the network's own
        assert "attack pgd" not in report["not_tried"]
    pairs = [d["second"] for d in reports["loihi"]["differences"]]
    assert len(set(pairs)) == len(pairs) == len(reports["loihi"]["attacks"])
    assert "loihi under apgd through atan on small (integers) at eps 0.2" in pairs
    assert re.search(r"attacking 4 images: [\d,]+ runs to make the images, about .*; to score them: ", err)


def test_misuse_on_the_command_line_is_refused(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "attack", bundle, "--attacks", "pgdd", *QUICK)
    assert code == 2
    assert "pgd" in err
    code, _, err = run(capsys, "attack", bundle, "--surrogates", "atann", *QUICK)
    assert code == 2
    assert "atan" in err
    code, _, err = run(capsys, "attack", bundle, "--few", -1, *QUICK)
    assert code == 2
    assert "--few" in err


def test_balls_that_hold_no_other_image_of_the_grid_are_refused_before_anything_is_kept(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One level of digits is 1/16: an attack of 8/255 could move nothing, and all would look robust."""
    kept = ("--state", tmp_path / "s", *QUICK)
    for eps, grid, said in (
        ("0,8/255", 16, "holds no other image"),
        ("0.1", 255, "not on a grid"),
        ("0.1", -4, "-4"),
    ):
        code, _, err = run(capsys, "attack", bundle, "--eps", eps, "--grid", grid, *kept)
        assert code == 2
        assert said in err
        assert not (tmp_path / "s").exists()
    AttackPlan(("0", "1/16"), levels=16).check(np.array([[0.0, 15 / 16, 1.0]], np.float32), (0.0, 1.0))


def test_health_checks_join_the_report_cost_what_was_said_and_are_made_once(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("attack", bundle, "--eps", "0,0.05", "--attacks", "pgd", "--health", "--json")
    words += ("--state", tmp_path, "--report", tmp_path / "r", *QUICK)
    code, out, err = run(capsys, *words)
    assert code == 0, err
    assert re.search(r"health checks: about [\d,]+ runs to attack, about .*, to score: [\d,]+ on torch", err)
    (report,) = json.loads(out)["robustness"]
    assert {"R1", "R2", "R8", "R10", "R16"} <= {check["id"] for check in report["checks"]}
    assert all(check["numbers"] for check in report["checks"])
    monkeypatch.setattr(Attack, "__call__", lambda *_, **__: pytest.fail("attacked twice"))
    assert run(capsys, *words)[:2] == (0, out)
    shown = read_report(tmp_path / "r")  # once, though the command ran twice
    assert json.loads(msgspec.json.encode(shown.robustness)) == [report]
    html = (tmp_path / "r" / "report.html").read_text()
    for text in ("Right every time", "Can these numbers be trusted?", "Not tried"):
        assert text in html


def test_slow_targets_take_few_images(program: Program, digits: data.Dataset) -> None:
    plan = AttackPlan(("0.1",), steps=2, eot=1, draws=4, names=("fgsm",))
    options = AttackOptions(few=3, health=True)
    reports = attack_on(program, ("reference",), Material(data=digits.head(12)), plan, options)
    assert [(r.target, r.clean.vote.n, r.clean.vote.draws) for r in reports] == [
        ("torch", 12, 4),
        ("reference", 3, 2),
    ]
    assert reports[1].differences[0].n == 3
    asked = [[check.id for check in report.checks] for report in reports]
    assert asked[0] == [f"R{k}" for k in range(1, 19)]
    assert asked[1] == ["R1", "R2", "R14", "R17", "R20"]  # six runs say nothing about the attack


def test_it_goes_on_where_it_was_stopped(
    program: Program, digits: data.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after the third crafting of four; the second run crafts one and reports what one run would."""
    plan = AttackPlan(("0.05", "0.1"), steps=2, eot=1, draws=2, ensemble=True)
    material = Material(data=digits)
    options = AttackOptions(state=tmp_path / "state")
    whole = attack_on(program, ("torch", "loihi"), material, plan)
    crafted: list[str] = []
    original = Attack.__call__

    def counted(self: Attack, *args: object, **more: object) -> object:
        if len(crafted) == 3 and not crafted[-1].startswith("resumed"):
            raise KeyboardInterrupt
        crafted.append(self.name)
        return original(self, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Attack, "__call__", counted)
    with pytest.raises(KeyboardInterrupt):
        attack_on(program, ("torch", "loihi"), material, plan, options)
    crafted.append("resumed")
    assert attack_on(program, ("torch", "loihi"), material, plan, options) == whole
    assert len(crafted) == 3 + 1 + 1
    again = attack_on(program, ("torch", "loihi"), material, plan, options)
    assert again == whole
    assert len(crafted) == 5
    other = AttackPlan(("0.05",), steps=3)
    with pytest.raises(UsageError, match="another evaluation"):
        attack_on(program, ("torch", "loihi"), material, other, options)


def test_parts_are_kept_exactly(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a", digest_of("x", np.arange(3)))
    made = {"x": np.array([1 / 3], np.float32), "n": np.array(7)}
    journal.part("p", lambda: made)
    kept = journal.part("p", lambda: pytest.fail("made twice"))  # type: ignore[arg-type,return-value]
    assert kept["x"].dtype == np.float32
    assert np.array_equal(kept["x"], made["x"])
    (part,) = (tmp_path / "a").glob("*.npz")
    whole = part.read_bytes()
    for damaged in (b"", b"x", whole[: len(whole) // 2], whole.replace(b"x.npy", b"y.npz")[:-3]):
        part.write_bytes(damaged)
        with pytest.raises(MalformedFile, match="holds no finished part"):
            journal.part("p", lambda: made)
    (tmp_path / "a" / "question.txt").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="another evaluation"):
        Journal(tmp_path / "a", "q")
    assert digest_of("a", "b") != digest_of("ab")
    assert digest_of(np.zeros(2, np.float32)) != digest_of(np.zeros(2, np.float64))


def test_the_cost_bounds_the_runs_that_are_made(program: Program, digits: data.Dataset) -> None:
    plan = AttackPlan(
        ("0", "0.1"), steps=3, eot=2, draws=2, names=("pgd", "apgd_targeted", "spsa"), ensemble=True
    )
    model = twin(program, "small")
    with deploy(program, "loihi") as target:
        places = [Deployed("loihi", target, 5, 1)]
        cost = evaluation_cost(model, digits.images, plan, places)
        reports = evaluate(model, digits.images, digits.targets, plan, places)
    rows = [row for row in reports[0].attacks if row.attack != "ensemble"]
    assert 16 * sum(row.runs_per_image for row in rows) == cost.crafting
    assert cost.scoring["torch"] == 16 * (2 * (len(rows) + 1) + 2 + 2 * (len(rows) + 1))
    assert cost.scoring["loihi"] == 5 * ((len(rows) + 1) + 1 + (len(rows) + 1))


def test_curves_of_any_models_carry_their_trade_off(program: Program, digits: data.Dataset) -> None:
    plan = AttackPlan(("0.05", "0.1", "0.2"), steps=2, eot=1, draws=2, names=("fgsm",))
    (report,) = evaluate(twin(program, "small"), digits.images, digits.targets, plan)
    (curve,) = report.curves
    accuracies = [report.clean.per_run.value, *(row.per_run.value for row in curve.rows)]
    assert (curve.qte, curve.qte_mean) == qte([0, 0.05, 0.1, 0.2], accuracies)  # a named tuple


@pytest.mark.parametrize(
    "options", [{"names": ()}, {"names": ("nothing",)}, {"steps": 0}, {"draws": 0}], ids=str
)
def test_plans_that_say_nothing_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        AttackPlan(("0.1",), **options)  # type: ignore[arg-type]
