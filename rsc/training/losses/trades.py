"""TRADES: the answer must not change inside the ball (Zhang et al., arXiv 1901.08573)."""

from __future__ import annotations

import math

from torch import Tensor

from rsc.training.losses.distillation import softened_kl
from rsc.training.losses.passes import Passes
from rsc.training.losses.term import Input, Term


class Trades(Term, frozen=True, tag="trades", kw_only=True):
    """tau^2 KL(softmax(z_against / tau) || softmax(z_on / tau)) of mean logits; `weight` is TRADES' beta.

    Added to a cross-entropy on the clean images it is TRADES, whose attack maximises the same KL
    (attack.loss = "kl", attack.start = "normal"). With on = "noisy" it is a consistency loss.

    Fields:
        against: images whose answer is to be kept.
        temperature: tau > 0; 1 in the paper.
        through_reference: whether gradients also flow through the reference side, as in the authors' code.
    """

    weight: float = 6.0
    on: Input = "adversarial"
    against: Input = "clean"
    temperature: float = 1.0
    through_reference: bool = True

    def check(self) -> None:
        """Refuse values out of range."""
        held = math.isfinite(self.temperature) and self.temperature > 0
        self.refuse_unless(held, "temperature", "It is finite and positive.")
        self.refuse_unless(self.against != self.on, "against", "It differs from `on`.")

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Both sides."""
        return (self.against, self.on)

    def value(self, passes: Passes) -> Tensor:
        """The loss of the step."""
        reference = passes.of(self.against).logits
        reference = reference if self.through_reference else reference.detach()
        return softened_kl(reference, passes.of(self.on).logits, self.temperature)
