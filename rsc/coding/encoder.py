"""What every encoder offers: its noise, keyed or from a generator, and how the "noise" stage uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from rsc.encoder_spec import EncoderSpec
from rsc.results import Keys

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", bound=Any)


class Encoder(Protocol):
    """One coder; numpy arrays and torch tensors take the same lines."""

    def noise_frames(self, spec: EncoderSpec) -> int:
        """Independent noise frames per run: 0, 1 (shared by all steps) or T."""
        ...

    def keyed(self, spec: EncoderSpec, keys: Keys, shape: tuple[int, ...]) -> np.ndarray:
        """Noise [noise frames, B, *shape] that depends on the keys alone."""
        ...

    def generated(self, spec: EncoderSpec, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Noise [noise frames, *like.shape] of the same law from a generator."""
        ...

    def noisy(self, spec: EncoderSpec, frames: Array, noise: Array) -> Array:
        """The "noise" stage on frames [1 or T, B, ...]."""
        ...


def straight_through(value: Array, path: Array) -> Array:
    """`value` with the gradient of `path`; of numpy arrays, which have none, `value` itself."""
    if not hasattr(path, "detach"):
        return value
    return value.to(path.dtype).detach() + (path - path.detach())


def column(values: tuple[float, ...], frames: Any) -> Any:
    """Constants [T] shaped to broadcast along time, of the frames' type."""
    return _constants(values, frames).reshape(len(values), *[1] * (frames.ndim - 1))


def per_channel(values: tuple[float, ...], frames: Any) -> Any:
    """Constants shaped to broadcast along the channel axis (the first after time and batch)."""
    if len(values) == 1:
        return values[0]
    return _constants(values, frames).reshape(len(values), *[1] * (frames.ndim - 3))


def _constants(values: tuple[float, ...], frames: Any) -> Any:
    return frames.new_tensor(values) if hasattr(frames, "new_tensor") else frames.dtype.type(values)
