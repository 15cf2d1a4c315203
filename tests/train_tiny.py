"""A training problem of milliseconds, and what is asked of its runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from rsc.data import Dataset
from rsc.networks import NetworkSpec
from rsc.training import EncoderConfig, EpochStats, RunFolder, TrainConfig, Trained, fit
from rsc.training.config import CheckpointConfig, OptimiserConfig, ScheduleConfig, ValidationConfig

CONFIG = TrainConfig(
    network=NetworkSpec("mlp", (6,)),
    encoder=EncoderConfig("rsc2", 2, 0.2),
    epochs=4,
    batch_size=8,
    optimiser=OptimiserConfig(ema=0.9, decay="weights", clip_norm=1.0),
    schedule=ScheduleConfig("cosine", warmup=0.5),
    validation=ValidationConfig(0.25, draws=2),
    checkpoint=CheckpointConfig(every_steps=2, keep=2),
)


def images(n: int = 32, side: int = 4, classes: int = 3) -> Dataset:
    """Blobs of three classes."""
    rng = np.random.default_rng(7)
    targets = rng.integers(0, classes, n)
    centres = rng.random((classes, 1, side, side))
    pixels = np.clip(centres[targets] + 0.2 * rng.standard_normal((n, 1, side, side)), 0, 1)
    ids, labels = np.arange(n) + 100, tuple("abc"[:classes])
    return Dataset("blobs", "train", pixels.astype(np.float32), targets, ids, (0.0, 1.0), labels)


def changed(config: TrainConfig = CONFIG, **changes: Any) -> TrainConfig:
    """The config with other values."""
    return msgspec.structs.replace(config, **changes)


def run(out: Path, config: TrainConfig = CONFIG, resume: bool = True, **options: Any) -> Trained:
    """Train the tiny problem in a folder."""
    return fit(config, images(), run=RunFolder(out, resume), **options)


def lasting(stats: EpochStats) -> dict[str, Any]:
    """What does not depend on the clock."""
    plain = msgspec.to_builtins(stats)
    return {k: v for k, v in plain.items() if k not in ("rate", "seconds", "remaining_s")}


def logged(out: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, each of which must be whole."""
    lines = (out / "metrics.jsonl").read_bytes().splitlines()
    return [lasting(msgspec.json.decode(line, type=EpochStats)) for line in lines]


def bits(network: nn.Module) -> dict[str, bytes]:
    """Weights and buffers, bit for bit."""
    return {k: _bytes(v) for k, v in network.state_dict().items()}


def _bytes(value: Tensor) -> bytes:
    return value.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()


def require_same(out: Path, resumed: Trained, whole: Trained) -> None:
    """A run that was interrupted ends as the one that was not: weights, log, and the file of the log."""
    assert bits(resumed.network) == bits(whole.network)
    assert [lasting(s) for s in resumed.history] == [lasting(s) for s in whole.history]
    assert logged(out) == [lasting(s) for s in whole.history]
