"""Samples that are frames already: how they enter a network, and what of a training needs images instead.

Event frames are counts over T steps (`rsc.data.frames`). No encoder stands before the network, so its program
has none either, and whatever perturbs, boxes or encodes images has nothing to work on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rsc.coding import draw_noise, encode_torch
from rsc.encoder_spec import EncoderSpec
from rsc.errors import UsageError

if TYPE_CHECKING:
    from rsc.data import Dataset
    from rsc.training.config import EncoderConfig, TrainConfig

FRAMES = "frames"
_IMAGE_NEEDS = {
    "image gradient": "differentiates by the pixels of an image",
    "image box": "bounds the pixels of an image",
    "teacher": "asks an ANN of images",
}


def frames_of(encoder: EncoderSpec | None, x: Tensor, generator: torch.Generator) -> Tensor:
    """Frames [T, B, ...] of images [B, ...] under noise of the generator, or of frames [B, T, ...]."""
    if encoder is None:
        return x.transpose(0, 1)
    return encode_torch(encoder, x, draw_noise(encoder, x, generator))


def require_plain(encoder: EncoderConfig) -> None:
    """Refuse settings of an encoder where there is none.

    Raises:
        UsageError: some field but `kind` and `steps` says something; or T < 1.
    """
    plain = {"sigma": 0.0, "clip": None, "normalise": False, "step_sigma": (), "shared": False, "grid": None}
    plain |= {"order": ("noise", "clip", "normalise"), "bits": 32}
    given = [f"{name} = {getattr(encoder, name)}" for name in plain if getattr(encoder, name) != plain[name]]
    if given:
        raise UsageError(
            f"Encoder kind 'frames' was given {', '.join(given).lower()}.",
            "Frames enter the network as they are.",
            "Write sigma = 0.0 and normalise = false, and leave the others out.",
        )
    if encoder.steps < 1:
        raise UsageError(f"steps (T) is {encoder.steps}.", "A sample has at least one frame.", "Use T >= 1.")


def require_trainable(config: TrainConfig) -> None:
    """Refuse what needs images.

    Raises:
        UsageError: attacks, noise on pixels, boxes around images, or a teacher.
    """
    for what, why in _of_images(config):
        raise UsageError(
            f"{what} cannot be used with encoder kind 'frames'.",
            f"It {why}; the samples are counts of events.",
            "Drop it, or train on a set of images.",
        )


def _of_images(config: TrainConfig) -> Iterator[tuple[str, str]]:
    """What of a config needs images, and why."""
    if config.robustness.every:
        yield "[robustness]", "moves the pixels of an image"
    for term in config.minimised.terms:
        for kind in term.inputs:
            if kind != "clean":
                yield f"The term {term.label}", f"looks at {kind} images, made by moving pixels"
        for need in sorted(term.needs & _IMAGE_NEEDS.keys()):
            yield f"The term {term.label}", _IMAGE_NEEDS[need]


def require_fit(config: TrainConfig, data: Dataset) -> None:
    """Refuse a set whose samples are not what the config says.

    Raises:
        UsageError: images without an encoder, event frames with one, or frames over another T.
    """
    encoder = config.encoder
    if data.frames and not encoder.frames:
        raise UsageError(
            f"'{data.name}' holds event frames.",
            f"Encoder kind '{encoder.kind}' makes frames of images.",
            "Set kind = 'frames', sigma = 0.0 and normalise = false in [encoder].",
        )
    if encoder.frames and not data.frames:
        raise UsageError(
            f"'{data.name}' holds images.",
            "Encoder kind 'frames' feeds samples that are frames already.",
            "Choose an encoder, e.g. kind = 'rsc2', or a set of events.",
        )
    if encoder.frames and data.images.shape[1] != encoder.steps:
        raise UsageError(
            f"The samples of '{data.name}' have {data.images.shape[1]} frames.",
            f"encoder.steps is {encoder.steps}.",
            "Load them with these steps, or change encoder.steps.",
        )
