"""The verb `rsc train`."""

# pyright: reportInvalidTypeForm=false
# (verbs have parameters called `json`, as their options are)

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from rsc.console import emit, progress, show

if TYPE_CHECKING:
    from rsc.training import EpochStats, TrainConfig
    from rsc.training.progress import Progress

LOG_EVERY_S, SHOW_EVERY_S = 30.0, 0.5  # between two looks inside an epoch: in a log, on a terminal


def train(
    config: Annotated[Positional[Path], arg(metavar="CONFIG")],
    out: Path,
    resume: bool = False,
    data_root: Path | None = None,
    qat: Literal["loihi"] | None = None,
    synops_weight: float = 0.0,
    interval_eps: str | None = None,
    json: bool = False,
) -> None:
    """Train a network from a TOML file and write a bundle; Ctrl-C saves the run, --resume goes on with it.

    Args:
        config: see examples/configs/ and docs/training.md.
        out: folder of the run, at the end a bundle, too: settings, log, checkpoints.
        resume: go on from the newest checkpoint in OUT; start there if it has none.
        data_root: folder of data sets that are not embedded.
        qat: fine-tune on the grid of this target's integers afterwards; [qat] of the config says how.
        synops_weight: weight of a loss on the share of all synaptic operations that spikes cause.
        interval_eps: half of the loss asks for the margin on a whole L_inf box of this radius, e.g. 8/255.
        json: print the measured figures as JSON.
    """
    import msgspec

    from rsc import pipeline
    from rsc.training import RunFolder, read_config
    from rsc.training.deployed import require_deployable
    from rsc.training.distributed import is_first

    settings = read_config(config)
    if data_root is not None:
        settings = msgspec.structs.replace(settings, data_root=str(data_root))
    if qat is not None:
        settings = msgspec.structs.replace(settings, qat=msgspec.structs.replace(settings.qat, target=qat))
    settings = _with_terms(settings, synops_weight, interval_eps)
    run = RunFolder(out, resume)
    if is_first():
        run.require_usable()
    with progress() as listener:
        if is_first():
            listener.stage(f"training {config.stem}")
        splits = pipeline.load_splits(settings)
        require_deployable(settings, splits[0])
        watcher = _Watcher(listener)
        trained = pipeline.train_network(settings, splits[0], watcher.epoch, run, watcher.step)
        if not is_first():
            return
        packed = pipeline.pack(trained, settings, config.stem, splits)
        bundle = pipeline.to_bundle(packed, settings, config.stem)
        pipeline.save_run(bundle, out)
    if json:
        emit(bundle.metrics)
    else:
        clean = packed.clean.per_run
        show(
            f"{config.stem}: clean accuracy {clean.value:.3f} "
            f"[{clean.interval.low:.3f}, {clean.interval.high:.3f}] per run, {clean.n} images. Bundle: {out}"
        )


def _with_terms(settings: TrainConfig, synops_weight: float, interval_eps: str | None) -> TrainConfig:
    """The settings with the loss terms that were asked for in words; the others share what is left."""
    import msgspec

    from rsc.training.losses import Interval, SpikeRate

    goal = settings.minimised
    terms = goal.terms
    if interval_eps is not None:
        halved = (msgspec.structs.replace(term, weight=term.weight / 2) for term in terms)
        terms = (*halved, Interval(weight=0.5, eps=interval_eps))
    if synops_weight:
        terms = (*terms, SpikeRate(weight=synops_weight))
    if terms == goal.terms:
        return settings
    goal = msgspec.structs.replace(goal, terms=terms)
    return msgspec.structs.replace(settings, objective=goal, label_smoothing=0.0)


class _Watcher:
    """Where training stands: beside the bar on a terminal; in a log a line per epoch, more in long ones."""

    def __init__(self, listener: Any) -> None:
        self.listener, self.bars = listener, getattr(listener, "bars", None)
        self.told = time.monotonic()

    def epoch(self, stats: EpochStats) -> None:
        """An epoch is over."""
        self.listener.advance(stats.epoch, stats.epochs)
        self._tell(epoch_line(stats))

    def step(self, progress: Progress) -> None:
        """A step is done."""
        pause = LOG_EVERY_S if self.bars is None else SHOW_EVERY_S
        if time.monotonic() - self.told >= pause:
            self._tell(step_line(progress))

    def _tell(self, line: str) -> None:
        self.told = time.monotonic()
        if self.bars is None:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
        else:
            self.bars.update(self.listener.task, description=line)


def step_line(progress: Progress) -> str:
    """A look inside an epoch in one line."""
    teacher = "teacher " if progress.what == "teacher" else ""
    return (
        f"{teacher}epoch {progress.epoch}/{progress.epochs}  step {progress.step}/{progress.steps}  "
        f"loss {progress.loss:.4f}  {progress.rate:.0f} images/s  {_duration(progress.remaining_s)} left"
    )


def epoch_line(stats: EpochStats) -> str:
    """An epoch in one line."""
    parts = [
        f"epoch {stats.epoch}/{stats.epochs}",
        f"loss {stats.loss:.4f}",
        f"accuracy {stats.accuracy:.3f}",
    ]
    if stats.validation:
        parts.append(f"validation {stats.validation['vote']:.3f}")
    parts += [f"{name} {value:.3f}" for name, value in stats.robustness.items() if name != "clean"]
    return "  ".join([*parts, f"{stats.rate:.0f} images/s", f"{_duration(stats.remaining_s)} left"])


def _duration(seconds: float) -> str:
    """Time as people say it."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{whole} s"
