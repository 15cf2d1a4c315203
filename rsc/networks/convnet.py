"""A small convolutional network: [conv 3x3 - batch norm - neuron - average pool 2x2] n times, then linear."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from rsc.errors import UsageError
from rsc.networks.sequential import SpikingSequential
from rsc.neurons import LIF


def convnet(
    input_shape: Sequence[int],
    classes: int,
    *,
    channels: Sequence[int] = (16, 32),
    neuron: str = "lif",
    decay: float = 0.5,
    surrogate: str = "atan",
) -> SpikingSequential:
    """Build it.

    Args:
        input_shape: (C, H, W).
        classes: number of logits.
        channels: output channels of each stage; each stage halves H and W.
        neuron: "lif", or "relu" for the ANN of the same topology.
        decay, surrogate: of the LIF neurons.
    """
    c, h, w = input_shape
    if h % (1 << len(channels)) or w % (1 << len(channels)):
        raise UsageError(
            f"A convnet with {len(channels)} stages cannot take {h}x{w} images.",
            "Each stage halves both sides.",
            "Use fewer stages.",
        )
    layers: list[nn.Module] = []
    for out in channels:
        layers += [
            nn.Conv2d(c, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
            LIF(decay=decay, surrogate=surrogate) if neuron == "lif" else nn.ReLU(),
            nn.AvgPool2d(2),
        ]
        c, h, w = out, h // 2, w // 2
    return SpikingSequential(*layers, nn.Flatten(), nn.Linear(c * h * w, classes))
