"""A multilayer perceptron: flatten, [linear - neuron] n times, linear."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from rsc.networks.sequential import SpikingSequential
from rsc.neurons import LIF


def mlp(
    input_shape: Sequence[int],
    classes: int,
    *,
    channels: Sequence[int] = (256,),
    neuron: str = "lif",
    decay: float = 0.5,
    surrogate: str = "atan",
) -> SpikingSequential:
    """Build it; `channels` are the hidden widths, the other arguments as in `convnet`."""
    width = math.prod(input_shape)
    layers: list[nn.Module] = [nn.Flatten()]
    for out in channels:
        layers += [
            nn.Linear(width, out),
            LIF(decay=decay, surrogate=surrogate) if neuron == "lif" else nn.ReLU(),
        ]
        width = out
    return SpikingSequential(*layers, nn.Linear(width, classes))
