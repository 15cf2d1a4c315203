"""What an attack maximises: per-image losses of logits [B, K]; larger means closer to wrong."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from rsc.errors import UsageError

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log softmax(z)_y, [B]."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{j != y} z_j - z_y, [B]; positive exactly when the image is misread."""
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.amax(1) - logits.gather(1, y[:, None])[:, 0]


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio, margin / (z_(1) - z_(3)) (Croce and Hein 2020, eq. 6), [B].

    Raises:
        UsageError: fewer than three classes.
    """
    _at_least(3, logits)
    top = logits.sort(1, descending=True).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


def dlr_targeted(target: Tensor) -> Loss:
    """(z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2) towards class `target` [B] (same source, eq. 7)."""

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        _at_least(4, logits)
        top = logits.sort(1, descending=True).values
        gap = logits.gather(1, target[:, None])[:, 0] - logits.gather(1, y[:, None])[:, 0]
        return gap / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)

    return loss


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "margin": margin, "dlr": dlr}


def _at_least(classes: int, logits: Tensor) -> None:
    if logits.shape[1] < classes:
        raise UsageError(
            f"This loss needs {classes} classes, the model has {logits.shape[1]}.",
            "It ranks the logits and divides by a gap between them.",
            "Use the cross-entropy form of the attack.",
        )
