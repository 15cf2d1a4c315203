"""SR: small input gradients of the choice between true class and rival (Liu et al., arXiv 2405.20355).

The penalty on the L1 norm of the input gradient is taken as a finite difference, so nothing is
differentiated twice (the spike function has no second derivative).
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from rsc.training.losses.passes import Passes
from rsc.training.losses.term import Need, Term


class GradientSparsity(Term, frozen=True, tag="gradient_sparsity", kw_only=True):
    """mean over the batch of ((p(x + h d) - p(x)) / h)^2, d = sign(grad_x p(x)), d constant.

    p = softmax over (true class, strongest other class of x) of the mean logits, at the true class; both
    runs share the coder's noise, else its variance would swamp the difference. For small h it is the squared
    L1 norm of grad_x p. x + h d is not clipped to the bounds.

    Fields:
        step: h, in pixel units. Defaults of weight and step are those of a public copy of the method.
    """

    always: ClassVar[frozenset[Need]] = frozenset({"image gradient"})
    weight: float = 10.0
    step: float = 0.01

    def check(self) -> None:
        """Refuse values out of range."""
        self.refuse_unless(math.isfinite(self.step) and self.step > 0, "step", "It is finite and positive.")

    def value(self, passes: Passes) -> Tensor:
        """The loss of the step; one more forward pass."""
        found, y = passes.of(self.on), passes.step.y
        rival = found.logits.detach().scatter(1, y[:, None], -torch.inf).argmax(1)
        here = duel(found.logits, y, rival)
        (slope,) = torch.autograd.grad(here.sum(), found.x, retain_graph=True)
        moved = passes.again(found, found.x.detach() + self.step * slope.sign())
        return ((duel(moved.mean(0), y, rival) - here) / self.step).square().mean()


def duel(logits: Tensor, y: Tensor, rival: Tensor) -> Tensor:
    """exp(z_y) / (exp(z_y) + exp(z_rival)) of logits [B, K], per image."""
    return torch.sigmoid((logits.gather(1, y[:, None]) - logits.gather(1, rival[:, None]))[:, 0])
