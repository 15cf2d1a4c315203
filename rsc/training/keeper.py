"""Who keeps a run: saves it, logs it, and ends it when a signal asks for that."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import NoReturn

from rsc.training.checkpoint import Checkpoints
from rsc.training.interrupts import SIGNALS, Deferred, stopped
from rsc.training.job import Job
from rsc.training.metrics import EpochStats
from rsc.training.run_folder import RunFolder
from rsc.training.state import TrainState, to_snapshot


class Stopping(Exception):
    """A signal came while nothing changes: the state may be saved at once."""


class Keeper:
    """Keeps nothing and listens to no signal: for training in memory."""

    def flags(self) -> list[float]:
        """Whether this rank was asked to stop, by each of SIGNALS."""
        return [0.0] * len(SIGNALS)

    def hear(self, flags: list[float]) -> None:
        """What all ranks together were asked."""

    def poll(self, job: Job) -> Callable[[], None]:
        """A function that raises Stopping if this process alone can decide to stop, and should."""
        return lambda: None

    def after_step(self, job: Job, state: TrainState) -> None:
        """A step is done."""

    def after_epoch(self, job: Job, state: TrainState, stats: EpochStats, improved: bool) -> None:
        """An epoch is done, evaluated and part of the history."""

    def leave_if_asked(self, job: Job, state: TrainState, over: bool = False) -> None:
        """Save and end the run if a signal came; `over`: training is."""

    def leave(self, job: Job, state: TrainState) -> NoReturn:
        """Save and end the run."""
        raise stopped(signal.SIGTERM, "while training", "nothing")


class FolderKeeper(Keeper):
    """Keeps a run in a folder; on ranks other than the first it only listens."""

    def __init__(self, folder: RunFolder, saves: Checkpoints | None, deferred: Deferred) -> None:
        self.folder, self.saves, self.deferred = folder, saves, deferred
        self._asked = 0

    def flags(self) -> list[float]:
        """Whether this rank was asked to stop."""
        return [float(self.deferred.seen == signum) for signum in SIGNALS]

    def hear(self, flags: list[float]) -> None:
        """What all ranks together were asked."""
        self._asked = next((s for s, count in zip(SIGNALS, flags, strict=True) if count), 0)

    def poll(self, job: Job) -> Callable[[], None]:
        """Raises Stopping if a signal came; several ranks only agree on that after a step."""

        def stop() -> None:
            if self.deferred.seen:
                self._asked = self.deferred.seen
                raise Stopping

        return stop if job.world.size == 1 else lambda: None

    def after_step(self, job: Job, state: TrainState) -> None:
        """Save where it is time, and leave if asked."""
        every, step = job.config.checkpoint.every_steps, state.position.step
        if self._asked:
            self.leave(job, state)
        if every and step % every == 0 and step < job.per_epoch:
            self._save(job, state)

    def after_epoch(self, job: Job, state: TrainState, stats: EpochStats, improved: bool) -> None:
        """Save first, then log: what is logged twice after a crash is dropped on resume."""
        epoch = state.position.epoch
        stale = state.position.stale
        over = epoch == job.config.epochs or 0 < job.config.validation.patience <= stale
        if improved or over or epoch % job.config.checkpoint.every_epochs == 0:
            self._save(job, state, best=improved)
        self.folder.log(stats)

    def leave_if_asked(self, job: Job, state: TrainState, over: bool = False) -> None:
        """Leave between epochs; several ranks only agree on that after the next step, or at the end."""
        if self.deferred.seen and (over or job.world.size == 1):
            self._asked = self.deferred.seen
            self.leave(job, state)

    def leave(self, job: Job, state: TrainState) -> NoReturn:
        """Save and end the run with the exit code of the signal."""
        self._save(job, state)
        at = state.position
        where = f"in epoch {at.epoch + 1} after step {at.step} of {job.per_epoch}"
        raise stopped(self._asked, where, str(self.folder.path))

    def _save(self, job: Job, state: TrainState, best: bool = False) -> None:
        if self.saves is not None:
            step = state.position.epoch * job.per_epoch + state.position.step
            self.saves.save(to_snapshot(state, job.identity), step, best)
