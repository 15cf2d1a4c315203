"""What a gradient rule of an attacker is: the backward pass of one layer of spiking neurons.

A layer integrates h_t = alpha v_{t-1} + d_t, fires s_t = [h_t > v_threshold] and resets v_t. A rule says
which gradient of the drive d stands for that of the spikes; the forward pass is never touched.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rsc.neurons.rule import Coefficient


@dataclasses.dataclass(frozen=True, eq=False)
class SpikeLayer:
    """One run of a layer.

    Fields:
        name: of the layer in its network; key of the memory.
        drive: what the input adds to the membrane [T, B, ...].
        h: membrane before the reset [T, B, ...].
        spikes: 0 and 1, [T, B, ...], as the network itself fired.
        alpha: share of v kept per step; v_threshold: where it fires; numbers or tensors that broadcast.
        reset: "value" (to v_reset) or "subtract".
    """

    name: str
    drive: Tensor
    h: Tensor
    spikes: Tensor
    alpha: Coefficient
    v_threshold: Coefficient
    reset: Literal["value", "subtract"] = "value"

    @property
    def above(self) -> Tensor:
        """h - v_threshold, [T, B, ...]."""
        return self.h - self.v_threshold


class Memory:
    """What a rule remembers between the gradients of one attack: layer -> running averages.

    An attack clears it at the start of every restart and announces every gradient; within a gradient
    only the first noise draw of each layer is learnt from.
    """

    def __init__(self) -> None:
        self.averages: dict[str, tuple[Tensor, ...]] = {}
        self._learnt: set[str] = set()

    def clear(self) -> None:
        """Forget everything."""
        self.averages.clear()
        self._learnt.clear()

    def next_gradient(self) -> None:
        """A new step of the attack begins: every layer may be learnt from once more."""
        self._learnt.clear()

    def first_draw(self, name: str) -> bool:
        """Whether this layer has not been learnt from in this gradient; it has from now on."""
        fresh = name not in self._learnt
        self._learnt.add(name)
        return fresh


class GradientRule(ABC):
    """A backward pass of spiking layers."""

    name: ClassVar[str] = "rule"

    @property
    def title(self) -> str:
        """Name for reports."""
        return self.name

    def observe(self, layer: SpikeLayer, memory: Memory) -> None:  # noqa: B027  # most rules do not look
        """Look at a run before its gradient is asked for; most rules remember nothing."""

    @abstractmethod
    def backward(self, layer: SpikeLayer, grad: Tensor, memory: Memory) -> Tensor:
        """Gradient of the drive [T, B, ...] for one of the spikes [T, B, ...]."""


def through_time(layer: SpikeLayer, grad: Tensor, slope: Tensor) -> Tensor:
    """Backpropagation through time with ds/dh = `slope`, the gradient through the reset dropped.

    dL/dh_t = slope_t dL/ds_t + alpha dv_t/dh_t dL/dh_{t+1}; dv/dh is 1 - s for a reset to a value, else 1.
    """
    kept = 1 - layer.spikes if layer.reset == "value" else torch.ones_like(layer.spikes)
    out, carried = torch.empty_like(grad), torch.zeros_like(grad[0])
    for t in reversed(range(len(grad))):
        out[t] = slope[t] * grad[t] + kept[t] * carried
        carried = layer.alpha * out[t]
    return out
