"""Weight retraction of regularised adversarial training (SNN-RAT, Ding et al., NeurIPS 2022).

    W <- (1 + b) W - b W W^T W

after each optimiser step, rows flattened: one gradient step on a quarter of b ||W W^T - I||^2 (Parseval
networks, Cisse et al., arXiv 1704.08847). A singular value w becomes w + b w (1 - w^2): all are drawn to 1.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from rsc.errors import UsageError

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Retraction(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the weights of convolutions and linear layers are retracted.

    Fields:
        beta: b > 0; 1e-3 to 5e-3 in published code. Singular values above sqrt(1 + 2 / b) would grow.
        sample_from: linear layers with at least this many rows are retracted on a sample of their rows.
        share: of the rows in a sample, rounded down.
        seed: of the samples, which depend on (seed, step, layer) alone.
    """

    beta: float = 1e-3
    sample_from: int = 200
    share: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        held = math.isfinite(self.beta) and self.beta > 0 and 0 < self.share <= 1
        if not (held and self.seed >= 0 and self.sample_from >= 1):
            raise UsageError(
                f"retraction has beta {self.beta}, share {self.share}, seed {self.seed} and "
                f"sample_from {self.sample_from}.",
                "beta is finite and positive, share lies in (0, 1], the seed is not negative, samples begin "
                "at one row or more.",
                "Correct them, or leave the retraction out.",
            )


@torch.no_grad()
def retract(network: nn.Module, how: Retraction, step: int) -> None:
    """Retract all convolutions and linear layers of a network in place, after optimiser step `step`."""
    layers = [m for m in network.modules() if isinstance(m, (*_CONVOLUTIONS, nn.Linear))]
    for k, layer in enumerate(layers):
        weight = layer.weight
        if isinstance(layer, nn.Linear) and len(weight) >= how.sample_from:
            rng = np.random.Generator(np.random.PCG64([how.seed, step, k]))
            rows = torch.from_numpy(rng.permutation(len(weight))[: int(len(weight) * how.share)])
            rows = rows.to(weight.device)
            weight[rows] = retracted(weight[rows], how.beta)
        else:
            weight.copy_(retracted(weight.flatten(1), how.beta).view_as(weight))


def retracted(weight: Tensor, beta: float) -> Tensor:
    """(1 + b) W - b W W^T W of a matrix, by the cheaper of the two products."""
    rows, columns = weight.shape
    cubed = (weight @ weight.T) @ weight if rows <= columns else weight @ (weight.T @ weight)
    return torch.lerp(cubed, weight, 1 + beta)
