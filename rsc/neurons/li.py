"""Leaky integrators: a readout that does not fire."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rsc.neurons.base import Neurons, check_currents
from rsc.neurons.constants import Constant
from rsc.neurons.kernels import HALVES
from rsc.neurons.rule import Leak
from rsc.neurons.scan import leak_scan


class LI(Neurons):
    """v_t = decay v_{t-1} + x_t; maps currents [T, B, ...] to membranes [T, B, ...].

    Args:
        decay: share of the membrane kept per step, in [0, 1]; a number or one per channel [C].
        learn_decay: the decay is trained; it stays in (0, 1).

    Attribute `decay` is its present value, a float or a tensor [C] without gradient.

    Raises:
        UsageError: decay out of bounds.
    """

    def __init__(self, decay: float | Tensor = 0.5, *, learn_decay: bool = False) -> None:
        super().__init__()
        self.leak = Constant("decay", decay, learn_decay)

    @property
    def decay(self) -> Any:
        """Share of the membrane kept per step: a float or a tensor [C]."""
        return self.leak.read()

    def run(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Membranes [T, B, ...] of currents [T, B, ...], and the last of them [B, ...].

        bfloat16 and float16 are integrated, and returned, in float32.
        """
        check_currents(x, state)
        x = x.float() if x.dtype in HALVES else x
        v0 = torch.zeros_like(x[0]) if state is None else state.to(x.dtype)
        return leak_scan(x, v0, Leak(self.leak.over(x), 1.0, 0.0))
