"""One training step as losses see it: the network, a batch of images, and where its noise comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from rsc.program import EncoderSpec
from rsc.training.event_frames import frames_of


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """A batch on its way through a network.

    Fields:
        network: frames [T, B, ...] -> outputs [T, B, K].
        encoder: how images become frames; None: the samples are frames.
        x: images [B, C, H, W] within `bounds`, or frames [B, T, C, H, W]; y: int64 [B].
        generator: everything random in this step.
        bounds: (lowest, highest) legal pixel.
        seen: parameters by name that take the place of the network's own (weights on a grid, say).
    """

    network: nn.Module
    encoder: EncoderSpec | None
    x: Tensor
    y: Tensor
    generator: torch.Generator
    bounds: tuple[float, float] = (0.0, 1.0)
    seen: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """(C, H, W) of what the network sees at one step."""
        return tuple(self.x.shape[2 if self.encoder is None else 1 :])

    def frames(self, x: Tensor | None = None) -> Tensor:
        """Frames [T, B, ...] of images (the batch's own if None) under fresh noise."""
        x = self.x if x is None else x
        return frames_of(self.encoder, x, self.generator)

    def outputs(self, x: Tensor | None = None) -> Tensor:
        """Outputs [T, B, K] of images under fresh noise."""
        return functional_call(self.network, dict(self.seen), (self.frames(x),))
