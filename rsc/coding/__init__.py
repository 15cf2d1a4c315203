"""Encoders: an image x and a noise key become T input frames.

Two paths side by side: `encode` (numpy, keyed, reproducible on every target) and `encode_torch`
(differentiable, noise from an explicit generator or given). One file per encoder; adding one is
a file and a line in `ENCODERS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rsc.coding.bernoulli import BERNOULLI
from rsc.coding.direct import DIRECT
from rsc.coding.encoder import Encoder
from rsc.coding.noise import keyed_normal
from rsc.coding.rsc1 import RSC1
from rsc.coding.rsc2 import RSC2
from rsc.coding.signed import SIGNED
from rsc.coding.stages import apply_stages
from rsc.encoder_spec import COINS, EncoderSpec
from rsc.errors import UsageError
from rsc.results import Keys

if TYPE_CHECKING:
    import torch

ENCODERS: dict[str, Encoder] = {
    "direct": DIRECT,
    "rsc1": RSC1,
    "rsc2": RSC2,
    "bernoulli": BERNOULLI,
    "signed": SIGNED,
}

__all__ = [
    "ENCODERS",
    "draw_noise",
    "encode",
    "encode_torch",
    "keyed_noise",
    "keyed_normal",
    "quiet_frames",
    "recorded_noise",
]


def encode(spec: EncoderSpec, x: np.ndarray, keys: Keys) -> np.ndarray:
    """Frames float32 [T, B, ...] of images `x` [B, ...] under noise keys; the parity path.

    Raises:
        UsageError: number of keys and images differ.
        InputRefused: a coin is to be tossed for what is no probability.
    """
    x = np.asarray(x, dtype=np.float32)
    if len(keys) != len(x):
        raise UsageError(
            f"{len(x)} images came with {len(keys)} keys.", "Each image needs one.", "Match them."
        )
    noise = keyed_noise(spec, keys, x.shape[1:])
    frames = apply_stages(spec, x[None], noise, ENCODERS[spec.kind])
    return np.require(np.broadcast_to(frames, (spec.steps, *x.shape)), np.float32, ["C", "W"])


def keyed_noise(spec: EncoderSpec, keys: Keys, shape: tuple[int, ...]) -> np.ndarray | None:
    """Noise [T or 1, B, *shape] as the encoder draws it: normals, whole levels, or coins' integers."""
    encoder = ENCODERS[spec.kind]
    return encoder.keyed(spec, keys, shape) if encoder.noise_frames(spec) else None


def recorded_noise(spec: EncoderSpec, keys: Keys, like: torch.Tensor) -> torch.Tensor | None:
    """`keyed_noise` for images `like` [B, ...], as `encode_torch` takes it."""
    import torch

    noise = keyed_noise(spec, keys, tuple(like.shape[1:]))
    if noise is None:
        return None
    return torch.from_numpy(noise).to(like.device, torch.float64 if spec.kind in COINS else like.dtype)


def draw_noise(spec: EncoderSpec, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor | None:
    """Noise [T or 1, B, ...] for images `like` from an explicit generator, or None."""
    encoder = ENCODERS[spec.kind]
    return encoder.generated(spec, like, generator) if encoder.noise_frames(spec) else None


def encode_torch(spec: EncoderSpec, x: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
    """Frames [T, B, ...] of images `x` [B, ...], differentiable in `x`; noise drawn or recorded."""
    frames = apply_stages(spec, x[None], noise, ENCODERS[spec.kind])
    return frames.expand(spec.steps, *x.shape)


def quiet_frames(spec: EncoderSpec, x: np.ndarray) -> np.ndarray:
    """The frame [1, B, ...] of images without noise: of a coin, its probability."""
    return apply_stages(spec, np.asarray(x, np.float32)[None], None, ENCODERS[spec.kind])
