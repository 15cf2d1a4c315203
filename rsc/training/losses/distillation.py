"""Knowledge distillation: the student's mean logits follow an ANN teacher's (E-RSCT, first part).

The RSC paper (Wu et al., arXiv 2407.20099) names a KL divergence between student and teacher outputs;
its temperature and weight are not known. The form is that of Hinton et al., arXiv 1503.02531.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from rsc.training.losses.passes import Passes
from rsc.training.losses.term import Need, Term


class Distillation(Term, frozen=True, tag="distillation", kw_only=True):
    """tau^2 KL(softmax(z_teacher / tau) || softmax(mean_t O_t / tau)), mean over the batch.

    Fields:
        temperature: tau > 0.
    """

    always: ClassVar[frozenset[Need]] = frozenset({"teacher"})
    temperature: float = 4.0

    def check(self) -> None:
        """Refuse values out of range."""
        held = math.isfinite(self.temperature) and self.temperature > 0
        self.refuse_unless(held, "temperature", "It is finite and positive.")

    def value(self, passes: Passes) -> Tensor:
        """The loss of the step."""
        found = passes.of(self.on)
        return softened_kl(passes.answer(found).logits, found.logits, self.temperature)


def softened_kl(reference: Tensor, logits: Tensor, temperature: float = 1.0) -> Tensor:
    """tau^2 KL(softmax(reference / tau) || softmax(logits / tau)) of [B, K], mean over the batch.

    The factor keeps gradients as large as those of a cross-entropy at every tau.
    """
    p, q = (F.log_softmax(z / temperature, 1) for z in (reference, logits))
    return temperature**2 * F.kl_div(q, p, reduction="batchmean", log_target=True)
