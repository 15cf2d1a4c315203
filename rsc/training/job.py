"""What stays the same during a run: settings, samples, who computes, where batches come from."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from rsc.coding import keyed_noise
from rsc.data import Batch, Dataset, LazyImages
from rsc.data import batches as read_ahead
from rsc.errors import RscError, UsageError
from rsc.program import EncoderSpec
from rsc.results import Keys
from rsc.training.augment import augment
from rsc.training.config import TrainConfig
from rsc.training.distributed import World
from rsc.training.event_frames import require_fit
from rsc.training.order import batches, held_out, part, require_even

if TYPE_CHECKING:
    from rsc.training.validate import Forward

View = Callable[[nn.Module], Mapping[str, Tensor]]
CONSTANTS_FROM = 1 << 14  # images decoded on demand that mean and deviation are taken of
Probe = Callable[["Forward", EncoderSpec, Dataset, torch.device], Mapping[str, float]]
"""(network in eval mode, encoder, held-out images, device) -> figures by name"""


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """A run's fixed part.

    Fields:
        train, held: samples to train on, and those held out (None without validation).
        encoder: None if the samples are frames.
        view: see `fit`.
        probe: measures robustness, on rank 0.
    """

    config: TrainConfig
    train: Dataset
    held: Dataset | None
    encoder: EncoderSpec | None
    world: World = dataclasses.field(default_factory=World)
    view: View | None = None
    probe: Probe | None = None

    @property
    def per_epoch(self) -> int:
        """Optimiser steps of an epoch."""
        return -(-len(self.train) // self.config.batch_size)

    @property
    def total(self) -> int:
        """Optimiser steps of the run."""
        return self.config.epochs * self.per_epoch

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to be continued, as JSON gives it back."""
        plain = msgspec.to_builtins(self.config)
        free = (
            "data_root",
            "threads",
            "workers",
            "device",
            "tensorboard",
            "timeout_s",
            "checkpoint",
            "qat",
            "dt",
        )
        settings = {k: v for k, v in plain.items() if k not in free}
        data = {"name": self.train.name, "split": self.train.split, "images": len(self.train)}
        return msgspec.json.decode(msgspec.json.encode({"config": settings, "data": data}))

    def steps(self, epoch: int, done: int) -> Iterator[list[tuple[Batch, int, int]]]:
        """What this rank computes in the steps of an epoch after the first `done`.

        Each step is a list of passes (rows, where they begin in the whole batch, size of the whole batch),
        empty where a last small batch leaves nothing for this rank.
        """
        passes, world = self.config.optimiser.accumulate, self.world
        parts = world.size * passes
        whole = batches(np.arange(len(self.train)), self.config.batch_size, self.config.seed, epoch)[done:]
        rows = [[part(len(b), world.rank * passes + k, parts) for k in range(passes)] for b in whole]
        wanted = [b[r] for b, own in zip(whole, rows, strict=True) for r in own if r.stop > r.start]
        source = read_ahead(self.train, wanted, self.config.workers)
        for batch, own in zip(whole, rows, strict=True):
            yield [(next(source), r.start, len(batch)) for r in own if r.stop > r.start]

    def images(self, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """Augmented images, or frames [B, T, ...], and labels on the device."""
        blank, change = self.train.bounds[0], self.config.augment
        if self.encoder is not None and self.config.encoder.normalise:
            blank = float(np.mean(self.encoder.mean))
        return self._placed(
            augment(change, batch.images, batch.ids, self.config.seed, epoch, blank), batch.targets
        )

    def held_images(self, positions: np.ndarray) -> tuple[Tensor, Tensor]:
        """Held-out images, or frames [B, T, ...], and labels on the device."""
        if self.held is None:
            raise UsageError("No images are held out.", "validation.fraction is 0.", "Raise it.")
        return self._placed(self.held.images[positions], self.held.targets[positions])

    def forward(self, network: nn.Module) -> Forward:
        """The network with its view, as evaluation calls it."""
        view = self.view
        if view is None:
            return network
        return lambda frames: functional_call(network, dict(view(network)), (frames,))

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision of forward passes."""
        if self.config.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.world.device.type, torch.bfloat16)

    def _placed(self, images: np.ndarray, targets: np.ndarray) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(np.ascontiguousarray(images, np.float32)).to(self.world.device)
        if self.config.channels_last and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return x, torch.from_numpy(np.ascontiguousarray(targets)).to(self.world.device)


def make_job(
    config: TrainConfig, data: Dataset, world: World, view: View | None = None, probe: Probe | None = None
) -> Job:
    """Hold out the validation images and take the constants of the encoder from the rest.

    Raises:
        UsageError: a batch that cannot be shared out; no images left; images where frames were said, or the
            other way round; changes to images that leave nothing of them; noise that cannot be drawn.
    """
    require_fit(config, data)
    if not len(data):
        raise UsageError(f"'{data.name}' has no images.", "There is nothing to learn.", "Choose another.")
    _require_something_left(config, data.frame_shape)
    require_even(config.batch_size, world.size, config.optimiser.accumulate)
    if config.robustness.every and probe is None:
        raise RscError(
            "robustness.every is set, but nothing measures it.",
            "rsc.training may not import the attacks.",
            "Use rsc.pipeline.train or `rsc train`, or give fit a probe.",
        )
    chosen, rest = held_out(len(data), config.validation.fraction, config.seed)
    train, held = (subset(data, chosen), subset(data, rest)) if len(rest) else (data, None)
    encoder = None if config.encoder.frames else config.encoder.spec(*constants(train))
    if encoder is not None:  # the noise that targets draw; better refused now than after the training
        keyed_noise(encoder, Keys(config.seed, data.ids[:1]), data.frame_shape)
    return Job(config, train, held, encoder, world, view, probe)


def subset(data: Dataset, positions: np.ndarray) -> Dataset:
    """Some samples of a split; nothing is decoded."""
    images = data.images.take(positions) if isinstance(data.images, LazyImages) else data.images[positions]
    return dataclasses.replace(data, images=images, targets=data.targets[positions], ids=data.ids[positions])


def _require_something_left(config: TrainConfig, shape: tuple[int, ...]) -> None:
    """Refuse a crop or cutout larger than the images of a set [C, H, W]."""
    for name in ("crop", "cutout"):
        size = getattr(config.augment, name)
        if size > min(shape[-2:]):
            raise UsageError(
                f"augment.{name} is {size}.",
                f"The images have {shape[-2]} x {shape[-1]} pixels; nothing of them would be left.",
                "Use a smaller one.",
            )


def constants(data: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation: of each channel, or of all pixels of grey images in memory.

    Of images that are decoded on demand 2^14 are looked at, evenly spread: all would take hours, at every
    start of a run, to change the third digit.
    """
    if isinstance(data.images, LazyImages) and len(data) > CONSTANTS_FROM:
        data = subset(data, np.linspace(0, len(data) - 1, CONSTANTS_FROM).astype(np.int64))
    if isinstance(data.images, np.ndarray) and data.images.shape[1] == 1:
        return (float(data.images.mean()),), (float(data.images.std()),)
    return data.mean_std()
