"""What training minimises: weighted loss terms over shared forward passes, and what follows each update.

    loss = sum_k weight_k term_k(step)

The default, one cross-entropy on the mean logits of the clean images, is plain training. E-RSCT, adversarial
training, TRADES, RAT and SR are combinations; see docs/training_losses.md.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor, nn

from rsc.data import Dataset
from rsc.encoder_spec import EncoderSpec
from rsc.errors import RscError, UsageError
from rsc.networks import NetworkSpec
from rsc.training.losses import AnyTerm, Attack, CrossEntropy, Input, Passes
from rsc.training.losses.term import Need
from rsc.training.progress import Watcher, nobody
from rsc.training.retraction import Retraction, retract
from rsc.training.step import Step
from rsc.training.teacher import Teacher, TeacherConfig, get_teacher


class ObjectiveConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An objective as a value.

    Fields:
        terms: the losses; see rsc.training.losses for their fields.
        noise_sigma: standard deviation of the Gaussian augmentation behind "noisy" images, pixel units. It is
            added to the image and clipped to its bounds, before and beside the noise of the coder.
        attack: how "adversarial" images are found.
        coder_noise: whether the passes of one step see "common" noise, so that they differ by their images
            alone, or "fresh" noise each.
        teacher: the ANN of distillation and of the comparison of currents.
        retraction: of the weights after each update; None leaves them.
    """

    terms: tuple[AnyTerm, ...] = (CrossEntropy(),)
    noise_sigma: float = 0.0
    attack: Attack | None = None
    coder_noise: Literal["common", "fresh"] = "common"
    teacher: TeacherConfig = TeacherConfig()
    retraction: Retraction | None = None

    def __post_init__(self) -> None:
        if not self.terms:
            raise UsageError("The objective has no terms.", "Nothing would be trained.", "Give a loss term.")
        if not any(term.weight for term in self.terms):
            raise UsageError("All terms have weight 0.", "Nothing would be trained.", "Raise a weight.")
        if not (math.isfinite(self.noise_sigma) and self.noise_sigma >= 0):
            raise UsageError(
                f"noise_sigma is {self.noise_sigma}.", "It is finite and not negative.", "Correct it."
            )
        used = self.inputs
        self._both("adversarial" in used, self.attack is not None, "adversarial", "an attack")
        self._both("noisy" in used, self.noise_sigma > 0, "noisy", "a noise_sigma above 0")

    @property
    def inputs(self) -> frozenset[Input]:
        """All kinds of images that some term looks at."""
        return frozenset(kind for term in self.terms for kind in term.inputs)

    def with_need(self, *needs: Need) -> frozenset[Input]:
        """Images of the terms that need one of these."""
        return frozenset(term.on for term in self.terms if term.needs & set(needs))

    @staticmethod
    def _both(used: bool, given: bool, kind: str, what: str) -> None:
        if used and not given:
            raise UsageError(
                f"A term looks at {kind} images.", f"The objective has not got {what}.", "Add it."
            )
        if given and not used:
            raise UsageError(
                f"The objective has {what}.", f"No term looks at {kind} images.", f"Set on = '{kind}' in one."
            )


@dataclasses.dataclass(frozen=True, eq=False)
class ObjectiveContext:
    """What an objective may need to be built.

    Fields:
        data: the training split, for the teacher.
        network: of the student.
        encoder: of the student, with the constants of the data; None if the data are frames.
        device: where the student is trained.
        watcher: sees the training of the teacher, if it is trained.
    """

    data: Dataset
    network: NetworkSpec
    encoder: EncoderSpec | None
    device: torch.device | str = "cpu"
    watcher: Watcher = nobody


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """An objective at one step.

    Fields:
        loss: scalar with gradients.
        logits: mean logits [B, K] without gradients, of the clean images if a term looked at them, else of
            the images that the first term looked at.
        parts: value of every term before its weight, by name, without gradients.
    """

    loss: Tensor
    logits: Tensor
    parts: Mapping[str, Tensor]


@dataclasses.dataclass(eq=False)
class Objective:
    """Terms ready for use; build it with `build_objective`.

    Fields:
        updates: optimiser steps so far; all that has to survive a resume.
    """

    config: ObjectiveConfig
    teacher: Teacher | None = None
    updates: int = 0
    _kept: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, step: Step) -> tuple[Tensor, Tensor]:
        """Loss, and logits [B, K] for the training accuracy; see `evaluate`."""
        found = self.evaluate(step)
        return found.loss, found.logits

    def evaluate(self, step: Step) -> Evaluation:
        """The objective and its parts for one step."""
        passes = self._passes(step)
        values = [term.value(passes) for term in self.config.terms]
        weighted = [term.weight * value for term, value in zip(self.config.terms, values, strict=True)]
        loss = weighted[0]
        for more in weighted[1:]:
            loss = loss + more
        parts = {name: value.detach() for name, value in zip(self.names, values, strict=True)}
        return Evaluation(loss, passes.first.logits.detach(), parts)

    @property
    def names(self) -> tuple[str, ...]:
        """One name per term: kind/images, numbered where a name repeats."""
        labels = [term.label for term in self.config.terms]
        return tuple(
            label if labels.count(label) == 1 else f"{label}#{labels[: k + 1].count(label)}"
            for k, label in enumerate(labels)
        )

    def after(self, network: nn.Module) -> None:
        """What follows an optimiser step: the retraction of the weights, if any."""
        self.updates += 1
        if self.config.retraction is not None:
            retract(network, self.config.retraction, self.updates)

    @property
    def facts(self) -> dict[str, Any]:
        """What a record of the run should say beyond the configuration: which teacher it was."""
        if self.teacher is None:
            return {}
        return {"teacher_digest": self.teacher.digest, "teacher_train_accuracy": self.teacher.train_accuracy}

    def state(self) -> dict[str, int]:
        """What has to survive a resume, as JSON gives it back."""
        return {"updates": self.updates}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            RscError: it is not one of ours.
        """
        updates = state.get("updates")
        if set(state) != {"updates"} or not isinstance(updates, int) or updates < 0:
            raise RscError(
                "The state of the objective cannot be used.",
                f"It holds {dict(state)}; the number of updates was expected.",
                "Start the training again.",
            )
        self.updates = updates

    def _passes(self, step: Step) -> Passes:
        config = self.config
        return Passes(
            step,
            config.noise_sigma,
            config.attack,
            config.coder_noise == "common",
            recorded=config.with_need("currents", "spikes", "readout"),
            differentiated=config.with_need("image gradient"),
            teacher=self.teacher,
            kept=self._kept,
            updates=self.updates,
        )


def build_objective(config: ObjectiveConfig, context: ObjectiveContext) -> Objective:
    """An objective; trains or loads the teacher first if a term needs one.

    Raises:
        RscError: the teacher cannot be had (see rsc.training.teacher.get_teacher).
    """
    teacher = None
    if config.with_need("teacher"):
        teacher = get_teacher(
            config.teacher, context.data, context.network, context.encoder, context.device, context.watcher
        )
    return Objective(config, teacher)
