"""The stages every encoder is made of: noise, clip, normalise, in the order of the spec.

The same lines serve numpy arrays and torch tensors; torch keeps the gradient
(d frame / d image = 1 / std inside the clip range, exact for additive noise).
"""

from __future__ import annotations

from typing import Any, TypeVar

from rsc.program import EncoderSpec

Array = TypeVar("Array", bound=Any)


def apply_stages(spec: EncoderSpec, image: Array, noise: Array | None) -> Array:
    """Frames from images.

    Args:
        spec: sigma, clip, mean, std and their order.
        image: [1, B, C, ...] or [1, B, features].
        noise: standard normals [T or 1, B, ...], or None for a deterministic encoder.

    Returns:
        [T or 1, B, ...]; one frame when every step would be the same.
    """
    frames = image
    for stage in spec.order:
        if stage == "noise" and noise is not None:
            frames = frames + noise * spec.sigma
        elif stage == "clip" and spec.clip is not None:
            frames = frames.clip(*spec.clip)
        elif stage == "normalise" and (spec.mean != (0.0,) or spec.std != (1.0,)):
            frames = (frames - _per_channel(spec.mean, frames)) / _per_channel(spec.std, frames)
    return frames


def _per_channel(values: tuple[float, ...], frames: Any) -> Any:
    """Constants shaped to broadcast along the channel axis (the first after time and batch)."""
    if len(values) == 1:
        return values[0]
    column: Any = frames.new_tensor(values) if hasattr(frames, "new_tensor") else frames.dtype.type(values)
    return column.reshape(len(values), *[1] * (frames.ndim - 3))
