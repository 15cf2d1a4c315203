"""An isolated command cannot hang, flood, fill or outlive its caller."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rsc.errors import TargetFault, TargetUnavailable
from rsc.hw_targets import isolate_guard
from rsc.hw_targets.isolate import TAIL_BYTES, Budget, Completed, private_folder, run

FAKE = Path(__file__).with_name("fake_worker.py")
SLACK_S = 20.0  # how late a loaded machine may be; only an upper bound of a hang

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")

CALLER = """
import signal, sys
from pathlib import Path
from rsc.hw_targets.isolate import Budget, private_folder, run
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it
try:
    with private_folder("rsc-test-") as folder:
        print(folder, flush=True)
        run([sys.executable, *sys.argv[1:3], str(folder), *sys.argv[3:]], folder, Budget(wall_s=120))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test: its temporary folder is empty and no process of it lives afterwards."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield
    wait_until(lambda: not list(temporary.iterdir()))
    assert list(temporary.iterdir()) == []
    wait_until(lambda: not processes_naming(str(temporary)))
    assert processes_naming(str(temporary)) == []


def fake(fault: str, *more: str, wall_s: float = 30.0, memory_bytes: int = 8 << 30) -> Completed:
    with private_folder("rsc-test-") as folder:
        command = [sys.executable, str(FAKE), fault, str(folder), *more]
        return run(command, folder, Budget(wall_s, memory_bytes))


def processes_naming(text: str) -> list[int]:
    """Living processes, zombies excluded, whose environment or command line holds `text`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            seen = (entry / "environ").read_bytes() if int(entry.name) != os.getpid() else b""
            if f"TMPDIR={text}/".encode() in seen:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def wait_until(condition, seconds: float = SLACK_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def test_a_command_that_ends_well_gives_its_output():
    with private_folder() as folder:
        done = run([sys.executable, "-c", "print('hello'); import sys; print('x', file=sys.stderr)"], folder)
    assert (done.returncode, done.stdout_tail, done.stderr_tail) == (0, "hello\n", "x\n")


def test_a_hang_ends_with_its_budget():
    start = time.monotonic()
    with pytest.raises(TargetFault, match=r"did not finish within 0\.5 s"):
        fake("hang", wall_s=0.5)
    assert time.monotonic() - start < SLACK_S


@pytest.mark.parametrize(("fault", "name"), [("crash", "SIGSEGV"), ("killed", "SIGKILL")])
def test_a_crash_names_its_signal(fault: str, name: str):
    with pytest.raises(TargetFault, match=name):
        fake(fault)


def test_nothing_outlives_its_guard():
    """The guard itself is killed: the command dies with it, and the caller ends the command's children."""

    def kill_the_guard(folder: Path) -> None:
        wait_until(lambda: len(processes_naming(str(folder.parent))) >= 4)
        os.kill(guards_of(os.getpid())[0], signal.SIGKILL)

    with private_folder("rsc-test-") as folder, ThreadPoolExecutor(1) as pool:
        killer = pool.submit(kill_the_guard, folder)
        with pytest.raises(TargetFault, match="SIGKILL"):
            run([sys.executable, str(FAKE), "stubborn_children", str(folder)], folder, Budget(60.0))
        killer.result()


def guards_of(parent: int) -> list[int]:
    """Process ids of the isolation guards that `parent` started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and b"isolate_guard" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def test_a_status_comes_with_the_last_line():
    with pytest.raises(TargetFault, match=r"status 7.*on fire"):
        fake("status")


def test_a_flood_neither_blocks_nor_is_kept():
    done = fake("flood_and_end")
    assert len(done.stdout_tail) == TAIL_BYTES
    assert done.stdout_tail.endswith("the end\n")
    with pytest.raises(TargetFault, match="did not finish"):
        fake("flood", wall_s=0.5)


def test_children_that_ignore_sigterm_are_ended_too():
    with pytest.raises(TargetFault, match="did not finish"):
        fake("stubborn_children", wall_s=0.7)


def test_children_left_behind_by_a_good_end_are_ended():
    assert fake("orphans").stdout_tail == "done\n"


def test_memory_of_all_processes_together_is_bounded():
    with pytest.raises(TargetFault, match="256 MiB are allowed"):
        fake("eat", memory_bytes=256 << 20)


def test_leftover_shared_memory_is_unlinked(tmp_path: Path):
    note = tmp_path / "segment"
    with pytest.raises(TargetFault):
        fake("leak_shared_memory", str(note), wall_s=1.5)
    assert note.read_text().startswith("psm_")
    assert not Path("/dev/shm", note.read_text()).exists()


def test_the_environment_is_a_short_list(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("A_SECRET_TOKEN", "x")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    names = set(fake("environment").stdout_tail.split())
    assert not names & {"A_SECRET_TOKEN", "PYTHONPATH"}
    assert {"PATH", "TMPDIR", "OMP_NUM_THREADS"} <= names


def test_a_missing_program_is_unavailable():
    with private_folder() as folder, pytest.raises(TargetUnavailable, match="no program"):
        run([str(folder / "nothing")], folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_its_caller(number: signal.Signals, tmp_path: Path):
    """The caller alone is signalled; the worker's children ignore SIGTERM."""
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, str(FAKE), "stubborn_children"], stdout=subprocess.PIPE, text=True
    )
    assert caller.stdout is not None
    folder = Path(caller.stdout.readline().strip())
    wait_until(lambda: len(processes_naming(str(folder.parent))) >= 4)
    os.kill(caller.pid, number)
    assert caller.wait(SLACK_S) == (130 if number == signal.SIGINT else -number)
    caller.stdout.close()
    wait_until(lambda: not folder.exists())
    assert not folder.exists()


def test_ctrl_c_in_the_terminal_ends_everything():
    """The terminal signals the caller's whole group."""
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, str(FAKE), "stubborn_children"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert caller.stdout is not None
    folder = Path(caller.stdout.readline().strip())
    wait_until(lambda: len(processes_naming(str(folder.parent))) >= 4)
    os.killpg(caller.pid, signal.SIGINT)
    assert caller.wait(SLACK_S) == 130
    caller.stdout.close()
    assert not folder.exists()


def test_shared_memory_is_freed_when_the_caller_is_killed(tmp_path: Path):
    note = tmp_path / "segment"
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, str(FAKE), "leak_shared_memory", str(note)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert caller.stdout is not None
    caller.stdout.readline()
    wait_until(lambda: note.exists() and note.read_text() != "")
    caller.kill()
    caller.wait(SLACK_S)
    caller.stdout.close()
    segment = Path("/dev/shm", note.read_text())
    wait_until(lambda: not segment.exists())
    assert not segment.exists()


def test_members_are_known_by_their_token_alone():
    assert isolate_guard.members("no such run") == []
