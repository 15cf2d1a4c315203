"""Additive Gaussian noise in real numbers, or discretised on the grid of the image."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from rsc.coding.encoder import Array, column
from rsc.coding.noise import keyed_gaussian_integers, keyed_normal
from rsc.encoder_spec import EncoderSpec
from rsc.results import Keys

if TYPE_CHECKING:
    import torch


def sigma_levels(spec: EncoderSpec, count: int) -> tuple[float, ...]:
    """Standard deviations of `count` noise frames in levels of the spec's grid."""
    after = spec.order.index("normalise") < spec.order.index("noise")
    unit = (spec.grid or 1) * (spec.std[0] if after else 1.0)
    return tuple(unit * sigma for sigma in spec.sigmas[:count])


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """z_t = x + sigma_t e_t; on a grid, in levels, round(grid x) + n_t with n_t = round(grid sigma_t e_t).

    Fields:
        fresh: a draw at every step, or one that all steps share.
    """

    fresh: bool

    def noise_frames(self, spec: EncoderSpec) -> int:
        """T, 1, or 0 without noise."""
        if not max(spec.sigmas):
            return 0
        return spec.steps if self.fresh else 1

    def keyed(self, spec: EncoderSpec, keys: Keys, shape: tuple[int, ...]) -> np.ndarray:
        """Standard normals float32, or levels int64 on a grid."""
        count = self.noise_frames(spec)
        if spec.grid is None:
            return keyed_normal(keys, count, shape)
        return keyed_gaussian_integers(keys, sigma_levels(spec, count), shape)

    def generated(self, spec: EncoderSpec, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Standard normals in the type of `like`, or rounded to whole levels on a grid."""
        import torch

        count = self.noise_frames(spec)
        shape = (count, *like.shape)
        noise = torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)
        return noise if spec.grid is None else (noise * column(sigma_levels(spec, count), noise)).round_()

    def noisy(self, spec: EncoderSpec, frames: Array, noise: Array) -> Array:
        """Add it; the gradient is that of the identity, exactly."""
        if spec.grid is not None:
            return frames + (noise if hasattr(noise, "detach") else noise.astype(frames.dtype))
        scaled = noise * (column(spec.step_sigma, frames) if spec.step_sigma else spec.sigma)
        if scaled.dtype != frames.dtype or len(scaled) < len(frames):
            return frames + scaled
        scaled += frames  # where it is: large frames are bound by memory
        return scaled
