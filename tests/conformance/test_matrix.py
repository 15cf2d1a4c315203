"""The page docs/conformance.md says what the suite finds, and the suite runs anybody's target."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from loihi_lava import MISSING, REFUSED, beyond_page, lava_missing, missing_page, rows
from matrix import FILE, INTEGERS, OURS, cell, integer_cells, title, written
from peers import PEERS
from table import CASES, GROUPS
from third_party import target_of

pytestmark = pytest.mark.ours
FOLDER = Path(__file__).resolve().parent


def test_the_page_has_a_row_for_every_group() -> None:
    for column in written().values():
        assert list(column) == list(GROUPS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spec", OURS)
def test_the_page_says_what_our_targets_do(spec: str) -> None:
    assert written()[title(spec)] == {group: cell(group, spec) for group in GROUPS}


@pytest.mark.lava
@pytest.mark.skipif(bool(lava_missing()), reason=lava_missing())
def test_the_page_says_where_loihi_is_lava_bit_by_bit() -> None:
    """All cases in one network of Lava; those without a form are refused for the reason that is given."""
    found = rows()
    assert {name for name, verdict in found.items() if verdict == "refused"} == set(REFUSED)
    assert set(found.values()) == {"exact", "refused"}
    assert written()[INTEGERS] == integer_cells(found)


def test_the_page_says_what_has_no_form_on_loihi_and_what_else_was_compared() -> None:
    """`tests/test_lowering.py` has the checks say so, `tests/test_loihi_lava.py` compares the rest."""
    text = FILE.read_text()
    for lines in (missing_page(), beyond_page()):
        assert "\n".join(lines) in text
    assert sum(len(missing.cases) for missing in MISSING) == len(REFUSED) < len(CASES) / 5


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
