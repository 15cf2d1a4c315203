"""Residual networks in two spiking forms: ResNet-18, -19, -34 and WideResNet-16.

    sew:  y = neuron(norm(conv(neuron(norm(conv(x)))))) + s(x)     Fang et al., arXiv 2102.04159, g = ADD
    ms:   y = norm(conv(neuron(norm(conv(neuron(x)))))) + s(x)     Hu et al., arXiv 2112.08954

s is the identity, or where the shape changes norm(conv 1x1), with a neuron behind it in "sew". In "ms" the
last norm of a block starts at 0, as in the authors' code.

Plans: He et al., arXiv 1512.03385 (18, 34); Zheng et al., arXiv 2011.05280 (19, with a hidden layer of 256
before the classifier); Zagoruyko and Komodakis, arXiv 1605.07146 (WideResNet-16, two blocks per stage).
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict

from torch import nn

from rsc.networks.parts import Named, Parts
from rsc.networks.sequential import Residual, SpikingSequential
from rsc.networks.spec import NetworkSpec

LARGE = 128  # sides from here on are reduced by 4 before the first stage, as those of ImageNet are


@dataclasses.dataclass(frozen=True)
class Plan:
    """Channels of the stem, (channels, blocks) of each stage, and hidden layers before the classifier."""

    stem: int
    stages: tuple[tuple[int, int], ...]
    hidden: tuple[int, ...] = ()


PLANS = {
    "resnet18": Plan(64, ((64, 2), (128, 2), (256, 2), (512, 2))),
    "resnet19": Plan(128, ((128, 3), (256, 3), (512, 2)), (256,)),
    "resnet34": Plan(64, ((64, 3), (128, 4), (256, 6), (512, 3))),
    "wideresnet16": Plan(16, ((16, 2), (32, 2), (64, 2))),
}


def resnet(spec: NetworkSpec, input_shape: tuple[int, ...], classes: int) -> SpikingSequential:
    """Build the one that `spec.name` names.

    Each stage but the first halves the sides while they are at least 4. Images with sides of 128 and more
    meet a 7x7 convolution of stride 2 first, and are halved once more: by an average pooling ("sew") or by
    the first stage ("ms").
    """
    parts, plan = Parts(spec), PLANS[spec.name]
    c, h, w = input_shape
    large = min(h, w) >= LARGE
    width = plan.stem if spec.name == "wideresnet16" else parts.widened(plan.stem)
    layers: Named = [("stem", _stem(parts, c, width, large))]
    side, c = (_halved(_halved((h, w))) if large else (h, w)), width
    for number, (channels, blocks) in enumerate(plan.stages, 1):
        shrink = min(side) >= 4 and number > 1
        stride = 2 if shrink or (large and number == 1 and spec.form == "ms") else 1
        side = _halved(side) if shrink else side
        stage = Named()
        for block in range(1, blocks + 1):
            stage.append((f"block{block}", _block(parts, c, parts.widened(channels), stride)))
            c, stride = parts.widened(channels), 1
        layers.append((f"stage{number}", SpikingSequential(OrderedDict(stage))))
    hidden = tuple(map(parts.widened, plan.hidden)) if spec.hidden is None else spec.hidden
    return SpikingSequential(OrderedDict([*layers, ("head", _head(parts, c, side, hidden, classes))]))


def _stem(parts: Parts, source: int, channels: int, large: bool) -> SpikingSequential:
    layers = parts.weighted("", source, channels, *((7, 2) if large else (3, 1)))
    if parts.spec.form == "sew":
        layers += [("neuron", parts.neuron())]
        layers += [("pool", nn.AvgPool2d(3, 2, 1))] if large else []
    return SpikingSequential(OrderedDict(layers))


def _block(parts: Parts, source: int, channels: int, stride: int) -> Residual:
    same = stride == 1 and source == channels
    shortcut = Named() if same else parts.weighted("", source, channels, 1, stride)
    first = parts.weighted("1", source, channels, 3, stride)
    if parts.spec.form == "sew":
        body = [*first, ("neuron1", parts.neuron()), *parts.weighted("2", channels, channels)]
        body.append(("neuron2", parts.neuron()))
        shortcut += [] if same else [("neuron", parts.neuron())]
    else:
        body = [("neuron1", parts.neuron()), *first, ("neuron2", parts.neuron())]
        body += parts.weighted("2", channels, channels, zero=True)
    return Residual(SpikingSequential(OrderedDict(body)), SpikingSequential(OrderedDict(shortcut)))


def _head(
    parts: Parts, channels: int, side: tuple[int, int], hidden: tuple[int, ...], classes: int
) -> SpikingSequential:
    layers: Named = [("neuron", parts.neuron())] if parts.spec.form == "ms" else []
    layers.append(("pool", nn.AvgPool2d(side)))
    return SpikingSequential(OrderedDict([*layers, *parts.classifier(channels, hidden, classes)]))


def _halved(side: tuple[int, int]) -> tuple[int, int]:
    """Sides after a convolution or pooling of stride 2 that pads half of its kernel."""
    return -(-side[0] // 2), -(-side[1] // 2)
