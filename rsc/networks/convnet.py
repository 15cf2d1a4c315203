"""A small convolutional network: [conv 3x3 - batch norm - neuron - average pool 2x2] n times, then linear."""

from __future__ import annotations

from torch import nn

from rsc.errors import UsageError
from rsc.networks.parts import Parts
from rsc.networks.sequential import SpikingSequential
from rsc.networks.spec import NetworkSpec


def convnet(spec: NetworkSpec, input_shape: tuple[int, ...], classes: int) -> SpikingSequential:
    """Build it; `spec.channels` are those of each stage, which halves H and W.

    Raises:
        UsageError: the sides cannot be halved that often.
    """
    parts, stages = Parts(spec), len(spec.channels)
    c, h, w = input_shape
    if h % (1 << stages) or w % (1 << stages):
        raise UsageError(
            f"A convnet with {stages} stages cannot take {h}x{w} images.",
            "Each stage halves both sides.",
            "Use fewer stages.",
        )
    layers: list[nn.Module] = []
    for out in spec.channels:
        layers += [layer for _, layer in parts.weighted("", c, out)]
        layers += [parts.neuron(), nn.AvgPool2d(2)]
        c, h, w = out, h // 2, w // 2
    return SpikingSequential(*layers, nn.Flatten(), nn.Linear(c * h * w, classes), *parts.readout())
