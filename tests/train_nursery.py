"""A process that forks children which train: quick, since torch is imported once, and safe to kill.

Each line on stdin is a `Child` as JSON; the answer is the list of exit statuses, one per rank, negative for a
signal. Nothing is trained before a fork, as autograd's threads do not survive one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

TESTS = Path(__file__).parent
WATCHED = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "os.chmod")


class Child(msgspec.Struct, kw_only=True):
    """A training, and how it ends.

    Fields:
        out: folder of the run.
        config: of the training, as JSON; images: how many.
        ranks: processes.
        kill_at_call: SIGKILL at the nth call of the system that names something in the folder.
        tear_write: SIGKILL in the middle of the nth file that is written.
        kill_after_s: SIGKILL after so many seconds, from outside.
        signal_at_step: (rank, step, signal) that a process sends itself after a step.
        limit_s: everything is killed after this; status 124 then.
        file_limit: largest file in bytes (RLIMIT_FSIZE); 0 is no limit.
    """

    out: str
    config: msgspec.Raw
    images: int = 32
    ranks: int = 1
    kill_at_call: int = 0
    tear_write: int = 0
    kill_after_s: float = 0.0
    signal_at_step: tuple[int, int, int] | None = None
    limit_s: float = 60.0
    file_limit: int = 0


@dataclasses.dataclass
class Nursery:
    """The other side: asks the process for children."""

    process: subprocess.Popen[bytes]

    def grow(self, out: Path, config: Any, **how: Any) -> list[int]:
        """Exit statuses of a child's ranks."""
        child = Child(out=str(out), config=msgspec.Raw(msgspec.json.encode(config)), **how)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(msgspec.json.encode(child) + b"\n")
        self.process.stdin.flush()
        return msgspec.json.decode(self.process.stdout.readline(), type=list[int])


@contextlib.contextmanager
def nursery() -> Iterator[Nursery]:
    """Start one; it ends with the block."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
    command = [sys.executable, __file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        try:
            yield Nursery(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)


def _serve() -> None:
    import importlib

    for heavy in ("torch._dynamo", "torch.distributed", "train_tiny"):  # what the first step would import
        importlib.import_module(heavy)
    for number, line in enumerate(sys.stdin.buffer):
        child = msgspec.json.decode(line, type=Child)
        port = 20000 + (os.getpid() * 37 + number) % 20000
        pids = [_fork(child, rank, port) for rank in range(child.ranks)]
        if child.kill_after_s:
            time.sleep(child.kill_after_s)
            os.kill(pids[0], signal.SIGKILL)
        statuses = _await(pids, child.limit_s)
        sys.stdout.write(msgspec.json.encode(statuses).decode() + "\n")
        sys.stdout.flush()


def _await(pids: list[int], limit_s: float) -> list[int]:
    """Exit statuses; a process stopped by a signal is ended once all others are over."""
    until, statuses = time.monotonic() + limit_s, dict[int, int]()
    stopped: set[int] = set()
    while len(statuses) < len(pids):
        for pid in set(pids) - set(statuses):
            done, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
            if done and os.WIFSTOPPED(status):
                stopped.add(pid)
            elif done:
                statuses[pid] = os.waitstatus_to_exitcode(status)
        rest = set(pids) - set(statuses)
        if rest and (rest <= stopped or time.monotonic() > until):
            for pid in rest:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                statuses[pid] = -signal.SIGKILL if pid in stopped else 124
        time.sleep(0.002)
    return [statuses[pid] for pid in pids]


def _fork(child: Child, rank: int, port: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        os.dup2(2, 1)
        status = _live(child, rank, port)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _live(child: Child, rank: int, port: int) -> int:
    """Train; the exit status is that of the error, 0 without one."""
    import torch
    from train_tiny import images

    from rsc.errors import RscError
    from rsc.training import RunFolder, TrainConfig, fit

    torch.set_num_threads(1)
    if child.ranks > 1:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(child.ranks), "LOCAL_RANK": str(rank)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    config = msgspec.json.decode(child.config, type=TrainConfig)
    _arrange_end(child, rank)
    try:
        fit(config, images(child.images), run=RunFolder(child.out, resume=True))
    except RscError as error:
        sys.stderr.write(f"rank {rank}: {error}\n")
        return error.exit_code
    return 0


def _arrange_end(child: Child, rank: int) -> None:
    if child.file_limit:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (child.file_limit, child.file_limit))
    if child.kill_at_call:
        _kill_at_call(child.out, child.kill_at_call)
    if child.tear_write:
        _tear_write(child.tear_write)
    if child.signal_at_step and child.signal_at_step[0] == rank:
        _signal_at_step(*child.signal_at_step[1:])


def _kill_at_call(out: str, number: int) -> None:
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in WATCHED and isinstance(arguments[0], str | os.PathLike) and out in str(arguments[0]):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _tear_write(number: int) -> None:
    plain, count = Path.write_bytes, 0

    def write_bytes(self: Path, data: Any) -> int:
        nonlocal count
        count += 1
        if count == number:
            plain(self, bytes(data)[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, data)

    Path.write_bytes = write_bytes  # type: ignore[method-assign]


def _signal_at_step(step: int, signum: int) -> None:
    from rsc.training.keeper import FolderKeeper

    plain, count = FolderKeeper.after_step, 0

    def after_step(self: Any, job: Any, state: Any) -> None:
        nonlocal count
        count += 1
        if count == step:
            os.kill(os.getpid(), signum)
        plain(self, job, state)

    FolderKeeper.after_step = after_step  # type: ignore[method-assign]


if __name__ == "__main__":
    _serve()
