"""Backpropagation through time with any surrogate derivative (STBP; Wu et al., arXiv 1706.02609)."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

from torch import Tensor

from rsc.neurons.surrogates import Surrogate, surrogate_of
from rsc.robustness.surrogates.rule import GradientRule, Memory, SpikeLayer, through_time


@dataclasses.dataclass(frozen=True)
class Stbp(GradientRule):
    """ds/dh = surrogate(h - v_threshold).

    Fields:
        surrogate: a name in `rsc.neurons.SURROGATES` or a function of h - v_threshold.
    """

    name: ClassVar[str] = "stbp"

    surrogate: str | Surrogate = "atan"

    @property
    def title(self) -> str:
        """With the surrogate's name."""
        return f"stbp-{surrogate_text(self.surrogate)}"

    def backward(self, layer: SpikeLayer, grad: Tensor, memory: Memory) -> Tensor:
        """Gradient of the drive [T, B, ...]."""
        return through_time(layer, grad, surrogate_of(self.surrogate)(layer.above))


def surrogate_text(surrogate: object) -> str:
    """A surrogate's name, with its parameters: "atan", "atan(alpha=10)"."""
    if isinstance(surrogate, functools.partial):
        told = ",".join(f"{k}={v:g}" for k, v in surrogate.keywords.items())
        return f"{surrogate.func.__name__}({told})"
    if isinstance(surrogate, str):
        return surrogate
    return str(getattr(surrogate, "title", getattr(surrogate, "__name__", surrogate)))
