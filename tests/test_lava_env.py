"""The Lava environment: status never raises, installing is atomic, and failures say what went wrong."""

from __future__ import annotations

import json
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rsc.errors import StorageError, TargetFault, TargetUnavailable
from rsc.hw_targets import lava_env
from rsc.hw_targets.lava import LavaTarget

MARKER = {"versions": {"lava-nc": "0.10.0"}, "shim": True, "loihi": False, "digest": "0" * 64}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(lava_env.VARIABLE, raising=False)
    return tmp_path / "rsc-snn"


def installed(python: str = sys.executable, marker: str = json.dumps(MARKER)) -> Path:
    """What `install` leaves."""
    folder = lava_env._folder()
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(python)
    (folder / lava_env.MARKER).write_text(marker)
    return folder


def test_without_an_environment_the_way_to_get_it_is_told():
    status = lava_env.status()
    assert not status.available
    assert "rsc lava install" in status.fix
    unavailable = LavaTarget().available()
    assert unavailable is not None
    assert "rsc lava install" in unavailable.fix


def test_an_environment_is_found_and_removed(cache: Path):
    folder = installed()
    status = lava_env.status()
    assert (status.available, status.source, status.python) == (True, "cache", folder / "bin" / "python")
    assert status.versions == {"lava-nc": "0.10.0"}
    assert lava_env.install() == status  # there is nothing to do, so nothing is downloaded
    assert lava_env.remove() == [folder]
    assert not lava_env.status().available
    assert lava_env.remove() == []


def test_loihi_2_needs_intels_extension():
    installed()
    unavailable = LavaTarget("loihi2").available()
    assert unavailable is not None
    assert "Loihi 2 extension" in unavailable.reason


@pytest.mark.parametrize("marker", ["", "{", "[]", '{"unknown": 1}', '"text"'])
def test_a_damaged_environment_is_told(marker: str):
    installed(marker=marker)
    status = lava_env.status()
    assert not status.available
    assert "damaged" in status.reason


def test_an_environment_whose_python_is_gone_is_told():
    installed(python="/nowhere/python3")
    assert "gone" in lava_env.status().reason


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_variable_takes_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    installed()
    answer = json.dumps({"versions": {"lava-nc": "0.10.0"}, "shim": False, "loihi": True})
    mine = script(tmp_path / "mine", f"echo '{answer}'")
    monkeypatch.setenv(lava_env.VARIABLE, str(mine))
    status = lava_env.status()
    assert (status.available, status.source, status.python, status.loihi) == (True, "variable", mine, True)
    assert LavaTarget("loihi2").available() is None


@pytest.mark.parametrize("text", ["exit 3", "echo nothing", "echo 1", "kill -SEGV $$"])
def test_a_variable_that_cannot_run_lava_is_told(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(lava_env.VARIABLE, str(script(tmp_path / "broken", text)))
    status = lava_env.status()
    assert not status.available
    assert lava_env.VARIABLE in status.reason
    with pytest.raises(TargetUnavailable, match=lava_env.VARIABLE):
        lava_env.install()


def test_a_variable_that_names_nothing_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(lava_env.VARIABLE, "/nowhere/python3")
    assert "/nowhere/python3" in lava_env.status().reason


def test_an_unchecked_python_is_refused(tmp_path: Path):
    old = script(tmp_path / "python3.9", "echo 3.9")
    with pytest.raises(TargetUnavailable, match=r"Python 3\.9"):
        lava_env.install(old)


# Installing with a Python whose steps fail: a script stands in for it.

VENV = """
case "$*" in
  *version_info*) echo 3.11 ;;
  "-m venv"*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *probe*) echo '{"versions": {}, "shim": true, "loihi": false}' ;;
  *) eval "$STEP" ;;
esac
"""


@pytest.mark.parametrize(
    ("step", "error", "words"),
    [
        ("echo 'ERROR: No matching distribution found' >&2; exit 1", TargetUnavailable, "No matching"),
        ("echo 'OSError: [Errno 28] No space left on device' >&2; exit 1", StorageError, "No space left"),
        ("exit 0", TargetFault, "cannot be right"),  # everything installs, but the worker computes nothing
    ],
)
def test_a_failed_installation_leaves_nothing(
    step: str, error: type, words: str, tmp_path: Path, cache: Path
):
    python = script(tmp_path / "python3.11", VENV.replace("$STEP", step.replace('"', '\\"')))
    told: list[str] = []
    with pytest.raises(error, match=words):
        lava_env.install(python, told.append)
    assert told[0].startswith("Creating a virtual environment")
    assert [p.name for p in cache.iterdir()] == ["lava.lock"]
    assert not lava_env.status().available


def test_pip_sees_the_users_own_configuration_and_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://packages.example/simple")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("A_SECRET_TOKEN", "x")
    names = set(lava_env._step([str(script(tmp_path / "env", "env | cut -d= -f1"))], "look").split())
    assert {"PIP_INDEX_URL", "HTTPS_PROXY"} <= names
    assert "A_SECRET_TOKEN" not in names


def test_installing_twice_at_once_builds_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The second waits for the first and finds its work done."""
    python = script(tmp_path / "python3.11", VENV.replace("$STEP", "exit 0"))
    monkeypatch.setattr(lava_env, "smoke", lambda python: None)
    built: list[str] = []
    monkeypatch.setattr(lava_env, "_version", lambda info: "3.11")
    make = lava_env._make
    monkeypatch.setattr(lava_env, "_make", lambda *a: built.append("x") or make(a[0], str(python), *a[2:]))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: lava_env.install(), range(2)))
    assert built == ["x"]
    assert all(status.available for status in found)


def test_a_cache_that_is_a_file_is_a_storage_error(cache: Path):
    cache.write_text("in the way")
    with pytest.raises(StorageError, match="XDG_CACHE_HOME"):
        lava_env.install()
