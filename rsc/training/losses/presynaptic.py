"""The pre-synaptic loss of E-RSCT in the two readings that its name allows.

The paper (Wu et al., arXiv 2407.20099) is known to use one and not known to define it in any text that was
available; neither reading is claimed to be the paper's.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rsc.errors import UsageError
from rsc.training.losses.cross_entropy import per_step_cross_entropy
from rsc.training.losses.passes import Passes
from rsc.training.losses.term import Need, Term


class PreSynaptic(Term, frozen=True, tag="pre_synaptic", kw_only=True):
    """What arrives before a neuron, compared with what it should be.

    "output": mean_t CE(O_t, y), O_t [B, K] what arrives at the readout at step t, before any neurons that
    make the outputs (the sense of the word in Deng et al., arXiv 2202.11946).
    "currents": mean over layers l of mean (I_l - J_l)^2, with I_l the input of the l-th neuron layer of the
    student averaged over T and J_l the input of the l-th ReLU of the teacher.

    Fields:
        reading: which of the two.
        label_smoothing: of "output"; "currents" has no use for it.
    """

    reading: Literal["output", "currents"] = "output"
    label_smoothing: float = 0.0

    def check(self) -> None:
        """Refuse values out of range."""
        held = 0 <= self.label_smoothing < 1 and (self.reading == "output" or not self.label_smoothing)
        self.refuse_unless(held, "label_smoothing", "It lies in [0, 1), and is 0 for currents.")

    @property
    def needs(self) -> frozenset[Need]:
        """What each reading takes."""
        return frozenset({"currents", "teacher"} if self.reading == "currents" else {"readout"})

    def value(self, passes: Passes) -> Tensor:
        """The loss of the step."""
        found = passes.of(self.on)
        if self.reading == "output":
            return per_step_cross_entropy(found.before_readout, passes.step.y, self.label_smoothing)
        return current_gap(found.currents, passes.answer(found).currents)


def current_gap(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> Tensor:
    """Mean over layers of the mean squared difference of currents [B, ...], matched one to one.

    Raises:
        UsageError: the layers do not match.
    """
    shapes = [tuple(tuple(layer.shape) for layer in side) for side in (student, teacher)]
    if shapes[0] != shapes[1] or not student:
        raise UsageError(
            "The currents of student and teacher cannot be compared.",
            f"Neuron layers of the student: {shapes[0]}; of the teacher: {shapes[1]}.",
            "Use a teacher of the same shape, and a readout that is not made of spikes.",
        )
    return torch.stack([F.mse_loss(a, b) for a, b in zip(student, teacher, strict=True)]).mean()
