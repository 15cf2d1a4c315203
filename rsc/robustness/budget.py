"""Black-box attacks that keep to a number of network runs per image, for targets that only answer `run`."""

from __future__ import annotations

import dataclasses

from rsc.errors import UsageError
from rsc.robustness.attacks import Attack
from rsc.robustness.eot import Eot
from rsc.robustness.model import StochasticModel


def within(attack: Attack, runs: int, model: StochasticModel | Eot, judge_draws: int = 8) -> Attack:
    """The attack with as many steps as its budget of runs per image allows, judging included.

    Raises:
        UsageError: not even one step fits.
    """

    def sized(steps: int) -> Attack:
        return dataclasses.replace(attack, steps=steps)

    least = sized(1).cost(model, judge_draws)
    if least > runs:
        raise UsageError(
            f"A budget of {runs} runs is too small for attack '{attack.name}'.",
            f"One step of it takes {least} runs per image.",
            "Raise the budget, or lower the draws, pairs or restarts.",
        )
    low, high = 1, runs  # a step takes at least a run
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if sized(middle).cost(model, judge_draws) <= runs else (low, middle - 1)
    return sized(low)
