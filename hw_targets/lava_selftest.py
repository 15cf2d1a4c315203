"""Lava's own tests, run where the lava target runs: do they hold on this machine, under our patches?

The wheel of lava-nc 0.10.0 holds its test suite (package `tests`). Each file runs in an isolated
process of its own (`lava_selftest_runner.py`); a file that does not pass is repeated once, and what
the first run showed is kept. pytest and psutil, which the tests need, lie in a folder of their own
beside the environment, which stays as it is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import secrets
import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from rsc.errors import GateFailed, TargetFault, TargetUnavailable
from rsc.files import write_atomic
from rsc.hw_targets import lava_env
from rsc.hw_targets.isolate import Budget, private_folder, run
from rsc.hw_targets.lava_env import EnvStatus
from rsc.progress import Progress, Silent

RUNNER = Path(__file__).resolve().parent / "lava_selftest_runner.py"
RECORD = "lava-selftest.json"
FILE_S = 150.0
HARD_STOP_S = 10.0  # the runner ends itself, keeping its events; if it cannot, it is ended so much later
MEMORY_BYTES = 4 << 30
TOOLS = ("pytest==8.4.2", "pluggy==1.6.0", "iniconfig==2.1.0", "packaging==25.0", "pygments==2.19.2")
TOOLS += ("psutil==7.0.0",)
TOOLS += ('exceptiongroup==1.2.2; python_version<"3.11"', 'tomli==2.2.1; python_version<"3.11"')

# What the lava target is made of. The rest (learning rules, other neurons, tutorials) is not run: it says
# nothing about this target, and three of its files (clp one-shot, clp nsm, graded) hang with numpy >= 2.4.
AREAS = ("magma/compiler", "magma/core/model", "magma/core/process", "magma/runtime")
AREAS += ("proc/lif", "proc/dense", "proc/sparse", "proc/conv", "proc/io", "proc/monitor")
PYTHON_3_12 = {
    "magma/compiler/test_compiler.py": "It mocks a port; Python >= 3.12 gives Mock an attribute Lava refuses."
}
SEVERITY = ("passed", "skipped", "failed", "error")

Outcome = Literal["passed", "failed", "timeout", "crashed"]


@dataclasses.dataclass(frozen=True)
class Failure:
    """A test that did not pass.

    Fields:
        test: Class::name, or the name of the file.
        why: the message, at most 300 characters.
    """

    test: str
    why: str


@dataclasses.dataclass(frozen=True)
class FileResult:
    """What one test file did.

    Fields:
        file: path below the wheel's tests/lava.
        outcome: "passed" (all that was not skipped), "failed", "timeout" or "crashed".
        passed, failed, skipped, errors: tests.
        seconds: wall time, with start and import.
        failures: of this run.
        first_failures: of the first run, if the file was repeated.
    """

    file: str
    outcome: Outcome
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    errors: int = 0
    seconds: float = 0.0
    failures: tuple[Failure, ...] = ()
    first_failures: tuple[Failure, ...] = ()


@dataclasses.dataclass(frozen=True)
class Selftest:
    """The record of one run of Lava's own tests.

    Fields:
        path: where this record lies.
        created: UTC, ISO 8601.
        python: the interpreter.
        versions, shim: of the environment, as in `EnvStatus`.
        tools: the pinned packages the tests ran with, beside the environment.
        files: one result for each file run.
        left_out: file -> why it was not run.
        total: the sums over the files; its failures are those of all files.
    """

    path: str
    created: str
    python: str
    versions: dict[str, str]
    shim: bool
    tools: tuple[str, ...]
    files: tuple[FileResult, ...]
    left_out: dict[str, str]
    total: FileResult


def selftest(
    files: Sequence[str] | None = None, wall_s: float = FILE_S, progress: Progress | None = None
) -> Selftest:
    """Run Lava's own tests and write the record to `record_path`.

    Args:
        files: paths below the wheel's tests/lava; default: those of `AREAS` that can pass here.
        wall_s: seconds for each file.
        progress: told each file.

    Raises:
        TargetUnavailable: no Lava environment, no tests in it, or pytest cannot be had.
        StorageError: the cache folder cannot be written.
    """
    listener, status = progress or Silent(), lava_env.status()
    if not status.available or status.python is None:
        raise TargetUnavailable("Lava is not available.", status.reason, status.fix)
    folder = tests_folder(status.python)
    left_out = {} if files is not None else unable(status.versions)
    chosen = [f for f in files or all_files(folder) if f not in left_out]
    listener.stage("preparing pytest beside the Lava environment")
    tools = tools_folder(status)
    results: list[FileResult] = []
    for area, group in itertools.groupby(chosen, _area):
        members = list(group)
        listener.stage(f"Lava's tests of {area}")
        for number, file in enumerate(members):
            results.append(_run_twice(status.python, tools, folder, file, wall_s))
            listener.advance(number + 1, len(members))
    path = record_path(status)
    record = Selftest(
        path=str(path),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        python=str(status.python),
        versions=status.versions,
        shim=status.shim,
        tools=TOOLS,
        files=tuple(results),
        left_out=left_out,
        total=total("total", results),
    )
    write_atomic(path, msgspec.json.format(msgspec.json.encode(record), indent=1))
    return record


def require(record: Selftest) -> None:
    """Nothing, if every test passed or was skipped.

    Raises:
        GateFailed: one failed twice.
    """
    failures = record.total.failures
    if failures:
        raise GateFailed(
            f"{len(failures)} of Lava's own tests failed twice.",
            f"The first: {failures[0].test}: {failures[0].why}",
            f"See {record.path}; run it again on a quiet machine, or reinstall Lava.",
        )


def areas(results: Sequence[FileResult]) -> list[FileResult]:
    """The sums of each area."""
    return [total(area, list(files)) for area, files in itertools.groupby(results, lambda r: _area(r.file))]


def _area(file: str) -> str:
    """Folder names of a path below tests/lava, at most two: `proc/lif`."""
    return "/".join(Path(file).parts[:-1][:2]) or "."


def _run_twice(python: Path, tools: Path, tests: Path, file: str, wall_s: float) -> FileResult:
    """Run a file, and once more if it does not pass."""
    first = run_file(python, tools, tests, file, wall_s)
    if first.outcome == "passed":
        return first
    again = run_file(python, tools, tests, file, wall_s)
    return dataclasses.replace(again, first_failures=first.failures)


def run_file(python: Path, tools: Path, tests: Path, file: str, wall_s: float = FILE_S) -> FileResult:
    """Run one test file, `tests`/`file`, once; whatever it does, nothing of it stays behind.

    Args:
        python: Lava's interpreter.
        tools: folder with pytest.
        wall_s: seconds until the file counts as hanging.
    """
    command = [str(python), "-I", str(RUNNER), str(tools), str(tests / file), str(wall_s)]
    start, fault = time.monotonic(), ""
    with private_folder("rsc-lava-test-") as folder:
        try:
            run(command, folder, Budget(wall_s + HARD_STOP_S, MEMORY_BYTES), name=f"Lava's test {file}")
        except TargetFault as error:
            fault = error.why
        events = _events(folder / "events.jsonl")
    return _result(file, events, fault, time.monotonic() - start, wall_s)


def total(name: str, results: Sequence[FileResult]) -> FileResult:
    """Sums over files; "passed" if all are, else "failed"."""
    return FileResult(
        name,
        "passed" if all(r.outcome == "passed" for r in results) else "failed",
        *(sum(getattr(r, field) for r in results) for field in ("passed", "failed", "skipped", "errors")),
        seconds=round(sum(r.seconds for r in results), 2),
        failures=tuple(Failure(f"{r.file}::{f.test}", f.why) for r in results for f in r.failures),
        first_failures=tuple(
            Failure(f"{r.file}::{f.test}", f.why) for r in results for f in r.first_failures
        ),
    )


def _events(path: Path) -> list[dict[str, str]]:
    """What the runner noted; nothing where it was ended with its folder, and no line cut short."""
    try:
        lines = path.read_text(errors="replace").split("\n")
    except OSError:
        return []
    return [json.loads(line) for line in lines[:-1]]


def _result(file: str, events: list[dict[str, str]], fault: str, seconds: float, wall_s: float) -> FileResult:
    """Count the events; a test's worst outcome counts, as its teardown may fail after it passed."""
    worst: dict[str, tuple[str, str]] = {}
    running = Path(file).name
    for event in events:
        if event["event"] == "start":
            running = event["test"]
        elif event["event"] == "result":
            before = worst.get(event["test"], ("passed", ""))
            now = (event["outcome"], event["why"])
            worst[event["test"]] = max(before, now, key=lambda one: SEVERITY.index(one[0]))
    counts = {name: sum(one[0] == name for one in worst.values()) for name in SEVERITY}
    failures = [Failure(test, why) for test, (one, why) in worst.items() if one in ("failed", "error")]
    outcome: Outcome = "failed" if failures else "passed"
    if not events or events[-1]["event"] != "end":
        outcome = "timeout" if seconds >= wall_s else "crashed"
        said = (
            f"It did not finish within {wall_s:g} s." if outcome == "timeout" else fault or "It ended early."
        )
        failures.append(Failure(running, said))
    elif not worst:
        outcome, failures = "failed", [Failure(running, f"It holds no tests ({events[-1]['status']}).")]
    return FileResult(
        file,
        outcome,
        counts["passed"],
        counts["failed"],
        counts["skipped"],
        counts["error"],
        round(seconds, 2),
        tuple(failures),
    )


def tests_folder(python: Path) -> Path:
    """The wheel's tests/lava.

    Raises:
        TargetUnavailable: this installation of lava-nc came without its tests.
    """
    question = (
        "from importlib.metadata import distribution as d; print(d('lava-nc').locate_file('tests/lava'))"
    )
    with private_folder() as folder:
        answer = run([str(python), "-I", "-c", question], folder, Budget(60.0), name="The Lava interpreter")
    tests = Path(answer.stdout_tail.strip())
    if not all_files(tests):
        raise TargetUnavailable(
            "Lava's own tests are not there.",
            f"{tests} does not hold the test files of {', '.join(AREAS)}.",
            f"Install lava-nc from its wheel: unset {lava_env.VARIABLE} and run `rsc lava install`.",
        )
    return tests


def all_files(tests: Path) -> list[str]:
    """The test files of `AREAS`; empty unless every area has some."""
    found = [sorted((tests / area).glob("**/test_*.py")) for area in AREAS]
    return [path.relative_to(tests).as_posix() for files in found for path in files] if all(found) else []


def unable(versions: dict[str, str]) -> dict[str, str]:
    """Test files that cannot pass with this version of Python -> why."""
    python = tuple(int(n) for n in versions["python"].split(".")[:2])
    return PYTHON_3_12 if python >= (3, 12) else {}


def record_path(status: EnvStatus) -> Path:
    """Where the record lies: beside the marker of our environment, else in the folder of pytest."""
    return (lava_env._folder() if status.source == "cache" else _tools_path(status)) / RECORD


def tools_folder(status: EnvStatus) -> Path:
    """The folder with pytest for this interpreter, made once; safe from several processes at once.

    Raises:
        TargetUnavailable: a package cannot be had.
        StorageError: the cache folder cannot be written.
    """
    folder = _tools_path(status)
    if folder.is_dir():
        return folder
    with lava_env._locked():
        if folder.is_dir():
            return folder
        building = folder.with_name(f"{folder.name}.building-{secrets.token_hex(4)}")
        pip = [str(status.python), "-I", "-m", "pip", "--no-input", "--disable-pip-version-check", "install"]
        try:
            lava_env._step([*pip, "--only-binary=:all:", "--target", str(building), *TOOLS], "install pytest")
            lava_env._storage(os.replace, building, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return folder


def _tools_path(status: EnvStatus) -> Path:
    """Named so that `rsc lava remove` deletes it; other pins or another Python, another folder."""
    version = ".".join(status.versions["python"].split(".")[:2])
    pins = hashlib.sha256(json.dumps(TOOLS).encode()).hexdigest()[:8]
    return lava_env._root() / f"lava-{TOOLS[0].replace('==', '-')}-py{version}-{pins}"
