"""A certificate of a slow target through its fast twin.

    P[target = A] >= P[twin = A, target = A] = P[twin = A] - P[twin = A, target != A]

The first term takes many runs of the twin, the second a few paired runs of both on the same recorded noise;
each is bounded at alpha / 2. The smallest pA that the second term can cost is ln(2 / alpha) / m for m paired
runs without any disagreement (0.011 for 700 at alpha = 0.001), so a target that is the twin bit for bit still
pays for what was not looked at.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from rsc.results import Keys
from rsc.robustness.certify_count import identity_of
from rsc.robustness.certify_state import Tally
from rsc.robustness.predict import Predictor, as_predictor, checked, name_of, source_of
from rsc.robustness.results import NoiseSource, Transfer
from rsc.robustness.statistics import clopper_pearson_high

_SHIFT = 20  # classes are below 2^20


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Twin and target on the same noise, as one predictor of pairs of classes in one integer."""

    twin: Predictor
    target: Predictor

    @property
    def source(self) -> NoiseSource:
        """Pairs share recorded noise, so it is keyed."""
        return "keyed"

    @property
    def name(self) -> str:
        """Of the target, for reports."""
        return name_of(self.target)

    @property
    def identity(self) -> str:
        """Of both."""
        return f"{identity_of(self.twin)}+{identity_of(self.target)}"

    def __call__(self, x: np.ndarray, keys: Keys) -> np.ndarray:
        """twin 2^20 + target, int64 [B]."""
        twin, target = (checked(p(x, keys), len(x)) for p in (self.twin, self.target))
        return twin << _SHIFT | target


def pairs(twin: Any, target: Any) -> Pairs:
    """Both as predictors under keyed noise."""
    return Pairs(as_predictor(twin), as_predictor(target))


def shares_noise(pair: Pairs) -> bool:
    """Whether both draw keyed noise, which is the same for all."""
    return source_of(pair.twin) == source_of(pair.target) == "keyed"


def lost(tally: Tally, top: int) -> int:
    """Paired draws on which the twin named `top` and the target did not."""
    return sum(n for code, n in tally.items() if code >> _SHIFT == top != code & ((1 << _SHIFT) - 1))


def disagreements(tally: Tally) -> int:
    """Paired draws on which they differed."""
    return sum(n for code, n in tally.items() if code >> _SHIFT != code & ((1 << _SHIFT) - 1))


def q_up(tally: Tally, top: int, alpha: float) -> float:
    """Upper bound, at confidence 1 - alpha, of the probability to lose `top`."""
    return clopper_pearson_high(lost(tally, top), sum(tally.values()), alpha)


def summed_up(pair: Pairs, tallies: list[Tally], tops: list[int], draws: int, alpha: float) -> Transfer:
    """Over all images; alpha is the share of this side."""
    bounds = [q_up(tally, top, alpha) for tally, top in zip(tallies, tops, strict=True)]
    return Transfer(
        twin=name_of(pair.twin),
        target=name_of(pair.target),
        draws=draws,
        lost=sum(lost(tally, top) for tally, top in zip(tallies, tops, strict=True)),
        disagreements=sum(disagreements(tally) for tally in tallies),
        runs=draws * len(tallies),
        q_up_mean=float(np.mean(bounds)),
        q_up_least=clopper_pearson_high(0, draws, alpha),
    )
