"""Anything that predicts, as one function (images, noise keys) -> classes.

Two sources of noise: `keyed` gives the same frames on every target; `generated` uses the device's
generator, which is quicker for large Monte-Carlo counts on a GPU. Reports say which was used.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, Protocol, cast

import numpy as np
import torch

from rsc.coding import draw_noise, encode
from rsc.errors import InputRefused, UsageError
from rsc.hw_targets.base import DeployedModel
from rsc.program import EncoderSpec
from rsc.results import Keys, Probe
from rsc.robustness.model import StochasticModel, device_of, logits, stream_generator
from rsc.robustness.results import NoiseSource


class Predictor(Protocol):
    """Classes int64 [B] of images [B, ...] under noise keys."""

    def __call__(self, x: np.ndarray, keys: Keys) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Keyed:
    """Predictions of a deployed or differentiable model under keyed noise."""

    model: DeployedModel | StochasticModel
    source: NoiseSource = "keyed"

    def __call__(self, x: np.ndarray, keys: Keys) -> np.ndarray:
        """Classes int64 [B]."""
        if isinstance(self.model, DeployedModel):
            return self.model.run(x, keys, Probe(counts=False)).predictions
        frames = torch.tensor(encode(self.model.encoder, x, keys), device=device_of(self.model))
        with torch.no_grad():
            return self.model.core(frames).argmax(1).cpu().numpy()


@dataclasses.dataclass(frozen=True, eq=False)
class Generated:
    """Predictions under the device's generator, seeded by the keys of the batch.

    The same keys in the same batch give the same noise; another batching gives other noise.
    """

    model: StochasticModel
    source: NoiseSource = "generator"

    def __call__(self, x: np.ndarray, keys: Keys) -> np.ndarray:
        """Classes int64 [B]."""
        images = torch.tensor(np.asarray(x, np.float32), device=device_of(self.model))
        draw = np.asarray(keys.draw, np.int64).tobytes()
        tag = int.from_bytes(hashlib.sha256(draw + keys.samples.tobytes()).digest()[:8], "little")
        generator = stream_generator(keys.seed, keys.stream, images.device, tag)
        with torch.no_grad():
            return (
                logits(self.model, images, draw_noise(self.model.encoder, images, generator))
                .argmax(1)
                .cpu()
                .numpy()
            )


def as_predictor(model: Any) -> Predictor:
    """A predictor from a deployed model, a differentiable model, or a function (x, keys) -> classes.

    Raises:
        UsageError: none of these.
    """
    if isinstance(model, DeployedModel | StochasticModel):
        return Keyed(model)
    if callable(model):
        return cast(Predictor, model)
    raise UsageError(
        f"A {type(model).__name__} cannot predict.", "Expected a deployed model or a function.", "Wrap it."
    )


def source_of(predict: Predictor) -> NoiseSource:
    """Where the predictor's noise comes from; a plain function is given keys."""
    return getattr(predict, "source", "keyed")


def name_of(predict: Predictor) -> str:
    """Name of the target behind a predictor; a differentiable model runs in torch."""
    model = getattr(predict, "model", predict)
    if isinstance(model, DeployedModel):
        return model.target
    return (
        "torch" if isinstance(model, StochasticModel) else str(getattr(model, "name", type(model).__name__))
    )


def encoder_of(predict: Predictor) -> EncoderSpec:
    """The encoder behind a predictor.

    Raises:
        UsageError: it is not known.
    """
    model = getattr(predict, "model", None)
    encoder = model.program.encoder if isinstance(model, DeployedModel) else getattr(model, "encoder", None)
    if encoder is None:
        raise UsageError(
            "The encoder is not known.", "A plain function does not tell it.", "Give it explicitly."
        )
    return encoder


def checked(classes: np.ndarray, batch: int) -> np.ndarray:
    """Predictions as int64 [B].

    Raises:
        InputRefused: wrong shape, or not class indices.
    """
    array = np.asarray(classes)
    if array.shape != (batch,) or array.dtype.kind not in "iu" or (batch and array.min() < 0):
        raise InputRefused(
            f"Predictions have shape {array.shape} and type {array.dtype}.",
            f"{batch} class indices were expected.",
            "Return the argmax of the logits.",
        )
    return array.astype(np.int64)
