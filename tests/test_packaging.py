"""What a user installs: one top-level name, complete, unshadowed by files that happen to lie around."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that no build folder is left in the checkout."""
    place = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("the sources are not a git checkout")
    copy = place / "source"
    for name in listed.stdout.splitlines():
        source = REPOSITORY / name
        if source.is_file() and not source.is_symlink():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(source.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(place), str(copy)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return next(place.glob("*.whl"))


def test_the_only_top_level_name_is_rsc(wheel: Path) -> None:
    """Built without the symlinks, as on a system that has none."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.split("/")[0] for name in names}
    assert {t for t in top if not t.endswith(".dist-info")} == {"rsc"}
    for needed in ("rsc/py.typed", "rsc/export/reader.py", "rsc/hw_targets/lava_worker.py"):
        assert needed in names
    assert any(name.startswith("rsc/energy/profiles/") for name in names)
    assert any(name.startswith("rsc/report/templates/") for name in names)
    assert any(name.startswith("rsc/hw_targets/lava_processes/") for name in names)


def test_every_module_of_the_sources_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder in ("rsc", "export", "hw_targets"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            if any(part.is_symlink() for part in file.parents):
                continue
            inside = file.relative_to(REPOSITORY).as_posix()
            assert (inside if folder == "rsc" else f"rsc/{inside}") in names


def test_a_users_own_export_py_shadows_nothing(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    for name in ("export.py", "hw_targets.py"):
        (tmp_path / name).write_text("raise RuntimeError('the wrong file was imported')")
    code = (
        "import rsc.export.reader, rsc.hw_targets\n"
        "print(rsc.hw_targets.get_target('reference').available(), rsc.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": "site", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("None")


def test_public_names_load() -> None:
    import rsc

    for name in rsc.__all__:
        assert getattr(rsc, name) is not None
    with pytest.raises(AttributeError):
        _ = rsc.nothing  # type: ignore[attr-defined]


def test_no_file_is_loaded_with_pickle() -> None:
    """Loading never executes code: no pickle, and torch.load nowhere but with weights_only=True."""
    for folder in ("rsc", "export", "hw_targets"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            text = file.read_text()
            assert "import pickle" not in text
            assert "allow_pickle=True" not in text
            for call in text.split("torch.load(")[1:]:
                assert "weights_only=True" in call.split(")")[0]
