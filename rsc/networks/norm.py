"""Batch normalisation with statistics and affine parameters of its own at every time step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsc.errors import UsageError


class StepBatchNorm2d(nn.Module):
    """y_t = gamma_t (x_t - mean_t) / sqrt(var_t + eps) + beta_t (Kim and Panda, arXiv 2010.01729).

    Shorter runs use the first of the steps. NIR weights do not depend on time: a network with such layers is
    exported only where all steps agree.

    Args:
        channels: C.
        steps: largest T.
    """

    over_time = True

    def __init__(self, channels: int, steps: int) -> None:
        super().__init__()
        self.at = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(steps))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised [T, B, C, H, W].

        Raises:
            UsageError: T is larger than it was made for.
        """
        if len(x) > len(self.at):
            raise UsageError(
                f"A batch norm with {len(self.at)} time steps was given {len(x)}.",
                "It holds statistics for each of its steps.",
                "Run fewer steps, or use norm 'batch'.",
            )
        return torch.stack([norm(frame) for norm, frame in zip(self.at, x, strict=False)])
