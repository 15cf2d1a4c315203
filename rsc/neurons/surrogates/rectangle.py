"""Rectangle: derivative of a ramp."""

from __future__ import annotations

from torch import Tensor


def rectangle(x: Tensor, width: float = 1.0) -> Tensor:
    """1/width where |x| < width/2, else 0.

    Integral 1; 1/width at 0. Wu et al., arXiv 1706.02609 (their a_1 is the width).
    """
    return (x.abs() < width / 2).to(x.dtype).div_(width)
