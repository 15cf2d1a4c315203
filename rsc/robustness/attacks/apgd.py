"""Auto-PGD: momentum, and a step size that halves when the ascent stalls (Croce and Hein 2020)."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rsc.errors import UsageError
from rsc.robustness.attacks.apgd_l1 import ascend_l1
from rsc.robustness.attacks.base import Attack, Query
from rsc.robustness.ball import Ball
from rsc.robustness.losses import Loss, dlr_targeted

_MOMENTUM = 0.75
_RISE_SHARE = 0.75  # fewer rises than this share since the last checkpoint means a stall


def checkpoints(steps: int) -> list[int]:
    """Steps at which progress is judged: 0.22 N, then intervals shrinking by 0.03 N down to 0.06 N."""
    points, p, last = [], 0.22, 0.0
    while p <= 1:
        points.append(math.ceil(p * steps - 1e-9))
        p, last = p + max(p - last - 0.03, 0.06), p
    return sorted(set(points))


@dataclasses.dataclass(frozen=True)
class Apgd(Attack):
    """APGD on the mean loss; in L1 the sparse form of Croce and Hein 2021 (`apgd_l1`).

    Fields:
        loss: "ce", "dlr", or "dlr_targeted" (restart r aims at the class ranked r+2 on the clean image).
    """

    name: ClassVar[str] = "apgd"

    steps: int = 100
    random_start: bool = True
    loss: Literal["ce", "dlr", "dlr_targeted"] = "ce"
    targets: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets < 1 or (self.targets > 1 and self.loss != "dlr_targeted"):
            raise UsageError(
                f"targets is {self.targets} with loss '{self.loss}'.",
                "Only the targeted loss aims at several classes.",
                "Use targets=1 or loss='dlr_targeted'.",
            )

    @property
    def queries(self) -> tuple[int, int]:
        """Of one restart."""
        asked = self.targets * (self.steps + 1)
        return asked + (self.loss == "dlr_targeted"), self.targets

    def _search(self, query: Query, ball: Ball, start: Tensor) -> list[Tensor]:
        if self.loss != "dlr_targeted":
            return [self._ascend(query, ball, start, self.loss)]
        ranked = (
            query.mean_logits(ball.x).scatter(1, query.y[:, None], -torch.inf).argsort(1, descending=True)
        )
        wanted = range(min(self.targets, ranked.shape[1] - 1))
        return [self._ascend(query, ball, start, dlr_targeted(ranked[:, k])) for k in wanted]

    def _ascend(self, query: Query, ball: Ball, start: Tensor, loss: str | Loss) -> Tensor:
        """The iterate of largest mean loss."""
        if self.norm == "l1":
            return ascend_l1(query, ball, start, loss, self.steps)
        step = 2 * ball.eps
        value, grad = query.gradient(start, loss)
        state = _State(start, start, start, grad, grad, value, value, step)
        watch = _Watch(value, step, torch.zeros_like(value))
        last, marks = 0, set(checkpoints(self.steps))
        for k in range(self.steps):
            state, rose = _advance(state, query, ball, loss, first=k == 0)
            watch = dataclasses.replace(watch, rises=watch.rises + rose)
            if k + 1 in marks:
                state, watch = _judge(state, watch, k + 1 - last)
                last = k + 1
        return state.best


@dataclasses.dataclass(frozen=True, eq=False)
class _State:
    """Iterates [B, ...] (now, before, best), gradients at now and best, losses [B], step size [B]."""

    z: Tensor
    before: Tensor
    best: Tensor
    grad: Tensor
    best_grad: Tensor
    loss: Tensor
    best_loss: Tensor
    step: Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class _Watch:
    """Best loss and step size at the last checkpoint, and rises of the loss since."""

    best_loss: Tensor
    step: Tensor
    rises: Tensor


def _advance(s: _State, query: Query, ball: Ball, loss: str | Loss, first: bool) -> tuple[_State, Tensor]:
    """One momentum step, and which images' loss rose."""
    shape = ball.radius.shape
    aim = ball.project(s.z + s.step.reshape(shape) * ball.steepest(s.grad, s.z))
    pull = 1.0 if first else _MOMENTUM
    z = ball.project(s.z + pull * (aim - s.z) + (1 - pull) * (s.z - s.before))
    value, grad = query.gradient(z, loss)
    better = value > s.best_loss
    rows = better.reshape(shape)
    new = _State(
        z=z,
        before=s.z,
        best=torch.where(rows, z, s.best),
        grad=grad,
        best_grad=torch.where(rows, grad, s.best_grad),
        loss=value,
        best_loss=torch.where(better, value, s.best_loss),
        step=s.step,
    )
    return new, (value > s.loss).to(value)


def _judge(s: _State, watch: _Watch, length: int) -> tuple[_State, _Watch]:
    """Halve the step and return to the best point where the ascent stalled."""
    few = watch.rises < _RISE_SHARE * length
    idle = (watch.step == s.step) & (watch.best_loss >= s.best_loss)
    stalled = few | idle
    rows = stalled.reshape(-1, *[1] * (s.z.ndim - 1))
    z = torch.where(rows, s.best, s.z)
    new = dataclasses.replace(
        s,
        z=z,
        before=torch.where(rows, z, s.before),
        grad=torch.where(rows, s.best_grad, s.grad),
        loss=torch.where(stalled, s.best_loss, s.loss),
        step=torch.where(stalled, s.step / 2, s.step),
    )
    return new, _Watch(s.best_loss, s.step, torch.zeros_like(watch.rises))
