"""The examples that users meet first do run, as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


def readme_example() -> str:
    """The Python block of the README."""
    found = re.search(
        r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert found is not None
    return found[1]


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A script in an interpreter of its own, with `folder` as its working directory."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize("source", ["README.md", "examples/quickstart.py"])
def test_example_runs(source: str, tmp_path: Path) -> None:
    code = readme_example() if source == "README.md" else (REPOSITORY / source).read_text(encoding="utf-8")
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    done = run(["example.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    accuracies = [
        float(value) for value in re.findall(r"^loihi.*? (0\.\d+|1\.0+)", done.stdout, re.MULTILINE)
    ]
    assert accuracies
    assert accuracies[0] > 0.85


@pytest.mark.parametrize("script", ["pareto.py", "reproduce_rsc.py"])
def test_a_long_example_runs_at_a_size_that_means_nothing(script: str, tmp_path: Path) -> None:
    only = ["--only", "RSC-II"] if script == "reproduce_rsc.py" else []
    done = run([str(REPOSITORY / "examples" / script), "--quick", *only], tmp_path)
    assert done.returncode == 0, done.stderr
    made = {file.name for file in tmp_path.rglob("*") if file.is_file()}
    assert made >= ({"pareto.svg", "pareto.csv"} if script == "pareto.py" else {"quick.json", "quick.md"})


def test_the_readme_example_is_short() -> None:
    assert len(readme_example().splitlines()) <= 20
