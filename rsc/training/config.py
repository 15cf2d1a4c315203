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
from rsc.training.config_tables import (
    AugmentConfig,
    CheckpointConfig,
    OptimiserConfig,
    ProbeConfig,
    QatConfig,
    ScheduleConfig,
    ValidationConfig,
    within,
)
from rsc.training.event_frames import FRAMES, require_plain, require_trainable
from rsc.training.losses import CrossEntropy
from rsc.training.objective import ObjectiveConfig
from rsc.training.toml import to_toml

MOST_STEPS, MOST_THREADS, LONGEST_S = 1 << 16, 1 << 10, 1e7


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
        within(self, "steps", 1, MOST_STEPS)

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
        for name in ("epochs", "batch_size", "lr", "timeout_s", "dt"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise UsageError(
                    f"{name} is {value}.", "It must be positive and finite.", "Correct the config."
                )
        within(self, "timeout_s", 0, LONGEST_S)
        within(self, "weight_decay", 0)
        within(self, "workers", 0)
        within(self, "threads", 0, MOST_THREADS)
        within(self, "seed", 0, 1 << 40)
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
    except RecursionError as error:
        raise MalformedFile(
            f"Config '{path}' is not valid.", "It is nested too deeply.", "Compare it with examples/configs/."
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
