"""How a teacher is trained: AdamW, one cycle, cross-entropy; from where an interrupted training stood.

A plain loop of its own: no objective, no communication between processes, so any process of a distributed
run can make the teacher. All that is random follows from the configuration.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from rsc.coding import draw_noise, encode_torch
from rsc.data import Dataset
from rsc.encoder_spec import EncoderSpec
from rsc.errors import MalformedFile, RscError
from rsc.files import write_atomic
from rsc.networks import NetworkSpec, build
from rsc.training.checkpoint import Snapshot
from rsc.training.config_tables import ScheduleConfig
from rsc.training.optimiser import moments, set_learning_rate, set_moments
from rsc.training.progress import Progress, Watcher, nobody, progress_of
from rsc.training.schedule import learning_rate

if TYPE_CHECKING:
    from rsc.training.teacher import TeacherConfig

SAVE_EVERY_S = 30.0
_MOMENTS = "optimiser"


def train_teacher(
    config: TeacherConfig,
    data: Dataset,
    twin: NetworkSpec,
    encoder: EncoderSpec,
    device: torch.device | str = "cpu",
    unfinished: Path | None = None,
    watcher: Watcher = nobody,
) -> tuple[nn.Module, float]:
    """A trained ReLU network and its accuracy on the images of its last epoch.

    Args:
        unfinished: file that keeps the state of the training, twice a minute; it goes on from there, bit for
            bit on the CPU. None keeps nothing.
        watcher: told after every step.

    Raises:
        RscError: the loss stopped being finite.
        StorageError: the state cannot be written.
    """
    training = _Training(config, fresh(twin, data, config.seed), device, len(data))
    training.go_on(unfinished)
    began = saved = time.perf_counter()
    while training.epoch < config.epochs:
        for x, y in _batches(data, config, training.epoch, training.step, device):
            training.update(_frames(config, encoder, x, training.generator), y)
            now = time.perf_counter()
            watcher(training.progress(now - began))
            if unfinished is not None and now - saved >= SAVE_EVERY_S:
                training.save(unfinished)
                saved = now
        training.next_epoch()
    return training.network.eval(), training.accuracy


class _Training:
    """A teacher between two steps."""

    def __init__(self, config: TeacherConfig, network: nn.Module, device: torch.device | str, n: int) -> None:
        self.config, self.n = config, n
        self.network = network.to(device).train()
        self.optimiser: Optimizer = torch.optim.AdamW(
            network.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.generator = torch.Generator(device).manual_seed(config.seed)
        self.per_epoch = -(-n // config.batch_size)
        self.epoch, self.step, self.hits, self.loss_sum, self.accuracy = 0, 0, 0, 0.0, 0.0
        self.seen_before = 0  # images that another process met

    def update(self, frames: Tensor, y: Tensor) -> None:
        """One optimiser step."""
        config, done = self.config, self.epoch * self.per_epoch + self.step
        total = config.epochs * self.per_epoch
        set_learning_rate(
            self.optimiser, learning_rate(ScheduleConfig(), config.lr, done, total, self.per_epoch)
        )
        logits = self.network(frames).mean(0)
        loss = F.cross_entropy(logits, y, label_smoothing=config.label_smoothing)
        if not torch.isfinite(loss):
            raise RscError(
                f"Training the teacher stopped in epoch {self.epoch + 1}.",
                f"The loss is {loss.item()}.",
                "Lower teacher.lr.",
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.step += 1
        self.hits += int((logits.argmax(1) == y).sum())
        self.loss_sum += loss.item() * len(y)

    def next_epoch(self) -> None:
        """An epoch is over."""
        self.accuracy = self.hits / self.n
        self.epoch, self.step, self.hits, self.loss_sum = self.epoch + 1, 0, 0, 0.0

    def progress(self, seconds: float) -> Progress:
        """What it looks like after `seconds` of this process."""
        seen = min(self.step * self.config.batch_size, self.n)
        done, whole = (self.epoch, self.step), (self.config.epochs, self.per_epoch)
        share = seen / max(1, self.epoch * self.n + seen - self.seen_before)
        return progress_of("teacher", done, whole, seen, self.n, self.loss_sum, seconds * share)

    def save(self, file: Path) -> None:
        """Write all of it into a file."""
        tensors = {f"network/{k}": v for k, v in self.network.state_dict().items()}
        tensors["noise"] = self.generator.get_state()
        for index, entry in moments(self.optimiser).items():
            tensors |= {f"{_MOMENTS}/{index}/{name}": value for name, value in entry.items()}
        facts = {"epoch": self.epoch, "step": self.step, "hits": self.hits, "loss_sum": self.loss_sum}
        write_atomic(file, Snapshot(tensors, facts | {"accuracy": self.accuracy}).to_bytes())

    def go_on(self, file: Path | None) -> None:
        """Take up what `save` wrote; a damaged file counts as none."""
        if file is None or not file.exists():
            return
        try:
            snapshot = Snapshot.from_bytes(file.read_bytes())
        except (OSError, MalformedFile):
            return
        entries: dict[str, dict[str, Tensor]] = {}
        state = {}
        for name, value in snapshot.tensors.items():
            kind, _, rest = name.partition("/")
            if kind == _MOMENTS:
                index, _, key = rest.partition("/")
                entries.setdefault(index, {})[key] = value
            elif kind == "network":
                state[rest] = value
        self.network.load_state_dict(state)
        set_moments(self.optimiser, entries)
        self.generator.set_state(snapshot.tensors["noise"])
        for name, value in snapshot.facts.items():
            setattr(self, name, value)
        self.seen_before = self.epoch * self.n + min(self.step * self.config.batch_size, self.n)


def fresh(twin: NetworkSpec, data: Dataset, seed: int) -> nn.Module:
    """The network before its first step; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(twin, data.images.shape[1:], len(data.labels))


def quiet_frames(encoder: EncoderSpec, x: Tensor) -> Tensor:
    """One frame [1, B, ...] of images: clipped and normalised as the student's, without noise."""
    return encode_torch(encoder, x, None)[:1]


def _frames(config: TeacherConfig, encoder: EncoderSpec, x: Tensor, generator: torch.Generator) -> Tensor:
    if config.sees == "clean":
        return quiet_frames(encoder, x)
    return encode_torch(encoder, x, draw_noise(encoder, x, generator))


def _batches(
    data: Dataset, config: TeacherConfig, epoch: int, done: int, device: torch.device | str
) -> Iterator[tuple[Tensor, Tensor]]:
    order = np.random.Generator(np.random.PCG64([config.seed, epoch])).permutation(len(data))
    for start in range(done * config.batch_size, len(order), config.batch_size):
        rows = order[start : start + config.batch_size]
        yield (
            torch.from_numpy(data.images[rows]).to(device),
            torch.from_numpy(data.targets[rows]).to(device),
        )
