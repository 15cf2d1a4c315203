"""The two rules that a scan follows: how a state leaks, and when a neuron fires and what happens then.

Coefficients are numbers or tensors that broadcast to one step [B, ...].
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Literal

import torch
from torch import Tensor

from rsc.neurons.surrogates import SURROGATES, Surrogate

Coefficient = float | Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Leak:
    """v' = alpha v + beta x + c."""

    alpha: Coefficient
    beta: Coefficient
    c: Coefficient


@dataclasses.dataclass(frozen=True, eq=False)
class Fire:
    """When a neuron fires, what it does then, and what takes the place of its derivative."""

    v_threshold: Coefficient
    v_reset: Coefficient = 0.0
    reset: Literal["value", "subtract"] = "value"
    comparison: Literal[">", ">="] = ">"
    surrogate: Surrogate = SURROGATES["atan"]
    detach_reset: bool = True

    @property
    def to_zero(self) -> bool:
        """Whether all share a threshold and v after a spike is 0: then one pass gives v."""
        return self.reset == "value" and is_number(self.v_reset, 0) and isinstance(self.v_threshold, float)

    def first_firing(self, dtype: torch.dtype) -> float:
        """Smallest number of a type that fires; for thresholds that are `to_zero`."""
        return _first(float(self.v_threshold), self.comparison, dtype)

    def spikes(self, h: Tensor, out: Tensor) -> Tensor:
        """Write 1 where h fires and 0 elsewhere into `out`, which may be h itself."""
        return (torch.gt if self.comparison == ">" else torch.ge)(h, self.v_threshold, out=out)  # type: ignore[call-overload]

    def silent(self, h: Tensor, out: Tensor) -> Tensor:
        """Write 1 where h does not fire and 0 elsewhere into `out`."""
        return (torch.le if self.comparison == ">" else torch.lt)(h, self.v_threshold, out=out)  # type: ignore[call-overload]

    def after(self, h: Tensor, spikes: Tensor, out: Tensor | None = None) -> Tensor:
        """The membrane after the reset; `out` may be h itself."""
        if self.reset == "subtract":
            if isinstance(self.v_threshold, float):  # the product with 0 or 1 is exact
                return torch.sub(h, spikes, alpha=self.v_threshold, out=out)
            return torch.sub(h, spikes * self.v_threshold, out=out)
        v_reset = torch.as_tensor(self.v_reset, dtype=h.dtype, device=h.device)
        return torch.where(spikes > 0, v_reset, h, out=out)


@functools.lru_cache(maxsize=1024)
def _first(v_threshold: float, comparison: str, dtype: torch.dtype) -> float:
    limit = torch.tensor(v_threshold, dtype=dtype)
    above = torch.nextafter(limit, limit.new_tensor(math.inf))
    return float(above if comparison == ">" else limit)


def is_number(value: Coefficient, number: float) -> bool:
    """Whether a coefficient is this very number for all neurons."""
    return isinstance(value, float) and value == number


def learnt(*coefficients: Coefficient) -> bool:
    """Whether any of them is a tensor that wants a gradient."""
    return any(isinstance(k, Tensor) and k.requires_grad for k in coefficients)


def as_number(value: Coefficient) -> Coefficient:
    """Without its gradient; a lone number in the CPU's memory as a float, for which the loops are faster."""
    if not isinstance(value, Tensor):
        return value
    return value.item() if value.ndim == 0 and value.device.type == "cpu" else value.detach()
