"""The sealed frame of all attacks; one attack is one file that writes `_search`.

The frame owns what must not differ between attacks: the ball, random starts, restarts, chunks,
the choice among candidates by *mean* loss over noise draws, rounding to the input grid.
A candidate is never kept because one noisy run was wrong: without any attack that rule reports a
network of 89 % as 12 %.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from typing import ClassVar, final

import torch
from torch import Tensor

from rsc.errors import UsageError
from rsc.robustness.ball import NORMS, Ball, norm_of
from rsc.robustness.eot import Draws, Eot, as_eot
from rsc.robustness.losses import LOSSES, Loss
from rsc.robustness.model import StochasticModel
from rsc.robustness.results import Norm


@dataclasses.dataclass(frozen=True, eq=False)
class Adversarial:
    """What an attack found.

    Fields:
        x: images [B, ...], in the ball, dtype of the input.
        start, kept: mean loss [B] of the clean and of the returned image under the same judging noise.
        norms: size of each perturbation [B], float64.
        runs: network runs spent per image.
    """

    x: Tensor
    start: Tensor
    kept: Tensor
    norms: Tensor
    runs: int


@dataclasses.dataclass(eq=False)
class Query:
    """The only way an attack sees the network; counts the runs it makes.

    Fields:
        eot: model with its averaging.
        y: labels of the chunk [B].
        draws: noise of this restart.
        index: rows of the whole batch that the chunk holds.
        generator: randomness of the search itself.
    """

    eot: Eot
    y: Tensor
    draws: Draws
    index: slice
    generator: torch.Generator
    runs: int = 0

    def loss(self, z: Tensor, loss: str | Loss = "ce") -> Tensor:
        """Mean loss [B]."""
        self.runs += self.eot.effective_draws
        return self.eot.loss(z, self.y, self.draws, LOSSES[loss] if isinstance(loss, str) else loss)

    def mean_logits(self, z: Tensor) -> Tensor:
        """Logits [B, K] averaged over the noise."""
        self.runs += self.eot.effective_draws
        return self.eot.mean_logits(z, self.draws)

    def gradient(self, z: Tensor, loss: str | Loss = "ce") -> tuple[Tensor, Tensor]:
        """Mean loss [B] and its gradient [B, ...]."""
        self.runs += self.eot.effective_draws
        return self.eot.gradient(z, self.y, self.draws, LOSSES[loss] if isinstance(loss, str) else loss)


@dataclasses.dataclass(frozen=True)
class Attack(ABC):
    """A search for the worst point of a ball.

    Fields:
        norm: "linf", "l2" or "l1".
        steps: gradient or query steps per restart.
        restarts: independent searches; the worst candidate per image is kept.
        random_start: begin at a random point of the ball instead of the image.
    """

    name: ClassVar[str] = "attack"
    norms: ClassVar[tuple[Norm, ...]] = NORMS
    judge: ClassVar[str] = "ce"  # loss that ranks candidates
    keeps_start: ClassVar[bool] = True  # the clean image is a candidate

    norm: Norm = "linf"
    steps: int = 1
    restarts: int = 1
    random_start: bool = False

    def __post_init__(self) -> None:
        if self.norm not in self.norms:
            raise UsageError(
                f"Attack '{self.name}' does not know the norm '{self.norm}'.",
                f"It is defined for {', '.join(self.norms)}.",
                "Use PGD for another norm.",
            )
        if self.steps < 1 or self.restarts < 1:
            raise UsageError(
                f"steps {self.steps} and restarts {self.restarts} must be at least 1.", "", "Raise them."
            )

    @property
    def title(self) -> str:
        """Name for reports, with the loss where it is not the cross-entropy: "apgd_dlr"."""
        loss = str(getattr(self, "loss", "ce"))
        return self.name + {"ce": "", "dlr_targeted": "_targeted"}.get(loss, f"_{loss}")

    @property
    @abstractmethod
    def queries(self) -> tuple[int, int]:
        """Losses or gradients asked for in one restart, and candidates it returns; each at most."""

    def cost(self, model: StochasticModel | Eot, judge_draws: int = 8) -> int:
        """Network runs per image, at most: known before the attack starts."""
        eot = as_eot(model)
        judging = dataclasses.replace(eot, draws=max(judge_draws, eot.draws)).effective_draws
        asked, candidates = self.queries
        return self.restarts * (asked * eot.effective_draws + candidates * judging) + judging

    @abstractmethod
    def _search(self, query: Query, ball: Ball, start: Tensor) -> list[Tensor]:
        """Candidates [B, ...] of one restart, each inside `ball`; `start` is where to begin."""

    @final
    def __call__(
        self,
        model: StochasticModel | Eot,
        x: Tensor,
        y: Tensor,
        eps: float | Tensor,
        *,
        generator: torch.Generator,
        chunk: int = 256,
        levels: int = 0,
        judge_draws: int = 8,
    ) -> Adversarial:
        """Attack images.

        Args:
            model: network, or `Eot` around it.
            x: images [B, ...] in the model's bounds.
            y: labels [B].
            eps: radius in pixel units, one for all or [B].
            generator: all randomness of the attack, on the device of `x`.
            chunk: images at a time.
            levels: grid the target's input lives on (255 for 8-bit images), 0 for none.
            judge_draws: noise draws that rank candidates, at least as many as the gradient uses.

        Raises:
            UsageError: images out of bounds, radius not legal, loss does not fit the model.
        """
        eot = as_eot(model)
        _check_images(eot.model, x, y)
        radii = torch.as_tensor(eps, dtype=torch.float64, device=x.device).expand(len(x))
        if len(x) == 0 or chunk < 1 or not bool(((radii >= 0) & radii.isfinite()).all()):
            raise UsageError("Nothing to attack.", "Needs images, eps >= 0 and chunk >= 1.", "Correct them.")
        parts = [
            self._chunk(eot, x, y, radii, slice(at, min(at + chunk, len(x))), generator, levels, judge_draws)
            for at in range(0, len(x), chunk)
        ]
        return Adversarial(
            x=torch.cat([p.x for p in parts]),
            start=torch.cat([p.start for p in parts]),
            kept=torch.cat([p.kept for p in parts]),
            norms=torch.cat([p.norms for p in parts]),
            runs=max(p.runs for p in parts),
        )

    def _chunk(
        self,
        eot: Eot,
        x: Tensor,
        y: Tensor,
        radii: Tensor,
        index: slice,
        generator: torch.Generator,
        levels: int,
        judge_draws: int,
    ) -> Adversarial:
        """All restarts on some rows, and the worst candidate of each image."""
        x, y = x[index].detach(), y[index]
        ball = Ball(x, radii[index].to(x.dtype), self.norm, eot.model.bounds)
        seal = dataclasses.replace(ball, eps=radii[index])
        judging = dataclasses.replace(eot, draws=max(judge_draws, eot.draws))
        mode = "common" if eot.mode == "fresh" else None
        same = judging.noise(x, generator, index, mode)
        judge = Query(judging, y, same, index, generator)
        start_loss = judge.loss(x, self.judge)
        best, best_loss = x.clone(), start_loss.clone()
        if not self.keeps_start:
            best_loss = torch.full_like(best_loss, -math.inf)
        runs = 0
        for _ in range(self.restarts):
            if eot.memory is not None:
                eot.memory.clear()
            query = Query(eot, y, eot.noise(x, generator, index), index, generator)
            start = ball.random(generator) if self.random_start else x
            for candidate in self._search(query, ball, start):
                sealed = seal.seal(candidate.detach(), levels)
                loss = judge.loss(sealed, self.judge)
                better = loss > best_loss
                best[better], best_loss[better] = sealed[better], loss[better]
            runs += query.runs
        norms = norm_of(best.double() - x.double(), self.norm)
        return Adversarial(best, start_loss, best_loss, norms, runs + judge.runs)


def _check_images(model: StochasticModel, x: Tensor, y: Tensor) -> None:
    low, high = model.bounds
    if not x.is_floating_point() or len(x) != len(y) or y.ndim != 1:
        raise UsageError(
            f"Images {tuple(x.shape)} {x.dtype} and labels {tuple(y.shape)} do not fit.",
            "Images are floating point, one integer label each.",
            "Convert them.",
        )
    if len(x) and not bool(((x >= low) & (x <= high)).all()):
        raise UsageError(
            f"Images span [{x.min():g}, {x.max():g}].",
            f"The model's bounds are [{low:g}, {high:g}].",
            "Scale the images.",
        )
