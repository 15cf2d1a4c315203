"""Cross-entropy of the logits averaged over time: the usual rule."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from rsc.training.losses.passes import Passes
from rsc.training.losses.term import Term


class CrossEntropy(Term, frozen=True, tag="cross_entropy", kw_only=True):
    """CE(mean_t O_t, y), mean over the batch.

    Fields:
        label_smoothing: share of the target spread evenly over all classes, in [0, 1).
    """

    label_smoothing: float = 0.0

    def check(self) -> None:
        """Refuse values out of range."""
        self.refuse_unless(0 <= self.label_smoothing < 1, "label_smoothing", "It lies in [0, 1).")

    def value(self, passes: Passes) -> Tensor:
        """The loss of the step."""
        found = passes.of(self.on)
        return F.cross_entropy(found.logits, passes.step.y, label_smoothing=self.label_smoothing)


def per_step_cross_entropy(outputs: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """mean_t CE(O_t, y) of outputs [T, B, K] and labels [B]."""
    steps = len(outputs)
    return F.cross_entropy(outputs.flatten(0, 1), y.repeat(steps), label_smoothing=label_smoothing)
