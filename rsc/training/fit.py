"""The training loop: AdamW, one cycle, cross-entropy on the logits averaged over time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from rsc.coding import draw_noise, encode_torch
from rsc.data import Dataset
from rsc.errors import RscError
from rsc.networks import SpikingSequential, build
from rsc.program import EncoderSpec
from rsc.training.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class EpochStats:
    """One line of the training log; `rate` is images per second."""

    epoch: int
    epochs: int
    loss: float
    accuracy: float
    rate: float


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained network (in eval mode), the encoder it was trained with, and its log."""

    network: SpikingSequential
    encoder: EncoderSpec
    history: tuple[EpochStats, ...]
    wall_s: float


def fit(
    config: TrainConfig, data: Dataset, on_epoch: Callable[[EpochStats], None] = lambda stats: None
) -> Trained:
    """Train a network on one split.

    Args:
        config: what to train and how; everything random follows from `config.seed`.
        data: the training split.
        on_epoch: called after every epoch.

    Raises:
        RscError: the loss stopped being finite.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads or before)
    try:
        return _fit(config, data, on_epoch)
    finally:
        torch.set_num_threads(before)


def _fit(config: TrainConfig, data: Dataset, on_epoch: Callable[[EpochStats], None]) -> Trained:
    start = time.perf_counter()
    encoder = config.encoder.spec((float(data.images.mean()),), (float(data.images.std()),))
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        network = build(config.network, data.images.shape[1:], len(data.labels))
    images, targets = torch.from_numpy(data.images), torch.from_numpy(data.targets)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    per_epoch = -(-len(data) // config.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.lr, total_steps=config.epochs * per_epoch, cycle_momentum=False
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    history = []
    network.train()
    for epoch in range(config.epochs):
        began, loss_sum, hits = time.perf_counter(), 0.0, 0
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
        for batch in _batches(len(data), config.batch_size, config.seed, epoch):
            x, y = images[batch], targets[batch]
            logits = network(encode_torch(encoder, x, draw_noise(encoder, x, generator))).mean(0)
            loss = criterion(logits, y)
            _require_finite(loss, epoch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            loss_sum += loss.item() * len(y)
            hits += int((logits.argmax(1) == y).sum())
        rate = len(data) / (time.perf_counter() - began)
        history.append(EpochStats(epoch + 1, config.epochs, loss_sum / len(data), hits / len(data), rate))
        on_epoch(history[-1])
    return Trained(network.eval(), encoder, tuple(history), time.perf_counter() - start)


def _batches(n: int, size: int, seed: int, epoch: int) -> Iterator[Tensor]:
    """Index batches of one epoch; their order depends on (seed, epoch) alone."""
    order = torch.from_numpy(np.random.Generator(np.random.PCG64([seed, epoch])).permutation(n))
    yield from order.split(size)


def _require_finite(loss: Tensor, epoch: int) -> None:
    if not torch.isfinite(loss):
        raise RscError(
            f"Training stopped in epoch {epoch + 1}.",
            f"The loss is {loss.item()}.",
            "Lower the learning rate.",
        )
