"""The tables of a training configuration: strict, frozen, each with its own limits."""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from rsc.errors import UsageError
from rsc.training.losses.adversarial import pixels


def within(config: Any, name: str, low: float, high: float = math.inf, *, open_above: bool = False) -> None:
    """Refuse a field out of [low, high], of [low, high) if `open_above`, or not finite (UsageError)."""
    value = getattr(config, name)
    if not (math.isfinite(value) and (low <= value < high if open_above else low <= value <= high)):
        limit = (
            f"finite and at least {low}"
            if high == math.inf
            else f"from {low} to {'below ' * open_above}{high}"
        )
        raise UsageError(f"{name} is {value}.", f"It must be {limit}.", "Correct the config.")


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
        for beta in self.betas:
            if not 0 <= beta < 1:
                raise UsageError(f"betas are {self.betas}.", "Each lies in [0, 1).", "Correct the config.")
        if self.nesterov and not (self.kind == "sgd" and self.momentum > 0):
            raise UsageError(
                f"nesterov is set for '{self.kind}' with momentum {self.momentum}.",
                "It is a form of the momentum of SGD.",
                "Use kind = 'sgd' with a momentum above 0, or drop it.",
            )
        within(self, "ema", 0, 1, open_above=True)
        within(self, "momentum", 0, 1, open_above=True)
        within(self, "clip_norm", 0)
        within(self, "accumulate", 1)


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
        within(self, "warmup", 0)
        within(self, "final", 0, 1)
        if (self.kind == "onecycle" and self.warmup) or (self.kind != "cosine" and self.final):
            raise UsageError(
                f"schedule '{self.kind}' has warmup {self.warmup} and final {self.final}.",
                "onecycle rises and falls as it does, and only the cosine ends at `final`.",
                "Use kind = 'cosine', or leave them out.",
            )


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
        within(self, "crop", 0)
        within(self, "cutout", 0)


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
        within(self, "fraction", 0, 1, open_above=True)
        within(self, "draws", 1)
        within(self, "every", 1)
        within(self, "patience", 0)


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
        within(self, "every", 0)
        for name in ("images", "steps", "eot", "draws"):
            within(self, name, 1)


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
        within(self, "every_epochs", 1)
        within(self, "every_steps", 0)
        within(self, "keep", 1)


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
        within(self, "bits", 2, 9)
        within(self, "epochs", 1)
        within(self, "lr", 0)
