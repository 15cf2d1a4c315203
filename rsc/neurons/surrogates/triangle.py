"""Triangle: derivative of a piecewise quadratic step."""

from __future__ import annotations

from torch import Tensor


def triangle(x: Tensor, gamma: float = 1.0) -> Tensor:
    """max(0, gamma - |x|) / gamma^2.

    Integral 1; 1/gamma at 0; exactly 0 from |x| = gamma on. Bellec et al., arXiv 1803.09574 (without their
    damping), Esser et al., arXiv 1603.08270.
    """
    q = x.abs()
    return q.neg_().add_(gamma).clamp_(min=0).div_(gamma**2)
