"""Random images beside the coder's noise, from the generator of a step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rsc.training.share import Share
from rsc.training.step import Step


def normal(step: Step) -> Tensor:
    """Standard normals in the shape of the step's images."""
    return _rows(step, torch.randn, step.x.shape[1:])


def uniform(step: Step) -> Tensor:
    """Uniform numbers in [0, 1) in the shape of the step's images."""
    return _rows(step, torch.rand, step.x.shape[1:])


def uniform_per_image(step: Step) -> Tensor:
    """One uniform number per image, [B, 1, ...]."""
    return _rows(step, torch.rand, (1,) * (step.x.ndim - 1))


def _rows(step: Step, draw: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
    """A part of a batch draws for the whole batch and keeps its rows, as it does for the coder."""
    n = len(step.x)
    first, total = (step.first, step.total) if isinstance(step, Share) else (0, n)
    whole = draw((total, *shape), generator=step.generator, device=step.x.device, dtype=step.x.dtype)
    return whole[first : first + n]
