"""Potential-dependent surrogate gradient (PDSG; Lun et al., CVPR 2025, arXiv 2503.03272)."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor

from rsc.robustness.surrogates.rule import GradientRule, Memory, SpikeLayer, through_time


@dataclasses.dataclass(frozen=True)
class Pdsg(GradientRule):
    """A bell whose width follows the membrane: with u = h - v_threshold and sigma_t its spread,

        ds/dh = exp(-(u - sigma/2)^2 / (2 sigma^2)) / (sqrt(2 pi) sigma).

    sigma_t is the standard deviation of u over the batch, the steps up to t, and the places of a channel
    (axis 2 of [T, B, C, ...]); 1 where u does not vary.
    """

    name: ClassVar[str] = "pdsg"

    def backward(self, layer: SpikeLayer, grad: Tensor, memory: Memory) -> Tensor:
        """Gradient of the drive [T, B, ...]."""
        u = layer.above
        sigma = spread(u)
        bell = torch.exp(-(u - sigma / 2).square() / (2 * sigma.square())) / (math.sqrt(2 * math.pi) * sigma)
        return through_time(layer, grad, bell)


def spread(u: Tensor) -> Tensor:
    """Standard deviation [T, 1, C, 1, ...] of u [T, B, C, ...] over batch, places and the steps so far."""
    axes = [k for k in range(1, u.ndim) if k != 2]
    wide = u.double()
    count = torch.arange(1, len(u) + 1, device=u.device).reshape(-1, *[1] * (u.ndim - 1))
    mean = wide.mean(axes, keepdim=True).cumsum(0) / count
    square = wide.square().mean(axes, keepdim=True).cumsum(0) / count
    sigma = (square - mean.square()).clamp_min(0).sqrt()
    return torch.where(sigma > 1e-6, sigma, 1.0).to(u.dtype)
