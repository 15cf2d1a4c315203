"""The forward passes of one training step, each made once and shared by all terms."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rsc.errors import UsageError
from rsc.training.losses.adversarial import Attack, maximise
from rsc.training.losses.draws import normal
from rsc.training.losses.recording import recording
from rsc.training.losses.term import Input
from rsc.training.step import Step

if TYPE_CHECKING:
    from rsc.training.teacher import Answer, Teacher


@dataclasses.dataclass(frozen=True, eq=False)
class Pass:
    """One run of the student.

    Fields:
        x: images [B, ...] that were coded.
        outputs: [T, B, K].
        before: state of the generator before the coder drew its noise, to draw the same again.
        currents: inputs of the neuron layers averaged over T, [B, ...] each; empty unless asked for.
        spikes: outputs of the neuron layers, [T, B, ...] each; empty unless asked for.
        before_readout: what arrives at the neurons that make the outputs, [T, B, K]; the outputs themselves
            where no neurons do, or unless asked for.
    """

    x: Tensor
    outputs: Tensor
    before: Tensor
    before_readout: Tensor
    currents: tuple[Tensor, ...] = ()
    spikes: tuple[Tensor, ...] = ()

    @property
    def logits(self) -> Tensor:
        """mean_t O_t, [B, K]."""
        return self.outputs.mean(0)


@dataclasses.dataclass(eq=False)
class Passes:
    """Lazily made passes of a step.

    Fields:
        step: network, images, generator.
        sigma: standard deviation of the Gaussian augmentation behind "noisy" images, pixel units.
        attack: how "adversarial" images are found.
        common_noise: whether all passes of the step see the same coder noise.
        recorded, differentiated: images whose pass keeps currents and spikes, or the graph of its images.
        teacher: the ANN, if a term needs one.
        kept: values that outlive the step, by name.
        updates: optimiser steps before this one.
    """

    step: Step
    sigma: float = 0.0
    attack: Attack | None = None
    common_noise: bool = True
    recorded: frozenset[Input] = frozenset()
    differentiated: frozenset[Input] = frozenset()
    teacher: Teacher | None = None
    kept: dict[str, Any] = dataclasses.field(default_factory=dict)
    updates: int = 0
    _done: dict[Input, Pass] = dataclasses.field(default_factory=dict)
    _answers: dict[Any, Answer] = dataclasses.field(default_factory=dict)

    def of(self, kind: Input) -> Pass:
        """The pass of one kind of images."""
        if kind not in self._done:
            x = self._images(kind)
            if kind in self.differentiated:
                x = x.detach().requires_grad_(True)
            self._done[kind] = self._run(x, kind in self.recorded)
        return self._done[kind]

    def again(self, found: Pass, x: Tensor) -> Tensor:
        """Outputs [T, B, K] of other images under the coder noise of a pass."""
        with replayed(self.step.generator, found.before):
            return self.step.outputs(x)

    def answer(self, found: Pass) -> Answer:
        """What the teacher says to clean images, or to the very frames that the student saw."""
        teacher = self.teacher
        if teacher is None:
            raise UsageError("There is no teacher.", "The objective was built without one.", "Give one.")
        encoder = self.step.encoder
        key = None if teacher.sees == "clean" else found
        if key not in self._answers:
            if teacher.sees == "clean" and encoder is not None:
                frames = teacher.quiet_frames(encoder, self.step.x.detach())
            else:
                with replayed(self.step.generator, found.before), torch.no_grad():
                    frames = self.step.frames(found.x)
            self._answers[key] = teacher(frames)
        return self._answers[key]

    @property
    def first(self) -> Pass:
        """The clean pass if one was made, else the first that was."""
        return self._done.get("clean") or next(iter(self._done.values()))

    def shared(self, name: str, make: Callable[[], Any]) -> Any:
        """A value that is made once and kept beyond this step."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    def _images(self, kind: Input) -> Tensor:
        step = self.step
        if kind == "clean":
            return step.x
        if kind == "noisy":
            return (step.x + self.sigma * normal(step)).clamp(*step.bounds)
        if self.attack is None:
            raise UsageError("There is no attack.", "The objective was built without one.", "Give one.")
        return maximise(step, self.attack)

    def _run(self, x: Tensor, record: bool) -> Pass:
        generator = self.step.generator
        before = generator.get_state()
        if self.common_noise and self._done:
            before = next(iter(self._done.values())).before
            around: contextlib.AbstractContextManager[Any] = replayed(generator, before)
        else:
            around = contextlib.nullcontext()
        with around:
            if not record:
                outputs = self.step.outputs(x)
                return Pass(x, outputs, before, outputs)
            with recording(self.step.network) as made:
                outputs = self.step.outputs(x)
        before_readout = made.readout[-1] if made.readout else outputs
        return Pass(x, outputs, before, before_readout, made.currents(*outputs.shape[:2]), made.spikes())


@contextlib.contextmanager
def replayed(generator: torch.Generator, state: Tensor) -> Iterator[None]:
    """Draw from `state` inside the block; afterwards the generator goes on where it was."""
    now = generator.get_state()
    generator.set_state(state)
    try:
        yield
    finally:
        generator.set_state(now)
