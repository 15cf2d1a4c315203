"""Lava's own tests under our patches: real ones pass, failing and hanging ones end in the record."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path

import pytest

from rsc.cli import main
from rsc.errors import RscError, TargetUnavailable
from rsc.hw_targets import lava_env, lava_selftest
from rsc.hw_targets.isolate_guard import TOKEN
from rsc.hw_targets.lava_selftest import Failure, FileResult, run_file, selftest

STATUS = lava_env.status()
needs_lava = pytest.mark.skipif(not STATUS.available, reason=f"{STATUS.reason} {STATUS.fix}")

FAILING = """
import unittest
import pytest

class TestThings(unittest.TestCase):
    def test_good(self): pass
    def test_bad(self): self.assertEqual(1 + 1, 3)
    @unittest.skip("not today")
    def test_later(self): pass

@pytest.fixture
def untidy():
    yield
    raise OSError("cannot clean up")

def test_passes_first(untidy): pass
"""
# What Lava does when it hangs: a child with shared memory waits, and the parent waits for the child.
HANGING = """
import multiprocessing, os, signal, time
from multiprocessing.shared_memory import SharedMemory
import pytest

def wait(name):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    memory = SharedMemory(name)
    time.sleep(1000)

def test_before(): pass

def test_hang():
    memory = SharedMemory(create=True, size=4096)
    child = multiprocessing.get_context("fork").Process(target=wait, args=(memory.name,))
    child.start()
    with open({seen!r}, "w") as file:
        file.write(f"{{memory.name}} {{child.pid}} {{os.getpid()}}")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child.join()
"""
CRASHING = "import os, signal\ndef test_crash(): os.kill(os.getpid(), signal.SIGSEGV)\n"


@pytest.fixture(scope="module")
def tools() -> Path:
    """The folder with pytest, or the reason why there is none."""
    try:
        return lava_selftest.tools_folder(STATUS)
    except TargetUnavailable as error:
        pytest.skip(f"{error.what} {error.why}")


def run_text(text: str, tools: Path, folder: Path, wall_s: float = 60.0) -> FileResult:
    """What a test file with this content does."""
    (folder / "test_fake.py").write_text(text)
    assert STATUS.python is not None
    return run_file(STATUS.python, tools, folder, "test_fake.py", wall_s)


@needs_lava
@pytest.mark.lava
def test_lavas_own_tests_of_the_lif_process_pass(
    tools: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    before = environment_files()
    monkeypatch.setattr(lava_selftest, "record_path", lambda status: tmp_path / lava_selftest.RECORD)
    record = selftest(["proc/lif/test_process.py", "proc/lif/test_models.py"])
    assert [(f.file, f.outcome) for f in record.files] == [
        ("proc/lif/test_process.py", "passed"),
        ("proc/lif/test_models.py", "passed"),
    ]
    assert (record.total.passed, record.total.failed, record.total.errors) == (3 + 18, 0, 0)
    assert record.versions["lava-nc"] == "0.10.0"
    assert json.loads(Path(record.path).read_text()) == json.loads(json.dumps(dataclasses.asdict(record)))
    assert environment_files() == before  # pytest lies beside the environment and leaves nothing in it
    assert lava_env.status() == STATUS


def environment_files() -> set[Path]:
    """All files of the environment; the compiled ones of lava.* come with the first import."""
    assert STATUS.python is not None
    return {path for path in STATUS.python.parent.parent.rglob("*") if path.suffix != ".pyc"}


@needs_lava
@pytest.mark.lava
def test_failures_are_counted_by_name(tools: Path, tmp_path: Path):
    result = run_text(FAILING, tools, tmp_path)
    assert result.outcome == "failed"
    assert (result.passed, result.failed, result.skipped, result.errors) == (1, 1, 1, 1)
    assert result.failures == (
        Failure("TestThings::test_bad", "AssertionError: 2 != 3"),
        Failure("test_passes_first", "OSError: cannot clean up"),
    )


@needs_lava
@pytest.mark.lava
@pytest.mark.parametrize(("text", "why"), [("import nothing_like_it", "nothing_like_it"), ("", "no tests")])
def test_a_file_without_tests_does_not_pass(text: str, why: str, tools: Path, tmp_path: Path):
    result = run_text(text, tools, tmp_path)
    assert (result.outcome, result.passed) == ("failed", 0)
    assert why in result.failures[0].why


@needs_lava
@pytest.mark.lava
def test_a_crash_names_the_test(tools: Path, tmp_path: Path):
    result = run_text(CRASHING, tools, tmp_path)
    assert result.outcome == "crashed"
    assert result.failures[0].test == "test_crash"
    assert "SIGSEGV" in result.failures[0].why


@needs_lava
@pytest.mark.lava
def test_a_hang_ends_within_its_budget_and_leaves_nothing(tools: Path, tmp_path: Path):
    seen, start = tmp_path / "seen", time.monotonic()
    result = run_text(HANGING.format(seen=str(seen)), tools, tmp_path, wall_s=12.0)
    assert time.monotonic() - start < 12.0 + lava_selftest.HARD_STOP_S
    assert (result.outcome, result.passed) == ("timeout", 1)
    assert result.failures == (Failure("test_hang", "It did not finish within 12 s."),)
    memory, *processes = seen.read_text().split()
    assert not Path("/dev/shm", memory).exists()
    assert not [pid for pid in processes if is_ours(pid)]


def is_ours(pid: str) -> bool:
    """Whether a process with this id still runs and belongs to an isolated run."""
    try:
        return TOKEN.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


@needs_lava
@pytest.mark.lava
def test_the_verb_fails_when_a_test_fails_twice(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    once = tmp_path / "ran"
    flaky = f"import os\ndef test_flaky():\n    known = os.path.exists({str(once)!r})\n"
    flaky += f"    open({str(once)!r}, 'w').close()\n    assert known, 'the first time'\n"
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "test_flaky.py").write_text(flaky)
    monkeypatch.setattr(lava_selftest, "tests_folder", lambda python: tmp_path)
    monkeypatch.setattr(lava_selftest, "all_files", lambda tests: ["proc/test_flaky.py"])
    monkeypatch.setattr(lava_selftest, "record_path", lambda status: tmp_path / lava_selftest.RECORD)
    assert verb() == 0  # it fails, then passes
    out = capsys.readouterr().out
    assert "at first: proc/test_flaky.py::test_flaky: AssertionError: the first time" in out
    assert str(tmp_path / lava_selftest.RECORD) in out
    (tmp_path / "proc" / "test_flaky.py").write_text("def test_bad(): assert False, 'always'\n")
    assert verb("--json") == 1
    record = json.loads(capsys.readouterr().out)
    assert record["total"]["failures"] == [
        {"test": "proc/test_flaky.py::test_bad", "why": "AssertionError: always assert False"}
    ]
    assert json.loads((tmp_path / lava_selftest.RECORD).read_text()) == record


def verb(*options: str) -> int:
    """Exit code of `rsc lava selftest`."""
    with pytest.raises(SystemExit) as ended:
        main(["lava", "selftest", *options])
    return int(ended.value.code or 0)


@needs_lava
def test_every_area_has_files_and_nothing_else_is_left_out():
    assert STATUS.python is not None
    files = lava_selftest.all_files(lava_selftest.tests_folder(STATUS.python))
    assert len(files) == len(set(files)) > 40
    assert set(lava_selftest.PYTHON_3_12) <= set(files)
    assert {"proc/lif/test_models.py", "proc/dense/test_models.py", "proc/sparse/test_models.py"} <= set(
        files
    )


def test_files_are_left_out_by_version_only():
    assert lava_selftest.unable({"python": "3.11.7"}) == {}
    assert list(lava_selftest.unable({"python": "3.12.1"})) == ["magma/compiler/test_compiler.py"]


def test_without_an_environment_the_way_to_get_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(lava_env.VARIABLE, raising=False)
    with pytest.raises(TargetUnavailable, match="rsc lava install"):
        selftest()


def test_pytest_is_put_beside_the_environment_once_and_removed_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    steps: list[list[str]] = []

    def step(command: list[str], what: str) -> str:
        steps.append(command)
        folder = Path(command[command.index("--target") + 1])
        assert folder.name.startswith("lava-pytest-")
        assert ".building-" in folder.name
        folder.mkdir()
        if len(steps) == 1:
            raise TargetUnavailable("Could not install pytest.")
        return ""

    monkeypatch.setattr(lava_env, "_step", step)
    status = lava_env.EnvStatus(True, tmp_path / "python", {"python": "3.11.7"}, source="cache")
    with pytest.raises(RscError):
        lava_selftest.tools_folder(status)
    assert os.listdir(lava_env._root()) == ["lava.lock"]  # a failure leaves nothing
    made = lava_selftest.tools_folder(status)
    assert made == lava_selftest.tools_folder(status)
    assert len(steps) == 2
    assert not lava_env.status().available  # it is not mistaken for an environment
    assert lava_env.remove() == [made]
