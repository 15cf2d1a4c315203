"""Train a network on a split: in memory, or as a run in a folder that outlives its process."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from rsc.data import Dataset
from rsc.networks import build
from rsc.training.checkpoint import Checkpoints, Snapshot
from rsc.training.config import TrainConfig
from rsc.training.distributed import world
from rsc.training.ema import averaged
from rsc.training.interrupts import Deferred
from rsc.training.job import Job, Probe, View, make_job
from rsc.training.keeper import FolderKeeper, Keeper
from rsc.training.loop import train
from rsc.training.memory import told_when_full
from rsc.training.metrics import EpochStats, summary_writer
from rsc.training.objective import ObjectiveContext, build_objective
from rsc.training.optimiser import make_optimiser
from rsc.training.progress import Watcher, nobody
from rsc.training.run_folder import RunFolder
from rsc.training.state import TrainState, restore

__all__ = ["EpochStats", "Probe", "Trained", "View", "fit"]


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained network (in eval mode, on the CPU), the encoder it was trained with, and its log.

    Fields:
        encoder: None if it was trained on ready-made frames.
        wall_s: seconds of all epochs, those before an interruption included.
        facts: what a record of the run should say beyond its config: which teacher taught it.
    """

    network: Any  # nn.Module; what `build` makes is a SpikingSequential, which fine-tuning asks for
    encoder: Any  # EncoderSpec | None; a union would ask every user of images for a cast
    history: tuple[EpochStats, ...]
    wall_s: float
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def fit(
    config: TrainConfig,
    data: Dataset,
    on_epoch: Callable[[EpochStats], None] = lambda stats: None,
    *,
    start: nn.Module | None = None,
    view: View | None = None,
    run: RunFolder | None = None,
    probe: Probe | None = None,
    watcher: Watcher = nobody,
    alone: bool = False,
) -> Trained:
    """Train a network on one split. Under torchrun all ranks call it and get the same network.

    Args:
        config: what to train and how; everything random follows from `config.seed`.
        data: the training split.
        on_epoch: called after every epoch, on rank 0.
        start: a network to train instead of a fresh one of `config.network`, any module that maps frames
            [T, B, ...] to outputs [T, B, K]; it is changed.
        view: parameters by name that take the place of the network's own in each forward pass, as functions
            of these (weights on a grid, say); called once per forward pass.
        run: where to keep checkpoints and log, and whether to go on from there. While it trains, Ctrl-C and
            SIGTERM end the run after the step at hand, saved.
        probe: measures robustness where the config asks for it.
        watcher: called after every step, and every step of a teacher's training, on rank 0.
        alone: train in this process only, also where torchrun has started several.

    Raises:
        RscError: the loss stopped being finite; another rank ended; there is not enough memory.
        UsageError: the config does not fit data or ranks.
        InputRefused, MalformedFile, StorageError: the run's folder cannot be used.
        Interrupted: a signal ended the run; it can be resumed.
    """
    if run is not None and config.tensorboard:
        summary_writer()
    with world(config.device, config.timeout_s, alone) as ranks, _surroundings(config), told_when_full():
        job = make_job(config, data, ranks, view, probe)
        state, network = _fresh(job, start, watcher if ranks.first else nobody)
        if run is None:
            train(job, state, Keeper(), on_epoch, watcher)
        else:
            with Deferred(insist=ranks.size == 1) as deferred, contextlib.closing(run):
                saves = run.open(config.checkpoint.keep) if ranks.first else None
                _resume(job, state, run, saves)
                train(job, state, FolderKeeper(run, saves, deferred), on_epoch, watcher)
        return _finished(job, state, network)


@contextlib.contextmanager
def _surroundings(config: TrainConfig) -> Iterator[None]:
    """The run's number of threads; the global generator, which layers such as dropout use, is put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads or before)
    try:
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if config.device == "cuda" else []):
            yield
    finally:
        torch.set_num_threads(before)


def _fresh(job: Job, start: nn.Module | None, watcher: Watcher) -> tuple[TrainState, nn.Module]:
    """A state before the first step, and the network that the weights end in."""
    config, device = job.config, job.world.device
    torch.manual_seed(config.seed)
    network = start
    if network is None:
        network = build(config.network, job.train.frame_shape, len(job.train.labels))
    trained: nn.Module = network.to(device)
    if job.world.size > 1 and device.type == "cuda":  # batch statistics over all ranks; CUDA only
        trained = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(network))
    if config.channels_last:
        trained = trained.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    context = ObjectiveContext(job.train, config.network, job.encoder, device, watcher)
    state = TrainState(
        trained,
        make_optimiser(config, trained),
        build_objective(config.minimised, context),
        torch.Generator(device),
        averaged(trained) if config.optimiser.ema else None,
    )
    return state, network


def _resume(job: Job, state: TrainState, run: RunFolder, saves: Checkpoints | None) -> None:
    """Go on from the newest checkpoint, which rank 0 reads for all; without one begin at the beginning."""
    data = job.world.share(saves.newest() if saves is not None else None)
    if data is not None:
        restore(state, Snapshot.from_bytes(data), job.identity)
    if saves is not None:
        run.start(job.config, state.history)


def _finished(job: Job, state: TrainState, network: nn.Module) -> Trained:
    weights = state.best if state.best else state.evaluated.state_dict()
    network.to(device="cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    network.load_state_dict({k: v.to("cpu") for k, v in weights.items()})
    history = tuple(state.history)
    wall_s = sum(stats.seconds for stats in history)
    return Trained(network.eval(), job.encoder, history, wall_s, state.objective.facts)
