"""An exponential moving average of a network's weights: a <- d a + (1 - d) w after every step."""

from __future__ import annotations

import copy

import torch
from torch import nn


def averaged(network: nn.Module) -> nn.Module:
    """A copy to average into; it takes no gradients and stays in eval mode."""
    return copy.deepcopy(network).requires_grad_(False).eval()


def update(average: nn.Module, network: nn.Module, decay: float) -> None:
    """One step of the average; buffers that are floating point are averaged too, others are copied."""
    with torch.no_grad():
        current = network.state_dict()
        for name, value in average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(current[name], 1 - decay)
            else:
                value.copy_(current[name])
