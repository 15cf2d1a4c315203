"""Temporal efficient training: every time step has to be right by itself (Deng et al., arXiv 2202.11946)."""

from __future__ import annotations

import math

from torch import Tensor

from rsc.training.losses.cross_entropy import per_step_cross_entropy
from rsc.training.losses.passes import Passes
from rsc.training.losses.term import Term


class Tet(Term, frozen=True, tag="tet", kw_only=True):
    """(1 - lamb) mean_t CE(O_t, y) + lamb mean (O_t - phi)^2, the second mean over all T B K outputs.

    Fields:
        lamb: share of the regulariser, in [0, 1]; the default is that of the code this convention is
            known from, not of RSC-SNN.
        phi: where the regulariser pulls the outputs, the threshold of the neurons by convention.
        label_smoothing: as in cross_entropy.
    """

    lamb: float = 1e-3
    phi: float = 1.0
    label_smoothing: float = 0.0

    def check(self) -> None:
        """Refuse values out of range."""
        self.refuse_unless(0 <= self.lamb <= 1, "lamb", "It lies in [0, 1].")
        self.refuse_unless(math.isfinite(self.phi), "phi", "It is a finite number.")
        self.refuse_unless(0 <= self.label_smoothing < 1, "label_smoothing", "It lies in [0, 1).")

    def value(self, passes: Passes) -> Tensor:
        """The loss of the step."""
        outputs = passes.of(self.on).outputs
        right = per_step_cross_entropy(outputs, passes.step.y, self.label_smoothing)
        return (1 - self.lamb) * right + self.lamb * (outputs - self.phi).square().mean()
