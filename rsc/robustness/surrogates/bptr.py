"""Backpropagation through rate (BPTR; Ding et al., SNN-RAT, NeurIPS 2022)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor

from rsc.robustness.surrogates.rule import GradientRule, Memory, SpikeLayer


@dataclasses.dataclass(frozen=True)
class Bptr(GradientRule):
    """The gradient of a neuron's mean rate passes where the neuron fired at all, and is spread over time."""

    name: ClassVar[str] = "bptr"

    def backward(self, layer: SpikeLayer, grad: Tensor, memory: Memory) -> Tensor:
        """Gradient of the drive [T, B, ...], alike at every step."""
        active = (layer.spikes.mean(0) > 0).to(grad.dtype)
        return (grad.mean(0) * active).expand_as(grad)
