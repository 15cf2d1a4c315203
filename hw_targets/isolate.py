"""Runs a foreign command so that nothing it does can hang, flood, fill or outlive its caller.

The command gets its own session, an environment of named variables only, a private folder, a
wall-time and a memory budget; its output is drained and only the tail kept. However the run ends
(normally, by a budget, by Ctrl-C, by the caller's own death) no process, folder or shared-memory
segment of it stays behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from rsc.errors import StorageError, TargetFault, TargetUnavailable
from rsc.hw_targets import isolate_guard as guard

PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT")
FIXED = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", "PYTHONUTF8": "1"}
TAIL_BYTES = 64 * 1024
ADDRESS_SLACK = 4 << 30  # reserved but unused memory (thread stacks, arenas) is no reason to fail
MEMORY_POLL_S = 0.2
TICK_S = 0.05
DRAIN_READS = 4  # a pipe holds 64 KiB: what the command wrote last, not what survivors keep writing


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a run may use.

    Fields:
        wall_s: seconds until it is ended.
        memory_bytes: physical memory of all its processes together (shared pages counted once).
    """

    wall_s: float = 600.0
    memory_bytes: int = 8 << 30


@dataclasses.dataclass(frozen=True)
class Completed:
    """A run that ended by itself with status 0.

    Fields:
        stdout_tail, stderr_tail: the last 64 KiB of each.
        wall_s: seconds it took.
    """

    returncode: int
    stdout_tail: str
    stderr_tail: str
    wall_s: float


@contextlib.contextmanager
def private_folder(prefix: str = "rsc-") -> Iterator[Path]:
    """A folder only this user can read, removed afterwards.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
    except OSError as error:
        raise StorageError(
            "No temporary folder can be made.", str(error), "Free space or set TMPDIR to a writable folder."
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(
    command: Sequence[str],
    folder: Path,
    budget: Budget | None = None,
    environment: Mapping[str, str] | None = None,
    name: str = "The worker",
) -> Completed:
    """Run `command` in `folder` to its end.

    Args:
        command: program and arguments; the program with its full path.
        folder: working folder from `private_folder`; removed even if this process is killed.
        budget: wall time and memory.
        environment: variables beyond the fixed few that are passed on.
        name: what to call it in messages.

    Raises:
        TargetFault: it exceeded a budget, crashed or returned a status other than 0.
        TargetUnavailable: no process groups here, or the program does not exist.
        KeyboardInterrupt: Ctrl-C; everything has been ended.
    """
    if os.name != "posix":
        raise TargetUnavailable(
            f"{name} cannot be isolated on this system.",
            "POSIX process groups are needed.",
            "Use Linux or WSL.",
        )
    if shutil.which(command[0]) is None:
        raise TargetUnavailable(
            f"{name} cannot be started.", f"{command[0]} is no program.", "Check the path."
        )
    budget, token, start = budget or Budget(), secrets.token_hex(8), time.monotonic()
    watched = _Watched(token, budget, start + budget.wall_s)
    try:
        child = _child(command, folder, budget, token, environment or {})
    except OSError as error:
        raise TargetFault(
            f"{name} cannot be started.", str(error), "Free memory or end processes."
        ) from error
    try:
        (out, err), failure = _drain(child, watched)
    finally:
        _end(child, watched)
    tails = out.decode(errors="replace"), err.decode(errors="replace")
    done = Completed(child.returncode, tails[0], tails[1], time.monotonic() - start)
    if failure or done.returncode:
        raise _fault(name, failure, done)
    return done


@dataclasses.dataclass
class _Watched:
    """The budgets of one run and what was seen of it."""

    token: str
    budget: Budget
    deadline: float
    next_look: float = 0.0
    segments: set[str] = dataclasses.field(default_factory=set)

    def exceeded(self) -> str:
        """Which budget is used up, in words; "" while none is."""
        now = time.monotonic()
        if now > self.deadline:
            return f"It did not finish within {self.budget.wall_s:g} s."
        if now < self.next_look:
            return ""
        self.next_look = now + MEMORY_POLL_S
        pids = guard.members(self.token)
        self.segments |= guard.segments(pids)
        used = sum(_memory(pid) for pid in pids)
        if used <= self.budget.memory_bytes:
            return ""
        return f"It used {used >> 20} MiB of memory; {self.budget.memory_bytes >> 20} MiB are allowed."


def _child(
    command: Sequence[str], folder: Path, budget: Budget, token: str, extra: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """The command behind its guard; the guard's standard input is the life line."""
    limit = str(budget.memory_bytes + ADDRESS_SLACK)
    passed = {k: os.environ[k] for k in PASSED_ON if k in os.environ}
    return subprocess.Popen(
        [sys.executable, "-I", "-S", guard.__file__, token, str(folder), limit, *command],
        cwd=folder,
        env=passed | FIXED | {"TMPDIR": str(folder)} | dict(extra),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def _drain(child: subprocess.Popen[bytes], watched: _Watched) -> tuple[list[bytes], str]:
    """Read both streams until the child ends or a budget is used up; the tails and the reason."""
    streams: list[IO[bytes]] = [s for s in (child.stdout, child.stderr) if s is not None]
    tails, failure = [b"", b""], ""
    with selectors.DefaultSelector() as selector:
        for number, stream in enumerate(streams):
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, selectors.EVENT_READ, number)
        while child.poll() is None and not (failure := watched.exceeded()):
            if not selector.get_map():
                time.sleep(0.005)
            _read_ready(selector, tails, TICK_S)
        for _ in range(DRAIN_READS):
            _read_ready(selector, tails, 0)
    return tails, failure


def _read_ready(selector: selectors.BaseSelector, tails: list[bytes], timeout: float) -> bool:
    """Take what is there; whether there was anything."""
    got = False
    for key, _ in selector.select(timeout):
        data = os.read(key.fd, 1 << 16)
        if data:
            tails[key.data] = (tails[key.data] + data)[-TAIL_BYTES:]
            got = True
        else:
            selector.unregister(key.fileobj)
    return got


def _memory(pid: int) -> int:
    """Proportional set size of a process in bytes (resident size where the kernel lacks it; 0 if gone)."""
    for file, field in (("smaps_rollup", "Pss:"), ("status", "VmRSS:")):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
                if line.startswith(field):
                    return int(line.split()[1]) << 10
    return 0


def _end(child: subprocess.Popen[bytes], watched: _Watched) -> None:
    """Cut the life line, wait for the guard to clean up, and do its work if it cannot."""
    streams = [s for s in (child.stdin, child.stdout, child.stderr) if s is not None]
    for stream in streams:
        stream.close()
    try:
        child.wait(4 * guard.GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    guard.end_run(watched.token)
    guard.unlink(watched.segments)


def _fault(name: str, failure: str, done: Completed) -> TargetFault:
    """The error of a run that failed: the budget, the signal or the status, and its last words."""
    if failure:
        return TargetFault(f"{name} was stopped.", failure, "Use a smaller batch, or a larger budget.")
    lines = done.stderr_tail.strip().splitlines()
    last = f" Its last line: {lines[-1][:300]}" if lines else ""
    if done.returncode < 0:
        how = f"It was ended by {signal.Signals(-done.returncode).name}.{last}"
    else:
        how = f"It returned status {done.returncode}.{last}"
    return TargetFault(f"{name} failed.", how, "Run it again; if it repeats, report it with these lines.")
