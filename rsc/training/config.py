"""What a training run is: a strict TOML file or the same values in Python."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from rsc.errors import MalformedFile, UsageError
from rsc.networks import NetworkSpec
from rsc.program import EncoderKind, EncoderSpec, Stage
from rsc.training.config_keys import suggestion
from rsc.training.event_frames import FRAMES, require_plain, require_trainable
from rsc.training.losses import CrossEntropy
from rsc.training.losses.adversarial import pixels
from rsc.training.objective import ObjectiveConfig
from rsc.training.toml import to_toml


def _within(config: Any, name: str, low: float, high: float = math.inf, *, open_above: bool = False) -> None:
    value = getattr(config, name)
    if not (low <= value < high if open_above else low <= value <= high):
        limit = f"at least {low}" if high == math.inf else f"from {low} to {'below ' * open_above}{high}"
        raise UsageError(f"{name} is {value}.", f"It must be {limit}.", "Correct the config.")


class EncoderConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The encoder to train with; see EncoderSpec.

    Fields:
        kind: as in EncoderSpec; or "frames": there is none, the samples are event frames over `steps` steps
            and enter the network as they are.
        steps, sigma, clip, order, step_sigma, shared, bits, grid: as in EncoderSpec.
        normalise: subtract the mean and divide by the standard deviation of the training images, at its
            place in the order. Coins behind it ("signed") need a clip to [-1, 1] between.
    """

    kind: EncoderKind | Literal["frames"] = "rsc2"
    steps: int = 8
    sigma: float = 0.5
    clip: tuple[float, float] | None = None
    normalise: bool = True
    order: tuple[Stage, Stage, Stage] = ("noise", "clip", "normalise")
    step_sigma: tuple[float, ...] = ()
    shared: bool = False
    bits: int = 32
    grid: int | None = None

    @property
    def frames(self) -> bool:
        """Whether nothing is encoded: the samples are frames already."""
        return self.kind == FRAMES

    def check(self) -> None:
        """Refuse fields that do not fit one another (UsageError)."""
        if self.frames:
            require_plain(self)
        else:
            self.spec()

    def spec(self, mean: tuple[float, ...] = (0.0,), std: tuple[float, ...] = (1.0,)) -> EncoderSpec:
        """The EncoderSpec with the constants of a data set.

        Raises:
            UsageError: the fields do not fit one another; or there is no encoder.
        """
        fields = {name: getattr(self, name) for name in self.__struct_fields__ if name != "normalise"}
        if not self.normalise:
            return EncoderSpec(**fields)
        if self.grid is not None:  # one step for all channels
            std = (float(np.sqrt(np.mean(np.square(std)))),) * len(std)
        return EncoderSpec(**fields, mean=mean, std=std)


class OptimiserConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a gradient becomes a step; learning rate and weight decay stand in TrainConfig.

    Fields:
        kind: "adamw" or "sgd".
        betas: of AdamW. momentum, nesterov: of SGD.
        decay: "all" parameters decay, or only "weights" (not norms, biases and neuron parameters).
        clip_norm: largest L2 norm of the gradient; 0 leaves it as it is.
        accumulate: passes that a batch is split into; gradient and noise are those of the whole batch.
        ema: share of the averaged weights kept per step, e.g. 0.999; 0 keeps no average. The average is
            what is validated and returned.
    """

    kind: Literal["adamw", "sgd"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    nesterov: bool = False
    decay: Literal["all", "weights"] = "all"
    clip_norm: float = 0.0
    accumulate: int = 1
    ema: float = 0.0

    def __post_init__(self) -> None:
        _within(self, "ema", 0, 1, open_above=True)
        _within(self, "momentum", 0, 1, open_above=True)
        _within(self, "clip_norm", 0)
        _within(self, "accumulate", 1)


class ScheduleConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The learning rate over a run; see rsc.training.schedule.

    Fields:
        kind: "onecycle", "cosine" or "constant".
        warmup: epochs (a fraction is fine) of linear rise, for cosine and constant.
        final: share of the learning rate that the cosine ends at.
    """

    kind: Literal["onecycle", "cosine", "constant"] = "onecycle"
    warmup: float = 0.0
    final: float = 0.0

    def __post_init__(self) -> None:
        _within(self, "warmup", 0)
        _within(self, "final", 0, 1)


class AugmentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Changes to training images; see rsc.training.augment.

    Fields:
        crop: pixels of padding on each side that a random crop of the old size is taken from.
        flip: mirror half of the images left to right.
        cutout: side of a square that is blanked.
    """

    crop: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        _within(self, "crop", 0)
        _within(self, "cutout", 0)


class ValidationConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Accuracy on a part of the training split that is not trained on.

    Fields:
        fraction: held out, chosen by the seed; 0 trains on everything.
        draws: K, noise draws that vote.
        every: epochs between two validations.
        patience: validations without a better vote before training stops; 0 never stops early.
        restore: return the network of the "best" validated epoch or of the "last".
    """

    fraction: float = 0.0
    draws: int = 5
    every: int = 1
    patience: int = 0
    restore: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        _within(self, "fraction", 0, 1, open_above=True)
        _within(self, "draws", 1)
        _within(self, "every", 1)
        _within(self, "patience", 0)


class ProbeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A cheap look at robustness while training: FGSM and PGD on a few validation images.

    Fields:
        every: epochs between two looks; 0 never looks.
        images: how many of the held-out images.
        eps: L-infinity radius in pixel units, e.g. "8/255".
        steps: of PGD.
        eot: noise draws per gradient. draws: fresh noise draws that score.
    """

    every: int = 0
    images: int = 128
    eps: str = "8/255"
    steps: int = 10
    eot: int = 4
    draws: int = 4

    def __post_init__(self) -> None:
        pixels(self.eps)
        _within(self, "every", 0)
        for name in ("images", "steps", "eot", "draws"):
            _within(self, name, 1)


class CheckpointConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When the state of a run is saved, and how many saves stay.

    Fields:
        every_epochs: epochs between two saves.
        every_steps: optimiser steps between two saves inside an epoch; 0 saves at its end only.
        keep: newest saves that stay, beside the best.
    """

    every_epochs: int = 1
    every_steps: int = 0
    keep: int = 3

    def __post_init__(self) -> None:
        _within(self, "every_epochs", 1)
        _within(self, "every_steps", 0)
        _within(self, "keep", 1)


class QatConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Fine-tuning on the grid of a chip's integers after the training; see rsc.training.qat.

    Fields:
        target: "loihi", or "" for none.
        bits: of the weights; mode: how scales are chosen, as in `rsc export --calibrate`.
        epochs: of fine-tuning; lr: its largest learning rate, 0 for a fifth of the training's.
    """

    target: Literal["", "loihi"] = ""
    bits: int = 8
    mode: Literal["max", "percentile", "mse", "agreement"] = "mse"
    epochs: int = 2
    lr: float = 0.0

    def __post_init__(self) -> None:
        _within(self, "bits", 2, 9)
        _within(self, "epochs", 1)
        _within(self, "lr", 0)


class TrainConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One training run.

    Fields:
        dataset, data_root: see rsc.data.
        size: pixels per side, for sets of image files and of events; None: what is usual for the set.
        epochs: passes over the training images.
        batch_size: images per optimiser step, over all ranks and accumulated passes.
        lr, weight_decay: the highest learning rate; decay as in AdamW or SGD.
        label_smoothing: of the cross-entropy on the time-averaged logits, where no objective is given.
        dt: seconds per step written into the exported program.
        threads: CPU threads of torch, 0 leaves them as they are.
        workers: threads that read images ahead; results do not depend on it.
        device: "cpu" or "cuda".
        precision: "bfloat16" runs the network under autocast; weights stay float32.
        channels_last: memory layout of convolutions; results differ in the last bits only.
        tensorboard: also write TensorBoard events.
        timeout_s: longest wait for another rank, in seconds.
        objective: what is minimised.
        qat: what follows the training.
    """

    dataset: str = "digits"
    data_root: str | None = None
    network: NetworkSpec = NetworkSpec()
    encoder: EncoderConfig = EncoderConfig()
    epochs: int = 40
    batch_size: int = 64
    lr: float = 5e-3
    weight_decay: float = 1e-3
    label_smoothing: float = 0.0
    seed: int = 0
    dt: float = 1e-3
    threads: int = 0
    workers: int = 0
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    tensorboard: bool = False
    timeout_s: float = 600.0
    objective: ObjectiveConfig = ObjectiveConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    augment: AugmentConfig = AugmentConfig()
    validation: ValidationConfig = ValidationConfig()
    robustness: ProbeConfig = ProbeConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    qat: QatConfig = QatConfig()
    size: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "lr", "timeout_s"):
            if not getattr(self, name) > 0:
                raise UsageError(
                    f"{name} is {getattr(self, name)}.", "It must be positive.", "Correct the config."
                )
        _within(self, "weight_decay", 0)
        _within(self, "workers", 0)
        _within(self, "seed", 0, 1 << 40)
        if self.robustness.every and not self.validation.fraction:
            raise UsageError(
                "[robustness] has no images to attack.",
                "It attacks held-out images, and validation.fraction is 0.",
                "Set validation.fraction, e.g. to 0.1.",
            )
        if self.label_smoothing and self.objective != ObjectiveConfig():
            raise UsageError(
                f"label_smoothing is {self.label_smoothing} beside an objective.",
                "Each term of an objective has its own.",
                "Set it in the terms.",
            )
        self.encoder.check()
        if self.encoder.frames:
            require_trainable(self)
        if self.network.norm == "step" and self.network.steps != self.encoder.steps:
            raise UsageError(
                f"network.steps is {self.network.steps}, encoder.steps is {self.encoder.steps}.",
                "Batch norm per step has statistics for every step of the encoder.",
                "Make them equal.",
            )

    @property
    def minimised(self) -> ObjectiveConfig:
        """The objective; without one, cross-entropy with `label_smoothing`."""
        if not self.label_smoothing:
            return self.objective
        return ObjectiveConfig(terms=(CrossEntropy(label_smoothing=self.label_smoothing),))


def read_config(path: str | Path) -> TrainConfig:
    """The config in a TOML file.

    Raises:
        MalformedFile: no such file, not TOML, an unknown key (the nearest name is suggested), a wrong type.
        UsageError: a value out of range.
    """
    try:
        return msgspec.toml.decode(Path(path).read_bytes(), type=TrainConfig)
    except OSError as error:
        raise MalformedFile(
            f"Config '{path}' cannot be read.", str(error.strerror), "Check the path."
        ) from error
    except (msgspec.DecodeError, ValueError) as error:
        if isinstance(error.__cause__, UsageError):  # a value out of range, found by the struct itself
            raise error.__cause__ from None
        fix = suggestion(str(error), TrainConfig)
        raise MalformedFile(f"Config '{path}' is not valid.", str(error), fix) from error


def resolved(config: TrainConfig) -> str:
    """The config as TOML with every default written out; `read_config` gives it back."""
    plain: dict[str, Any] = msgspec.to_builtins(config)
    return to_toml(plain)
