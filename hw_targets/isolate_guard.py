"""Stands between a caller and its isolated command; standard library only, run by path.

    python -I -S isolate_guard.py TOKEN FOLDER ADDRESS_SPACE COMMAND...

Standard input is a life line that the caller holds. When it closes before the command has ended,
the guard ends every process of the run, frees its shared memory and removes FOLDER; that also
happens when the caller is killed. When the guard is killed, the command dies (PR_SET_PDEATHSIG).

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
GRACE_S = 1.0
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


def end_run(token: str, group: int | None = None) -> None:
    """End all processes of a run: SIGTERM, up to GRACE_S, SIGKILL; then unlink what shared memory is left.

    Args:
        token: of the run.
        group: its process group, where one is known.
    """
    pids = members(token)
    names = segments(pids)
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
    unlink(names)


def unlink(names: Iterable[str]) -> None:
    """Free shared-memory segments; those already gone are fine."""
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


def become(command: list[str], parent: int, address_space: int) -> None:
    """Turn into `command`: own session, dies with `parent`, at most `address_space` bytes (0: no limit)."""
    os.setsid()
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    if address_space:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and an ignored signal is inherited
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        os.execvpe(command[0], command, os.environ)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def guard(token: str, folder: str, address_space: int, command: list[str]) -> None:
    """Start the command, wait for its end or the caller's, clean up, end as the command ended."""
    parent, here = os.getppid(), os.getpid()
    os.environ[TOKEN] = token
    child = os.fork()
    if child == 0:
        become(command, here, address_space)
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    status = _wait(child, parent)
    end_run(token, child)
    if status is None:
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)
    if os.WIFSIGNALED(status):
        with contextlib.suppress(OSError):  # SIGKILL has no handler to reset
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(here, os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _wait(child: int, parent: int) -> int | None:
    """The child's status; None when the life line (standard input) closed or the parent changed first."""
    waited, timeout = [0], 0.05
    with contextlib.suppress(AttributeError, OSError):
        waited.append(os.pidfd_open(child))
        timeout = 1.0
    while True:
        ready, _, _ = select.select(waited, [], [], timeout)
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        if 0 in ready or os.getppid() != parent:
            return None


if __name__ == "__main__":
    guard(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])
