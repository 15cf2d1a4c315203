"""What a training run is: a strict TOML file or the same values in Python."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import msgspec

from rsc.errors import MalformedFile, UsageError
from rsc.networks import NetworkSpec
from rsc.program import EncoderKind, EncoderSpec


class EncoderConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The encoder to train with; see EncoderSpec.

    Fields:
        kind, steps, sigma, clip: as in EncoderSpec.
        normalise: subtract the mean and divide by the standard deviation of the training images,
            after the noise.
    """

    kind: EncoderKind = "rsc2"
    steps: int = 8
    sigma: float = 0.5
    clip: tuple[float, float] | None = None
    normalise: bool = True

    def spec(self, mean: tuple[float, ...], std: tuple[float, ...]) -> EncoderSpec:
        """The EncoderSpec with the constants of a data set."""
        plain = EncoderSpec(self.kind, self.steps, self.sigma, self.clip)
        return msgspec.structs.replace(plain, mean=mean, std=std) if self.normalise else plain


class TrainConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One training run.

    Fields:
        dataset, data_root: see rsc.data.
        epochs, batch_size, lr, weight_decay: AdamW with a one-cycle schedule up to `lr`.
        label_smoothing: of the cross-entropy on the time-averaged logits.
        dt: seconds per step written into the exported program.
        threads: CPU threads of torch, 0 leaves them as they are.
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

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "lr"):
            if not getattr(self, name) > 0:
                raise UsageError(
                    f"{name} is {getattr(self, name)}.", "It must be positive.", "Correct the config."
                )
        EncoderSpec(self.encoder.kind, self.encoder.steps, self.encoder.sigma, self.encoder.clip)


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
        raise MalformedFile(f"Config '{path}' is not valid.", str(error), _suggestion(str(error))) from error


def _suggestion(message: str) -> str:
    unknown = re.search(r"unknown field `(\w+)`", message)
    if unknown is None:
        return "Compare it with examples/configs/."
    known = {
        *TrainConfig.__struct_fields__,
        *EncoderConfig.__struct_fields__,
        *NetworkSpec.__struct_fields__,
    }
    near = difflib.get_close_matches(unknown[1], sorted(known), 1)
    return f"Did you mean '{near[0]}'?" if near else f"Known keys: {', '.join(sorted(known))}."
