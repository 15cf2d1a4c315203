"""BPDA: the target's own answers forward, the Jacobian of its differentiable twin backward.

Backward pass differentiable approximation (Athalye et al. 2018), for targets that only return numbers. One
gradient costs one run of the target.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import Tensor

from rsc.errors import UsageError
from rsc.hw_targets.base import DeployedModel
from rsc.program import EncoderSpec
from rsc.robustness.model import ModuleModel, from_deployed
from rsc.robustness.surrogates import Memory


@dataclasses.dataclass(frozen=True, eq=False)
class Bpda:
    """A deployed program with borrowed gradients.

    Fields:
        target: deployed program, or a model without gradients.
        twin: differentiable model of the same program, with the same encoder.

    Raises:
        UsageError: their encoders or bounds differ, or the twin has no gradient.
    """

    target: DeployedModel | ModuleModel
    twin: ModuleModel
    answers: Callable[[Tensor], Tensor] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        plain = from_deployed(self.target) if isinstance(self.target, DeployedModel) else self.target
        same = (plain.encoder, plain.bounds) == (self.twin.encoder, self.twin.bounds)
        if not same or not self.twin.differentiable:
            raise UsageError(
                f"'{self.twin.name}' is no twin of '{plain.name}'.",
                "Both take the same frames, and the twin has gradients.",
                "Make both from one program.",
            )
        object.__setattr__(self, "answers", plain.core)

    @property
    def encoder(self) -> EncoderSpec:
        """The common one."""
        return self.twin.encoder

    @property
    def bounds(self) -> tuple[float, float]:
        """The common ones."""
        return self.twin.bounds

    @property
    def name(self) -> str:
        """For reports."""
        return f"{self.twin.name} (BPDA)"

    @property
    def surrogate(self) -> str:
        """The twin's."""
        return self.twin.surrogate

    @property
    def memory(self) -> Memory | None:
        """The twin's."""
        return self.twin.memory

    @property
    def module(self) -> Callable[[Tensor], Tensor]:
        """Whose device the images go to."""
        return self.twin.module

    def core(self, frames: Tensor) -> Tensor:
        """Logits [B, K]: the target's values, the twin's gradient."""
        answer = self.answers(frames.detach())
        if not frames.requires_grad:
            return answer
        relaxed = self.twin.core(frames)
        return relaxed + (answer.to(relaxed) - relaxed).detach()
