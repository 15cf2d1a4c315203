"""Rate coding by coins: a pixel is the probability of a spike, decided by an exact comparison of integers."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from rsc.coding.encoder import Array, straight_through
from rsc.coding.noise import keyed_integers
from rsc.encoder_spec import EncoderSpec
from rsc.errors import InputRefused
from rsc.results import Keys

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True)
class Coin:
    """z_t = [U_t < round(2^r x)] with U_t uniform on 0 .. 2^r - 1, or sign(x) [U_t < round(2^r |x|)].

    A pixel of 0 never fires and one of 1 always does. Backwards z_t passes its gradient to x as it is
    (straight-through: E z_t = x up to the rounding of 2^r x), so x hears the sum over the steps.

    Fields:
        signed: x in [-1, 1] instead of [0, 1] (Mukhoty et al., "Signed rate encoding", ICLR 2025).
    """

    signed: bool

    def noise_frames(self, spec: EncoderSpec) -> int:
        """T, or 1 that all steps share."""
        return 1 if spec.shared else spec.steps

    def keyed(self, spec: EncoderSpec, keys: Keys, shape: tuple[int, ...]) -> np.ndarray:
        """U, int64."""
        return keyed_integers(keys, self.noise_frames(spec), shape, spec.bits)

    def generated(self, spec: EncoderSpec, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """U, whole numbers in float64."""
        import torch

        shape = (self.noise_frames(spec), *like.shape)
        uniform = torch.rand(shape, generator=generator, device=like.device, dtype=torch.float64)
        return uniform.mul_(2.0**spec.bits).floor_()

    def noisy(self, spec: EncoderSpec, frames: Array, noise: Array) -> Array:
        """Toss the coins.

        Raises:
            InputRefused: x leaves its range.
        """
        p: Any = frames.detach().double() if hasattr(frames, "detach") else frames.astype(np.float64)
        low = -1 if self.signed else 0
        if p.min() < low or p.max() > 1:
            raise InputRefused(
                f"Coins are to be tossed for values in [{float(p.min()):g}, {float(p.max()):g}].",
                f"Encoder '{spec.kind}' takes probabilities in [{low}, 1].",
                "Scale the images, or clip before the noise stage (EncoderSpec.order, clip).",
            )
        limit = (abs(p) * 2.0**spec.bits).round()
        spikes = (noise < limit) * (np.sign(p) if isinstance(p, np.ndarray) else p.sign())
        if isinstance(frames, np.ndarray):
            return spikes.astype(frames.dtype)
        return straight_through(spikes, frames.expand(spikes.shape))
