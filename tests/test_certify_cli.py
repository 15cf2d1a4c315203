"""`rsc certify` from end to end: targets, twins, grids, coins, votes, and going on from a folder."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import command
import msgspec
import pytest

from rsc.encoder_spec import EncoderSpec
from rsc.export.writer import write_program
from rsc.program import Program
from rsc.report import read_report
from rsc.robustness.results import CertifyReport


@pytest.fixture(scope="module")
def file(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("certify") / "p.nir"
    write_program(program, path)
    return path


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    return command.call(capsys, "certify", *arguments, "--data", "digits")


def certified(capsys: pytest.CaptureFixture[str], *arguments: object) -> CertifyReport:
    code, out, err = call(capsys, *arguments, "--json")
    assert code == 0, err
    return msgspec.json.decode(out, type=CertifyReport)


def test_cost_is_told_before_the_work_and_tables_after_it(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, file, "--n", 2, "--draws", 40, "--select", 10, "--vote", 20)
    assert code == 0
    assert "certifying 2 images on torch: 140 runs, about" in err
    for text in (
        "L2 radius",
        "L_inf inside",
        "11 votes",
        "Vote of 20",
        "Not covered: Noise that an attacker",
    ):
        assert text in out


def test_a_folder_is_gone_on_from_and_changes_nothing(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = (file, "--n", 3, "--draws", 60, "--select", 20, "--chunk", 16)
    whole = certified(capsys, *fixed)
    first = certified(capsys, *fixed, "--state", tmp_path)
    (path,) = tmp_path.glob("*.tallies")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    again = certified(capsys, *fixed, "--state", tmp_path)
    assert first == again == whole
    code, _, err = call(capsys, *fixed[:-1], 17, "--state", tmp_path)
    assert code == 2
    assert "another certification" in err


def test_integers_on_a_grid_are_certified_through_the_float_twin(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = ("--on", "loihi", "--n", 2, "--draws", 300, "--select", 20, "--grid", 240)
    direct = certified(capsys, file, *fixed)
    moved = certified(capsys, file, *fixed, "--twin", "torch", "--paired", 200)
    assert (direct.target, moved.target, direct.soundness) == ("loihi", "loihi", "integer")
    assert moved.transfer is not None
    assert (moved.transfer.twin, moved.transfer.runs) == ("torch", 400)
    assert all(a.p_low < b.p_low + 0.1 for a, b in zip(moved.images, direct.images, strict=True))
    assert direct.off_grid == 0
    assert len(direct.squared_levels) == 2


def test_coins_get_a_radius_in_l1(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coins = dataclasses.replace(program, encoder=EncoderSpec("bernoulli", 4))
    write_program(coins, tmp_path / "c.nir")
    fixed = (tmp_path / "c.nir", "--n", 2, "--draws", 50, "--radii", "0,0.05")
    report = certified(capsys, *fixed, "--levels", 16)
    assert (report.norm, report.rule) == ("l1", "bernoulli: 1-(3/2-pA)^(1/T)")
    assert report.rows[1].linf_eps == pytest.approx(0.05 / 64)
    assert "L1 radius" in call(capsys, *fixed)[1]


def test_noise_of_the_device_is_named(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = certified(capsys, file, "--n", 2, "--draws", 50, "--noise", "generator")
    assert (report.source, report.soundness) == ("generator", "real")
    code, _, err = call(capsys, file, "--on", "loihi", "--n", 1, "--draws", 5, "--noise", "generator")
    assert code == 2
    assert "draws no noise of its own" in err


def test_several_processes_without_a_folder_are_refused(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = call(capsys, file, "--n", 1)
    assert code == 2
    assert "--state" in err


def test_other_ranks_print_nothing(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = (file, "--n", 1, "--draws", 20, "--select", 5, "--state", tmp_path, "--json")
    assert json.loads(call(capsys, *fixed)[1])["n"] == 20
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    code, out, _ = call(capsys, *fixed)
    assert (code, out) == (0, "")


@pytest.mark.parametrize(
    "wrong",
    [
        ("--draws", 0), ("--paired", 0), ("--batch", 0), ("--levels", -3), ("--alpha", 2), ("--seed", -1),
        ("--radii=-1,0.1",), ("--radii", "0,nan"), ("--vote=-1",),
    ],
    ids=str,
)  # fmt: skip
def test_numbers_out_of_range_are_refused_before_anything_is_drawn(
    file: Path, capsys: pytest.CaptureFixture[str], wrong: tuple[object, ...]
) -> None:
    code, _, err = call(capsys, file, "--n", 1, *wrong)
    assert code == 2
    assert "certifying" not in err
    assert "defect" not in err


def test_too_few_draws_and_pairs_say_so_and_the_number_they_name_suffices(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """alpha^(1/n) > 1/2 takes ten draws at 0.001; with 50 pairs 1 - 0.0005^(1/50) = 0.141 of pA more."""
    fixed = (file, "--n", 1, "--select", 5, "--draws", 9)
    said = " ".join(certified(capsys, *fixed).advice)
    assert "9 draws can certify nothing at this alpha: it takes 10 at least." in said
    assert certified(capsys, *fixed[:-1], 10).ceiling > 0
    moved = (*fixed, "--on", "loihi", "--twin", "torch")
    said = " ".join(certified(capsys, *moved, "--paired", 50).advice)
    assert "The 50 paired draws take 0.141 of pA" in said
    least = int(re.search(r"it takes (\d+) at least", said)[1])  # type: ignore[index]
    assert certified(capsys, *moved[:6], least, *moved[7:], "--paired", 50).ceiling > 0
    assert "it takes more paired draws" in " ".join(certified(capsys, *moved, "--paired", 3).advice)


def test_certificates_join_the_report_of_a_folder(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same question replaces its answer, another target stands beside it."""
    fixed = (file, "--n", 2, "--select", 10, "--report", tmp_path)
    certified(capsys, *fixed, "--draws", 20)
    first = certified(capsys, *fixed, "--draws", 30)
    second = certified(capsys, *fixed, "--draws", 30, "--on", "loihi", "--grid", 240)
    assert read_report(tmp_path).certificates == (first, second)
    assert first.model == file.stem
    html = (tmp_path / "report.html").read_text()
    assert "Certified accuracy" in html
    assert "integers only" in html
