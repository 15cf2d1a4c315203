"""Quantification trade-off estimation: the area under accuracy over attack strength.

    QTE = sum over neighbours a < b of (eta_b - eta_a) (A(eta_b) + A(eta_a)) / 2

The RSC paper (Wu et al., arXiv 2407.20099) gives the trapezoid of one pair, as far as is known. The sum over
a grid, and that divided by eta_max - eta_0, an average accuracy that compares between grids, are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from rsc.errors import UsageError


class Qte(NamedTuple):
    """The trade-off of one accuracy curve.

    Fields:
        area: unit of accuracy times unit of strength.
        mean: area over the range of strengths, in the unit of accuracy.
    """

    area: float
    mean: float


def qte(strengths: Sequence[float], accuracies: Sequence[float]) -> Qte:
    """Area under the accuracies at rising strengths, any unit and spacing.

    Raises:
        UsageError: fewer than two strengths, not one accuracy for each, values that are not finite, or
            strengths that are negative, repeated or not rising.
    """
    eta, a = [float(s) for s in strengths], [float(v) for v in accuracies]
    if len(eta) != len(a) or len(eta) < 2:
        raise UsageError(
            f"QTE was given {len(eta)} strengths and {len(a)} accuracies.",
            "An area takes at least two strengths and an accuracy for each.",
            "Measure more strengths, 0 among them.",
        )
    if not all(map(math.isfinite, eta + a)) or eta[0] < 0:
        raise UsageError(
            "QTE was given a value that cannot be.",
            f"Strengths {eta} and accuracies {a}; all are finite, strengths not negative.",
            "Correct them.",
        )
    pairs = list(zip(eta, eta[1:], a, a[1:], strict=False))
    if any(high <= low for low, high, _, _ in pairs):
        raise UsageError(
            f"The strengths of QTE are {eta}.", "They rise, each given once.", "Sort them and drop repeats."
        )
    area = math.fsum((high - low) * (after + before) / 2 for low, high, before, after in pairs)
    return Qte(area, area / (eta[-1] - eta[0]))
