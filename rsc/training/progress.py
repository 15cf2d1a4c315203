"""Where a training stands inside an epoch, for whoever watches it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Progress:
    """One look at a training, after an optimiser step.

    Fields:
        what: "training", or "teacher" for the ANN that is trained before it.
        epoch: from 1; epochs: planned.
        step: optimiser steps done in this epoch; steps: of a whole one.
        loss: mean over the images of this epoch met so far.
        rate: images per second in this epoch.
        remaining_s: seconds until the last epoch would end at this rate; evaluation is not counted.
    """

    what: str
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    rate: float
    remaining_s: float


Watcher = Callable[[Progress], None]


def nobody(progress: Progress) -> None:
    """Watches nothing."""


def progress_of(
    what: str, at: tuple[int, int], of: tuple[int, int], seen: int, n: int, loss_sum: float, seconds: float
) -> Progress:
    """Rates from sums.

    Args:
        at: epochs that are over, steps done in the one at hand; of: epochs planned, steps of each.
        seen: of its n images.
        loss_sum: over these; seconds: that they took.
    """
    (epoch, step), (epochs, steps) = at, of
    rate = seen / max(seconds, 1e-9)
    remaining = ((epochs - epoch) * n - seen) / max(rate, 1e-9)
    return Progress(what, epoch + 1, epochs, step, steps, loss_sum / max(seen, 1), rate, remaining)
