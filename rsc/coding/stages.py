"""The stages every encoder is made of: noise, clip, normalise, in the order of the spec.

The same lines serve numpy arrays and torch tensors; torch keeps the gradient
(d frame / d image = 1 / std inside the clip range, exact for additive noise).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rsc.coding.encoder import Array, Encoder, per_channel, straight_through
from rsc.encoder_spec import EncoderSpec, Stage


def apply_stages(spec: EncoderSpec, image: Array, noise: Array | None, encoder: Encoder) -> Array:
    """Frames from images.

    Args:
        spec: sigma, clip, mean, std and their order.
        image: [1, B, C, ...] or [1, B, features].
        noise: [T or 1, B, ...] as the encoder draws it, or None for a deterministic one.

    Returns:
        [T or 1, B, ...]; one frame when every step would be the same.
    """
    frames = before_noise(spec, image)
    if noise is not None:
        frames = encoder.noisy(spec, frames, noise)
    return after_noise(spec, frames)


def before_noise(spec: EncoderSpec, image: Array) -> Array:
    """What the "noise" stage is given: of images on a grid, whole levels, with the image's gradient."""
    at = spec.order.index("noise")
    if spec.grid is None:
        return _stages(spec, image, spec.order[:at])
    fine = image * spec.grid
    level = straight_through(fine.round(), fine)
    return _clipped(spec, level) if "clip" in spec.order[:at] else level


def after_noise(spec: EncoderSpec, frames: Array) -> Array:
    """Frames from what leaves the "noise" stage; on a grid (clip(level) - round(grid mean)) / (grid std)."""
    at = spec.order.index("noise")
    if spec.grid is None:
        return _stages(spec, frames, spec.order[at + 1 :])
    level = _clipped(spec, frames) if "clip" in spec.order[at:] else frames
    return (level - per_channel(mean_level(spec), level)) / (spec.grid * spec.std[0])


def mean_level(spec: EncoderSpec) -> tuple[float, ...]:
    """round(grid mean) per channel."""
    return tuple(float(np.rint(m * (spec.grid or 1))) for m in spec.mean)


def _stages(spec: EncoderSpec, frames: Array, stages: Sequence[Stage]) -> Array:
    for stage in stages:
        if stage == "clip" and spec.clip is not None:
            frames = frames.clip(*spec.clip)
        elif stage == "normalise" and (spec.mean != (0.0,) or spec.std != (1.0,)):
            frames = (frames - per_channel(spec.mean, frames)) / per_channel(spec.std, frames)
    return frames


def _clipped(spec: EncoderSpec, level: Array) -> Array:
    """Levels inside the ends of the clip stage, which are in units of the image or of its normalised form."""
    if spec.clip is None:
        return level
    normalised = spec.order.index("normalise") < spec.order.index("clip")
    mean, std = (spec.mean, spec.std[0]) if normalised else ((0.0,), 1.0)
    low, high = (
        per_channel(tuple(float(np.rint((spec.grid or 1) * (end * std + m))) for m in mean), level)
        for end in spec.clip
    )
    return level.clip(low, high)
