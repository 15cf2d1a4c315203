"""Gaussian: derivative of the normal distribution function."""

from __future__ import annotations

import math

from torch import Tensor


def gaussian(x: Tensor, sigma: float = 0.5) -> Tensor:
    """exp(-x^2 / (2 sigma^2)) / (sigma sqrt(2 pi)).

    Integral 1; 1 / (sigma sqrt(2 pi)) at 0. Yin, Corradi and Bohte, arXiv 2005.11633 (sigma 0.5).
    """
    q = x * (1 / (sigma * math.sqrt(2)))
    return q.square_().neg_().exp_().mul_(1 / (sigma * math.sqrt(2 * math.pi)))
