"""Square attack: random search with square patches, no gradients (Andriushchenko et al. 2020)."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor

from rsc.robustness.attacks.base import Attack, Query
from rsc.robustness.ball import Ball

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10 000 queries


@dataclasses.dataclass(frozen=True)
class Square(Attack):
    """Accepts a patch of +-eps when the mean margin rises.

    Images [B, C, H, W] get square patches; anything flatter gets runs of neighbouring values.
    In L2 and L1 a patch alone uses up the radius, and the sum is projected back: simpler than the published
    L2 form, which moves mass between windows.
    Under noise a lucky measurement would freeze the search, so the incumbent is measured anew
    every `refresh` steps.

    Fields:
        share: of the image that the first patches cover.
        refresh: steps between two measurements of the incumbent.
    """

    name: ClassVar[str] = "square"
    judge: ClassVar[str] = "margin"

    steps: int = 1000
    share: float = 0.8
    refresh: int = 10

    @property
    def queries(self) -> tuple[int, int]:
        """Of one restart."""
        return 1 + self.steps + (self.steps - 1) // self.refresh, 1

    def _search(self, query: Query, ball: Ball, start: Tensor) -> list[Tensor]:
        stripes = _stripes(ball, query.generator)
        best = ball.project(ball.x + stripes * ball.radius / ball.size(stripes))
        best_loss = query.loss(best, "margin")
        for k in range(self.steps):
            if query.eot.model.encoder.stochastic and k and k % self.refresh == 0:
                best_loss = query.loss(best, "margin")
            patch = _patches(ball, patch_share(k, self.steps, self.share), query.generator)
            height = ball.radius / ball.size(patch)
            trial = ball.project(torch.where(patch == 0, best, ball.x + patch * height))
            loss = query.loss(trial, "margin")
            better = loss > best_loss
            best = torch.where(better.reshape_as(ball.radius), trial, best)
            best_loss = torch.where(better, loss, best_loss)
        return [best]


def patch_share(step: int, steps: int, first: float) -> float:
    """Share of the image that a patch covers: the published schedule, rescaled to the budget."""
    position = step / steps * 10_000
    return first / 2 ** sum(position > mark for mark in _HALVINGS)


def _image_shape(x: Tensor) -> tuple[int, int, int]:
    """C, H, W of an image; anything that is not [C, H, W] counts as one row."""
    return tuple(x.shape[1:]) if x.ndim == 4 else (1, 1, math.prod(x.shape[1:]))  # type: ignore[return-value]


def _signs(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    bits = torch.randint(0, 2, shape, generator=generator, device=like.device)
    return (2 * bits - 1).to(like.dtype)


def _stripes(ball: Ball, generator: torch.Generator) -> Tensor:
    """Start of the search: vertical stripes of +-1."""
    c, _, w = _image_shape(ball.x)
    stripes = _signs((len(ball.x), c, 1, w), ball.x, generator)
    full = stripes.expand(-1, -1, _image_shape(ball.x)[1], -1)
    return full.reshape_as(ball.x)


def _patches(ball: Ball, share: float, generator: torch.Generator) -> Tensor:
    """One patch per image, +-1 inside (a sign per channel) and 0 outside."""
    c, h, w = _image_shape(ball.x)
    if h == 1:
        high, wide = 1, max(1, min(round(share * w), w))
    else:
        high = wide = max(1, min(round(math.sqrt(share * h * w)), h, w))
    rows = _window(len(ball.x), h, high, ball.x, generator)
    columns = _window(len(ball.x), w, wide, ball.x, generator)
    inside = rows[:, None, :, None] & columns[:, None, None, :]
    signs = _signs((len(ball.x), c, 1, 1), ball.x, generator)
    return (inside * signs).reshape_as(ball.x)


def _window(batch: int, size: int, width: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Bool [batch, size], `width` neighbours at a random place."""
    first = torch.randint(0, size - width + 1, (batch, 1), generator=generator, device=like.device)
    place = torch.arange(size, device=like.device)
    return (place >= first) & (place < first + width)
