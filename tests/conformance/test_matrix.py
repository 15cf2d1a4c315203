"""The page docs/conformance.md says what the suite finds, and the suite runs anybody's target."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from matrix import OURS, cell, title, written
from peers import PEERS
from table import GROUPS
from third_party import target_of

pytestmark = pytest.mark.ours
FOLDER = Path(__file__).resolve().parent


def test_the_page_has_a_row_for_every_group() -> None:
    for rows in written().values():
        assert list(rows) == list(GROUPS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spec", OURS)
def test_the_page_says_what_our_targets_do(spec: str) -> None:
    assert written()[title(spec)] == {group: cell(group, spec) for group in GROUPS}


def test_no_cell_of_ours_is_other_than_exact() -> None:
    for spec in ("reference", "torch"):
        assert set(written()[title(spec)].values()) == {"exact"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spec", PEERS)
def test_the_page_says_what_other_tools_do(spec: str) -> None:
    """In the version that is named there; rows where the tool hangs are left out, to save the time."""
    missing = target_of(spec).available()
    if missing is not None:
        pytest.skip(f"{missing.reason} {missing.fix}")
    if title(spec) not in written():
        pytest.skip(f"the page speaks of another version than {title(spec)}")
    column = {group: value for group, value in written()[title(spec)].items() if "hangs" not in value}
    assert column == {group: cell(group, spec) for group in column}


OWN = """
from rsc.hw_targets.reference import ReferenceTarget
from rsc.program import Program
from rsc.results import Issue


class Sound(ReferenceTarget):
    pass


class Unwilling(ReferenceTarget):
    def check(self, program: Program):
        return [Issue("error", "", "Not today.")]


class Faulty(ReferenceTarget):
    def compile(self, program: Program):
        model = super().compile(program)
        for k in model.coefficients.values():
            object.__setattr__(k, "alpha", 0.99 * k.alpha)
        return model
"""


@pytest.mark.parametrize(("name", "status"), [("Sound", 0), ("Faulty", 1), ("Unwilling", 1)])
def test_somebody_elses_target_is_tested_with_one_command(tmp_path: Path, name: str, status: int) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    command = [sys.executable, "-m", "pytest", str(FOLDER), "--target", f"mine:{name}", "-k", "affine or LIF"]
    command += ["-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    environment = {"OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert found.returncode == status, found.stdout[-2000:]
    assert ("FAILED" in found.stdout) == (name == "Faulty")
    assert (f"mine:{name}: cases exact 0" in found.stdout) == (name == "Unwilling")


def test_a_target_that_is_none_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", str(FOLDER), "--target", "json:loads", "-q", "-p", "no:xdist"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert found.returncode == 4
    assert "'json:loads' cannot be loaded" in found.stderr
