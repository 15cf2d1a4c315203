"""Direct coding: every step sees the image itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rsc.coding.encoder import Array
from rsc.encoder_spec import EncoderSpec
from rsc.results import Keys

if TYPE_CHECKING:
    import torch


class Direct:
    """z_t = x; all noise has 0 frames."""

    def noise_frames(self, spec: EncoderSpec) -> int:
        """None."""
        return 0

    def keyed(self, spec: EncoderSpec, keys: Keys, shape: tuple[int, ...]) -> np.ndarray:
        """float32 [0, B, *shape]."""
        return np.zeros((0, len(keys), *shape), np.float32)

    def generated(self, spec: EncoderSpec, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """[0, *like.shape]; the generator stays as it is."""
        return like.new_zeros((0, *like.shape))

    def noisy(self, spec: EncoderSpec, frames: Array, noise: Array) -> Array:
        """The frames."""
        return frames


DIRECT = Direct()
