"""The folder of a run: its settings, its log and its checkpoints, written by rank 0 alone.

resolved.toml       the configuration, every default written out
metrics.jsonl       one line per finished epoch
checkpoints/        step-NNNNNNNNNN.safetensors, the newest few, and best.safetensors
tensorboard/        if wanted
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path

from rsc.errors import InputRefused, StorageError
from rsc.files import make_parents, write_atomic
from rsc.training.checkpoint import Checkpoints
from rsc.training.config import TrainConfig, resolved
from rsc.training.metrics import EpochStats, MetricsLog, TensorBoard

SETTINGS, METRICS, SAVES, EVENTS = "resolved.toml", "metrics.jsonl", "checkpoints", "tensorboard"
CONTENT = (SETTINGS, METRICS, SAVES, EVENTS)


class RunFolder:
    """A folder that one process at a time writes a run into."""

    def __init__(self, path: str | Path, resume: bool = False) -> None:
        """Name it; nothing is written before `open`."""
        self.path, self.resume = Path(path), resume
        self.metrics: MetricsLog | None = None
        self.board: TensorBoard | None = None
        self._lock = -1

    def require_usable(self) -> None:
        """Refuse a folder that would lose something or cannot be continued.

        Raises:
            InputRefused: it is a file; it holds something and is not to be resumed; or it is to be resumed
                and holds something else than a run; or it cannot be looked into.
        """
        try:
            if not self.path.exists():
                return
            if not self.path.is_dir():
                raise InputRefused(
                    f"'{self.path}' is no folder.", "It would be replaced.", "Choose another name."
                )
            found = {entry.name for entry in self.path.iterdir()}
        except OSError as error:
            raise InputRefused(
                f"'{self.path}' cannot be the folder of a run.",
                f"{error.strerror or error}.",
                "Check its name and permissions, or choose another.",
            ) from error
        if found and not self.resume:
            raise InputRefused(
                f"'{self.path}' holds something already.",
                "A new run would replace it." if SAVES in found else f"E.g. {min(found)}.",
                "Go on with --resume, or choose another name.",
            )
        if found and not found & {SAVES, SETTINGS}:
            raise InputRefused(
                f"'{self.path}' holds no run.", f"It has no {SAVES}.", "Choose the folder of a run."
            )

    def open(self, keep: int) -> Checkpoints:
        """Make the folder, lock it and clear what a killed writer has left; returns its checkpoints.

        Raises:
            InputRefused: see `require_usable`; or another process is writing a run here.
            StorageError: it cannot be written.
        """
        self.require_usable()
        saves = self.path / SAVES
        make_parents(saves / "any")
        self._take_lock()
        for folder in (self.path, saves):
            for leftover in folder.glob(".rsc-*.tmp"):
                shutil.rmtree(leftover, ignore_errors=True)
        return Checkpoints(saves, keep)

    def start(self, config: TrainConfig, history: list[EpochStats]) -> None:
        """Write the settings and what is known so far.

        Raises:
            StorageError: they cannot be written.
            UsageError: TensorBoard is wanted and not installed.
        """
        if config.tensorboard:
            self.board = TensorBoard(self.path / EVENTS, len(history))
        write_atomic(self.path / SETTINGS, resolved(config).encode())
        self.metrics = MetricsLog(self.path / METRICS, history)

    def log(self, stats: EpochStats) -> None:
        """Add an epoch to the logs."""
        if self.metrics is not None:
            self.metrics.append(stats)
        if self.board is not None:
            self.board.append(stats)

    def close(self) -> None:
        """Give up the lock."""
        if self.board is not None:
            self.board.close()
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def _take_lock(self) -> None:
        try:
            self._lock = os.open(self.path / SAVES, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise InputRefused(
                f"Another process is writing a run in '{self.path}'.",
                "Two would spoil each other's.",
                "Wait for it, or choose another name.",
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP):  # a file system without locks
                raise StorageError(
                    f"'{self.path}' cannot be used.", f"{error.strerror}.", "Check it."
                ) from error


def copy_run(source: Path, target: Path) -> None:
    """Put the files of a run into another folder too, as links where the file system has them.

    Raises:
        StorageError: they cannot be written.
    """
    try:
        for name in CONTENT:
            if (source / name).is_dir():
                shutil.copytree(source / name, target / name, copy_function=_link)
            elif (source / name).exists():
                _link(source / name, target / name)
    except (OSError, shutil.Error) as error:
        raise StorageError(f"'{target}' was not written.", f"{error}.", "Free some space.") from error


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
