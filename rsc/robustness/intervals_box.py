"""Boxes of whole numbers, and how Lava's wrap-around and saturation act on them.

Every map here gives the tightest box that holds all images of the points of a box, neuron by neuron.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

UV = 1 << 23  # u lies in (-UV, UV], v in (-UV, UV)
INT32 = 1 << 31


@dataclasses.dataclass(frozen=True, eq=False)
class Box:
    """All tensors x with low <= x <= high, element by element; both of one shape and type."""

    low: Tensor
    high: Tensor

    @classmethod
    def point(cls, value: Tensor) -> Box:
        """The box that holds one tensor."""
        return cls(value, value)

    def __add__(self, other: Box) -> Box:
        return Box(self.low + other.low, self.high + other.high)

    def map(self, f: Callable[[Tensor], Tensor]) -> Box:
        """Image of a map that does not decrease."""
        return Box(f(self.low), f(self.high))

    def holds(self, x: Tensor) -> Tensor:
        """Per element, whether x is inside."""
        return (self.low <= x) & (x <= self.high)

    def within(self, low: int, high: int) -> bool:
        """Whether no element reaches beyond [low, high]."""
        return not self.low.numel() or (int(self.low.min()) >= low and int(self.high.max()) <= high)


def monotone(f: Callable[[Tensor], Tensor], box: Box) -> Box:
    """Image of a map that increases or decreases, which may differ by element."""
    a, b = f(box.low), f(box.high)
    return Box(torch.minimum(a, b), torch.maximum(a, b))


def wrapped(box: Box, half: int) -> Box:
    """Image of x -> (x + half) mod (2 half) - half, as C wraps integers."""
    if box.within(-half, half - 1):
        return box
    turns = box.map(lambda x: torch.div(x + half, 2 * half, rounding_mode="floor"))
    same = turns.low == turns.high
    low = torch.where(same, box.low - 2 * half * turns.low, -half)
    return Box(low, torch.where(same, box.high - 2 * half * turns.high, half - 1))


def wrapped_once(box: Box) -> Box:
    """Image of Lava's rule for u: x - 2^24 above 2^23, x + 2^24 up to -2^23, else x."""
    if box.within(1 - UV, UV):
        return box
    ends = box.map(lambda x: torch.where(x > UV, x - 2 * UV, torch.where(x <= -UV, x + 2 * UV, x)))
    crosses = ((box.low <= UV) & (box.high > UV)) | ((box.low <= -UV) & (box.high > -UV))
    low, high = torch.minimum(ends.low, ends.high), torch.maximum(ends.low, ends.high)
    return Box(
        torch.where(crosses, low.clamp(max=1 - UV), low), torch.where(crosses, high.clamp(min=UV), high)
    )


def saturated(box: Box) -> Box:
    """Image of v's rule: first a cast to int32, then a clip to +-(2^23 - 1)."""
    return wrapped(box, INT32).map(lambda x: x.clamp(1 - UV, UV - 1))


def decay(x: Tensor, keep: int | Tensor) -> Tensor:
    """trunc(x keep / 4096) of int64 |x| < 2^32."""
    if isinstance(keep, int):
        if keep == 0:
            return torch.zeros_like(x)
        if keep == 4096:
            return x
    product = x * keep
    return (product + ((product >> 63) & 4095)) >> 12


def binary(box: Box) -> Box:
    """Image of x -> [x != 0], in bool."""
    if box.low.dtype == torch.bool:
        return box
    return Box((box.low > 0) | (box.high < 0), (box.low != 0) | (box.high != 0))
