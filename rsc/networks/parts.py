"""The layers that networks are made of, as their spec wants them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from rsc.networks.norm import StepBatchNorm2d
from rsc.networks.spec import NetworkSpec
from rsc.neurons import IF, LI, LIF, Neurons

Named = list[tuple[str, nn.Module]]


@dataclasses.dataclass(frozen=True)
class Parts:
    """Makes layers for one spec."""

    spec: NetworkSpec

    def widened(self, channels: int) -> int:
        """A width that a name stands for, times the spec's factor."""
        return max(1, round(channels * self.spec.width))

    def neuron(self) -> nn.Module:
        """A layer of neurons, or the ReLU of the ANN."""
        spec = self.spec
        if spec.neuron == "relu":
            return nn.ReLU()
        fields: dict[str, Any] = {
            f: getattr(spec, f) for f in ("v_threshold", "reset", "surrogate", "detach_reset")
        }
        if spec.neuron == "if":
            return _placed(IF, **fields)
        return _placed(LIF, decay=spec.decay, learn_decay=spec.learn_decay, **fields)

    def conv(self, source: int, channels: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
        """A convolution that gives ceil(n / stride) sites per side; a norm behind it holds the bias."""
        bias = self.spec.norm == "none"
        return nn.Conv2d(source, channels, kernel, stride, kernel // 2, bias=bias)

    def norm(self, channels: int, zero: bool = False) -> nn.Module:
        """A normalisation of [.., C, H, W] that gives values around the threshold, or 0 at the start.

        The scale starts at the threshold, as in Zheng et al., arXiv 2011.05280.
        """
        if self.spec.norm == "none":
            return nn.Identity()
        layer: nn.Module = nn.BatchNorm2d(channels)
        if self.spec.norm == "step":
            layer = StepBatchNorm2d(channels, self.spec.steps)
        for part in layer.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.constant_(part.weight, 0.0 if zero else self.spec.v_threshold)
        return layer

    def weighted(
        self, number: str, source: int, channels: int, kernel: int = 3, stride: int = 1, zero: bool = False
    ) -> Named:
        """Convolution and norm, by name."""
        layers: Named = [
            (f"conv{number}", self.conv(source, channels, kernel, stride)),
            (f"norm{number}", self.norm(channels, zero)),
        ]
        return [layer for layer in layers if not isinstance(layer[1], nn.Identity)]

    def classifier(self, features: int, hidden: tuple[int, ...], classes: int) -> Named:
        """Flatten, [linear - neuron] n times, linear, and the readout."""
        layers: Named = [("flatten", nn.Flatten())]
        for i, width in enumerate(hidden, 1):
            layers += [(f"fc{i}", nn.Linear(features, width)), (f"fc_neuron{i}", self.neuron())]
            features = width
        layers.append(("classifier", nn.Linear(features, classes)))
        return layers + [("readout", layer) for layer in self.readout()]

    def readout(self) -> list[nn.Module]:
        """What follows the last weights."""
        if self.spec.readout == "membrane":
            return [_placed(LI, decay=self.spec.decay, learn_decay=self.spec.learn_decay)]
        return [self.neuron()] if self.spec.readout == "spikes" else []


def _placed(kind: type[Neurons], **fields: Any) -> nn.Module:
    """Neurons on torch's default device; made on the CPU, as they check constants, which "meta" lacks."""
    with torch.device("cpu"):
        layer = kind(**fields)
    return layer.to(torch.get_default_device())
