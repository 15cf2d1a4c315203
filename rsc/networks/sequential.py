"""A chain of layers over time: stateless layers see [T*B, ...], neurons see [T, B, ...]."""

from __future__ import annotations

from torch import Tensor, nn

from rsc.neurons import LIF


class SpikingSequential(nn.Sequential):
    """nn.Sequential for frames [T, B, ...]; returns outputs [T, B, K].

    A network without neurons (an ANN) treats every frame on its own.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Outputs [T, B, K] of frames [T, B, ...]."""
        steps, batch = input.shape[:2]
        x = input.flatten(0, 1)
        for layer in self:
            if isinstance(layer, LIF):
                x = layer(x.unflatten(0, (steps, batch))).flatten(0, 1)
            else:
                x = layer(x)
        return x.unflatten(0, (steps, batch))
