"""Surrogate derivatives: what the backward pass uses in place of the derivative of the step.

Each maps x = v - v_threshold to ds/dx; the forward pass stays the exact step function.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

Surrogate = Callable[[Tensor], Tensor]


def atan(x: Tensor, alpha: float = 2.0) -> Tensor:
    """alpha/2 / (1 + (pi/2 alpha x)^2), Fang et al., arXiv 2007.05785."""
    return (alpha / 2) / (1 + (math.pi / 2 * alpha * x) ** 2)


def triangle(x: Tensor, gamma: float = 1.0) -> Tensor:
    """max(0, gamma - |x|) / gamma^2, Bellec et al., arXiv 1803.09574."""
    return (gamma - x.abs()).clamp(min=0) / gamma**2


def rectangle(x: Tensor, width: float = 1.0) -> Tensor:
    """1/width where |x| < width/2, Wu et al., arXiv 1706.02609."""
    return (x.abs() < width / 2).to(x.dtype) / width


def fast_sigmoid(x: Tensor, slope: float = 1.0) -> Tensor:
    """1 / (1 + slope |x|)^2, Zenke and Ganguli, arXiv 1705.11146."""
    return 1 / (1 + slope * x.abs()) ** 2


SURROGATES: dict[str, Surrogate] = {
    "atan": atan,
    "triangle": triangle,
    "rectangle": rectangle,
    "fast_sigmoid": fast_sigmoid,
}
