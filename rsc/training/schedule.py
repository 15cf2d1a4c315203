"""The learning rate as a function of the step alone, so that resuming has nothing to restore.

    onecycle: a cosine from lr / 25 up to lr over the first 30 % of the steps, then a cosine down to
              lr / 250,000; equal to torch's OneCycleLR (Smith and Topin, arXiv 1708.07120).
    cosine:   lr (final + (1 - final) (1 + cos(pi p)) / 2), p in [0, 1] after the warm-up
              (Loshchilov and Hutter, arXiv 1608.03983, one cycle without restarts).
    constant: lr.

The warm-up of the last two rises linearly: lr (k + 1) / w at step k of w.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from rsc.training.config_tables import ScheduleConfig

_RISE, _START, _END = 0.3, 25.0, 1e4


def learning_rate(config: ScheduleConfig, lr: float, step: int, total: int, per_epoch: int) -> float:
    """The learning rate of one optimiser step.

    Args:
        lr: the highest.
        step: from 0 to total - 1.
        total: steps of the run; per_epoch: steps of an epoch.
    """
    if config.kind == "onecycle":
        return _onecycle(lr, step, total)
    warmup = round(config.warmup * per_epoch)
    if step < warmup:
        return lr * (step + 1) / warmup
    after = max(total - 1 - warmup, 1)
    return SHAPES[config.kind](lr, config.final, min((step - warmup) / after, 1.0))


def _cosine(lr: float, final: float, progress: float) -> float:
    return lr * (final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2)


def _constant(lr: float, final: float, progress: float) -> float:
    return lr


SHAPES: dict[str, Callable[[float, float, float], float]] = {"cosine": _cosine, "constant": _constant}


def _onecycle(lr: float, step: int, total: int) -> float:
    first = lr / _START
    top = float(_RISE * total) - 1  # may be negative in a run of a few steps, which then only falls
    if step <= top:
        return _anneal(first, lr, step / top)
    return _anneal(lr, first / _END, (step - top) / (total - 1 - top))


def _anneal(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2.0 * (math.cos(math.pi * progress) + 1)
