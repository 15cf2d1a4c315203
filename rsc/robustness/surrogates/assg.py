"""Adaptive sharpness surrogate gradient (ASSG; Wang et al., arXiv 2512.22522), the atan case.

The sharper a surrogate, the truer its gradient, until it vanishes. ASSG makes it as sharp as a chosen degree
of vanishing A allows, per neuron, step and image, from running averages of |h - v_threshold|.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor

from rsc.robustness.surrogates.rule import GradientRule, Memory, SpikeLayer, through_time


@dataclasses.dataclass(frozen=True)
class Assg(GradientRule):
    """With u = h - v_threshold, at every step of the attack (not at every noise draw)

        M <- b M + (1 - b) |u|,    D <- b D + (1 - b) ||u| - M|,      M = 1, D = 0 at first
        a = w / (M + relax D + 1e-4),   w = 2 tan(pi A / 2) / pi
        ds/dh = a/2 / (1 + (pi a u / 2)^2)

    Fields:
        vanishing: A in (0, 1), share of the surrogate's mass inside [-|u|, |u|].
        beta, relax: b and the weight of D.
    """

    name: ClassVar[str] = "assg"

    vanishing: float = 0.9
    beta: float = 0.9
    relax: float = 1.5

    def observe(self, layer: SpikeLayer, memory: Memory) -> None:
        """Move the averages, once per gradient."""
        size = layer.above.abs()
        fresh, known = memory.first_draw(layer.name), memory.averages.get(layer.name)
        if known is None or known[0].shape != size.shape:
            known = (torch.ones_like(size), torch.zeros_like(size))
        elif not fresh:
            return
        mean = self.beta * known[0] + (1 - self.beta) * size
        spread = self.beta * known[1] + (1 - self.beta) * (size - mean).abs()
        memory.averages[layer.name] = (mean, spread)

    def backward(self, layer: SpikeLayer, grad: Tensor, memory: Memory) -> Tensor:
        """Gradient of the drive [T, B, ...]."""
        mean, spread = memory.averages[layer.name]
        omega = 2 * math.tan(math.pi * self.vanishing / 2) / math.pi
        a = omega / (mean + self.relax * spread + 1e-4)
        slope = (a / 2) / (1 + (math.pi / 2 * a * layer.above).square())
        return through_time(layer, grad, slope)
