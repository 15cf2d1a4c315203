"""The log of a run: one value per epoch, one line of JSON each, and TensorBoard if wanted."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from rsc.errors import StorageError, UsageError
from rsc.files import write_atomic


@dataclasses.dataclass(frozen=True)
class EpochStats:
    """One line of the training log.

    Fields:
        epoch: from 1; epochs: planned.
        loss, accuracy: mean over the training images as they were met.
        rate: training images per second.
        lr: learning rate of the epoch's last step.
        seconds: wall time of the epoch, evaluation included.
        remaining_s: seconds until the last epoch would end, at the pace so far.
        validation: accuracy of single runs and of the vote ("per_run", "vote"); empty if not measured.
        robustness: accuracy by attack; empty if not measured.
        terms: mean of every loss term before its weight, as in the training passes; empty for a single term.
    """

    epoch: int
    epochs: int
    loss: float
    accuracy: float
    rate: float
    lr: float = 0.0
    seconds: float = 0.0
    remaining_s: float = 0.0
    validation: Mapping[str, float] = dataclasses.field(default_factory=dict)
    robustness: Mapping[str, float] = dataclasses.field(default_factory=dict)
    terms: Mapping[str, float] = dataclasses.field(default_factory=dict)


class MetricsLog:
    """A file with one JSON object per line, each on the disk before the next epoch begins."""

    def __init__(self, path: Path, history: Iterable[EpochStats]) -> None:
        """Begin with what a run has done so far; lines of epochs that were lost are gone.

        Raises:
            StorageError: the file cannot be written.
        """
        self.path = path
        write_atomic(path, b"".join(_line(stats) for stats in history))

    def append(self, stats: EpochStats) -> None:
        """Add an epoch.

        Raises:
            StorageError: as above; the lines before are kept.
        """
        try:
            with open(self.path, "ab") as file:
                file.write(_line(stats))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(
                f"'{self.path}' could not be written.",
                f"{error.strerror or error}.",
                "Free some space, then go on with --resume.",
            ) from error


def _line(stats: EpochStats) -> bytes:
    return msgspec.json.encode(stats) + b"\n"


def summary_writer() -> Any:
    """torch's writer of TensorBoard events, a class.

    Raises:
        UsageError: tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            "tensorboard = true, but there is no TensorBoard.",
            str(error),
            "Install it (pip install tensorboard), or read metrics.jsonl.",
        ) from error
    return SummaryWriter


class TensorBoard:
    """TensorBoard events of the same numbers."""

    def __init__(self, folder: Path, done: int) -> None:
        """Write into `folder`, from epoch `done` + 1 on.

        Raises:
            UsageError: tensorboard is not installed.
        """
        self._writer: Any = summary_writer()(str(folder), purge_step=done + 1)

    def append(self, stats: EpochStats) -> None:
        """Add an epoch."""
        for name, value in scalars(stats).items():
            self._writer.add_scalar(name, value, stats.epoch)
        self._writer.flush()

    def close(self) -> None:
        """End the file."""
        self._writer.close()


def scalars(stats: EpochStats) -> dict[str, float]:
    """All numbers of an epoch by name."""
    plain = {f"train/{k}": getattr(stats, k) for k in ("loss", "accuracy", "rate", "lr", "seconds")}
    for group in ("validation", "robustness", "terms"):
        plain |= {f"{group}/{k}": v for k, v in getattr(stats, group).items()}
    return plain
