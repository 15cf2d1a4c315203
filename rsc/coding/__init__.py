"""Encoders: an image x and a noise key become T input frames.

Two paths side by side: `encode` (numpy, keyed, reproducible on every target) and `encode_torch`
(differentiable, noise from an explicit generator or given). One file per encoder; adding one is
a file and a line in `ENCODERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from rsc.coding import direct, rsc1, rsc2
from rsc.coding.noise import keyed_normal
from rsc.coding.stages import apply_stages
from rsc.errors import UsageError
from rsc.program import EncoderSpec
from rsc.results import Keys

if TYPE_CHECKING:
    import torch

ENCODERS: dict[str, Callable[[EncoderSpec], int]] = {
    "direct": direct.noise_frames,
    "rsc1": rsc1.noise_frames,
    "rsc2": rsc2.noise_frames,
}

__all__ = ["ENCODERS", "draw_noise", "encode", "encode_torch", "keyed_normal"]


def encode(spec: EncoderSpec, x: np.ndarray, keys: Keys) -> np.ndarray:
    """Frames float32 [T, B, ...] of images `x` [B, ...] under noise keys; the parity path.

    Raises:
        UsageError: number of keys and images differ.
    """
    x = np.asarray(x, dtype=np.float32)
    if len(keys) != len(x):
        raise UsageError(
            f"{len(x)} images came with {len(keys)} keys.", "Each image needs one.", "Match them."
        )
    count = ENCODERS[spec.kind](spec)
    noise = keyed_normal(keys, count, x.shape[1:]) if count else None
    frames = apply_stages(spec, x[None], noise)
    return np.require(np.broadcast_to(frames, (spec.steps, *x.shape)), np.float32, ["C", "W"])


def draw_noise(spec: EncoderSpec, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor | None:
    """Standard normals [T or 1, B, ...] for images `like` from an explicit generator, or None."""
    import torch

    count = ENCODERS[spec.kind](spec)
    if not count:
        return None
    return torch.randn((count, *like.shape), generator=generator, device=like.device, dtype=like.dtype)


def encode_torch(spec: EncoderSpec, x: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
    """Frames [T, B, ...] of images `x` [B, ...], differentiable in `x`; noise drawn or recorded."""
    frames = apply_stages(spec, x[None], noise)
    return frames.expand(spec.steps, *x.shape)
