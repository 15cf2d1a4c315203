"""Derivative of a scaled arc tangent."""

from __future__ import annotations

import math

from torch import Tensor


def atan(x: Tensor, alpha: float = 2.0) -> Tensor:
    """alpha/2 / (1 + (pi/2 alpha x)^2), the derivative of atan(pi/2 alpha x) / pi + 1/2.

    Integral 1; alpha/2 at 0; tails fall as 1/x^2. Fang et al., arXiv 2007.05785 (alpha 2).
    """
    q = x * (math.pi / 2 * alpha)
    return q.square_().add_(1).reciprocal_().mul_(alpha / 2)
