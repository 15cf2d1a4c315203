"""Two small programs that stand beside an isolated command; standard library only, run by path.

    python -I -S isolate_guard.py launch PARENT_PID ADDRESS_SPACE COMMAND...
        dies with its parent (PR_SET_PDEATHSIG), limits its address space, becomes COMMAND.
    python -I -S isolate_guard.py watch TOKEN FOLDER
        waits on standard input; if it closes before "done", the parent is gone: ends every process
        of the run, frees its shared memory and removes FOLDER.

A run is known by its token, an environment variable that all its processes inherit, so members
are found whatever group or session they moved to (Linux; elsewhere only the process group is known).
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

TOKEN = "RSC_ISOLATED_RUN"
GRACE_S = 2.0
_SEGMENT = re.compile(r"/dev/shm/(psm_[0-9a-f]+)")
_PR_SET_PDEATHSIG = 1


def members(token: str) -> list[int]:
    """Process ids of the living processes of a run; empty where there is no /proc."""
    needle = f"{TOKEN}={token}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if needle in (entry / "environ").read_bytes().split(b"\0") and not _is_zombie(entry):
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


def _is_zombie(entry: Path) -> bool:
    return (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[0] in "ZX"


def segments(pids: Iterable[int]) -> set[str]:
    """Names of the shared-memory segments (multiprocessing's psm_*) these processes map."""
    names: set[str] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            names.update(_SEGMENT.findall(Path(f"/proc/{pid}/maps").read_text(errors="replace")))
    return names


def end_run(token: str, group: int | None = None, known: Iterable[str] = ()) -> None:
    """End all processes of a run: SIGTERM, up to GRACE_S, SIGKILL; then unlink what shared memory is left.

    Args:
        token: of the run.
        group: its process group, where one is known.
        known: segments seen earlier.
    """
    pids = members(token)
    names = set(known) | segments(pids)
    if pids or group is not None:
        _signal(pids, group, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        while (pids := members(token)) and time.monotonic() < deadline:
            names |= segments(pids)
            time.sleep(0.02)
        _signal(pids, group, signal.SIGKILL)
        while members(token) and time.monotonic() < deadline + GRACE_S:
            _signal(members(token), None, signal.SIGKILL)
            time.sleep(0.02)
    for name in names:
        with contextlib.suppress(OSError):
            os.unlink(f"/dev/shm/{name}")


def _signal(pids: Iterable[int], group: int | None, number: signal.Signals) -> None:
    if group is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def launch(parent: int, address_space: int, command: list[str]) -> None:
    """Become `command`, dying with the parent and limited to `address_space` bytes (0: no limit)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
    if address_space:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and an ignored signal is inherited
    os.execvpe(command[0], command, os.environ)


def watch(token: str, folder: str) -> None:
    """Wait for "done" on standard input; on its end, or a new parent, clean up after the run."""
    parent = os.getppid()
    while os.getppid() == parent:
        ready, _, _ = select.select([0], [], [], 1.0)
        if ready:
            if os.read(0, 16) == b"done":
                return
            break
    end_run(token)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    if sys.argv[1] == "launch":
        launch(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
    else:
        watch(*sys.argv[2:4])
