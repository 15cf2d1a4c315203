"""A multilayer perceptron: flatten, [linear - neuron] n times, linear."""

from __future__ import annotations

import math

from torch import nn

from rsc.networks.parts import Parts
from rsc.networks.sequential import SpikingSequential
from rsc.networks.spec import NetworkSpec


def mlp(spec: NetworkSpec, input_shape: tuple[int, ...], classes: int) -> SpikingSequential:
    """Build it; `spec.channels` are the hidden widths."""
    parts, width = Parts(spec), math.prod(input_shape)
    layers: list[nn.Module] = [nn.Flatten()]
    for out in spec.channels:
        layers += [nn.Linear(width, out), parts.neuron()]
        width = out
    return SpikingSequential(*layers, nn.Linear(width, classes), *parts.readout())
