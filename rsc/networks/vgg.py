"""VGG networks (Simonyan and Zisserman, arXiv 1409.1556) with average pooling.

VGG-11 and VGG-16 are configurations A and D; with hidden layers of 4096 and 4096 they have the parameters of
the original at 224x224. Without them (the default) one linear layer classifies, as is usual at 32x32. VGG-9
is that of Kim and Panda (arXiv 2010.01729), VGG-5 the one usual in spiking work, both with a hidden layer.
Other plans go by the same names, e.g. a VGG-11 of 64 | 128 256 | 512 512 512 | 512 512.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from rsc.networks.parts import Named, Parts
from rsc.networks.sequential import SpikingSequential
from rsc.networks.spec import NetworkSpec

# Per block the channels of its convolutions; a block ends with a pooling. Then the hidden layers.
PLANS: dict[str, tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]] = {
    "vgg5": (((64,), (128, 128)), (1024,)),
    "vgg9": (((64, 64), (128, 128), (256, 256, 256)), (1024,)),
    "vgg11": (((64,), (128,), (256, 256), (512, 512), (512, 512)), ()),
    "vgg16": (((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)), ()),
}


def vgg(spec: NetworkSpec, input_shape: tuple[int, ...], classes: int) -> SpikingSequential:
    """Build the one that `spec.name` names; pooling stops where a side has become 1."""
    blocks, hidden = PLANS[spec.name]
    parts, layers, number = Parts(spec), Named(), 0
    c, h, w = input_shape
    for block, plan in enumerate(blocks, 1):
        for channels in map(parts.widened, plan):
            number += 1
            layers += [*parts.weighted(str(number), c, channels), (f"neuron{number}", parts.neuron())]
            c = channels
        if min(h, w) > 1:
            layers.append((f"pool{block}", nn.AvgPool2d(2)))
            h, w = h // 2, w // 2
    hidden = tuple(map(parts.widened, hidden)) if spec.hidden is None else spec.hidden
    layers += parts.classifier(c * h * w, hidden, classes)
    return SpikingSequential(OrderedDict(layers))
