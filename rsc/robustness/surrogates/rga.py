"""Rate gradient approximation (RGA; Bu et al., CVPR 2023): the slope of a leaky neuron's rate curve."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from rsc.robustness.surrogates.rule import GradientRule, Memory, SpikeLayer


@dataclasses.dataclass(frozen=True)
class Rga(GradientRule):
    """With d = mean drive / v_threshold and a = alpha, the rate's derivative is taken as

        gamma                              for 0 <= d <= 1 - a   (a neuron that never reaches its threshold)
        (1 - gamma + gamma a) / (1 + a)    for 1 - a < d <= 2
        0                                  elsewhere

    a curve through (0, 0), (1 - a, gamma (1 - a)) and (2, 1). The gradient is spread evenly over time.
    """

    name: ClassVar[str] = "rga"

    gamma: float = 0.2

    def backward(self, layer: SpikeLayer, grad: Tensor, memory: Memory) -> Tensor:
        """Gradient of the drive [T, B, ...], alike at every step."""
        d = layer.drive.mean(0) / layer.v_threshold
        a = torch.as_tensor(layer.alpha, dtype=d.dtype, device=d.device)
        silent = (d >= 0) & (d <= 1 - a)
        firing = (d > 1 - a) & (d <= 2) & (d >= 0)
        slope = silent * self.gamma + firing * ((1 - self.gamma + self.gamma * a) / (1 + a))
        return (grad.mean(0) * slope.to(grad.dtype)).expand_as(grad)
