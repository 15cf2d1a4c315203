"""HART: rate and time without the path through the membrane (Hao et al., ICLR 2024)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor

from rsc.neurons.surrogates import triangle
from rsc.robustness.surrogates.rule import GradientRule, Memory, SpikeLayer


@dataclasses.dataclass(frozen=True)
class Hart(GradientRule):
    """g = mean_t triangle(h_t - v_threshold; gamma) dL/ds_t, at every step; what v carries on is cut.

    Fields:
        gamma: half width of the triangle, in units of the threshold.
    """

    name: ClassVar[str] = "hart"

    gamma: float = 1.0

    def backward(self, layer: SpikeLayer, grad: Tensor, memory: Memory) -> Tensor:
        """Gradient of the drive [T, B, ...], alike at every step."""
        slope = triangle(layer.above / layer.v_threshold, self.gamma) / layer.v_threshold
        return (slope * grad).mean(0).expand_as(grad)
