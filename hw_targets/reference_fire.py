"""One step of neurons that fire, in numpy float64, under every rule of `Semantics`."""

from __future__ import annotations

import numpy as np

from rsc.discretise import Coefficients
from rsc.program import Semantics
from rsc.stateless import fires


def fire_step(
    x: np.ndarray, v: np.ndarray, k: Coefficients, rules: Semantics
) -> tuple[np.ndarray, np.ndarray]:
    """Integrate, fire and reset.

    Args:
        x: what drives the membrane [B, ...]: the input, or the current of a synapse.
        v: membrane after the step before [B, ...].
        k: of a neuron with a threshold.

    Returns:
        spikes per neuron, membrane after the step.
    """
    if rules.reset_step == "crossing":
        return _crossing_step(x, v, k, rules)
    v_threshold, v_reset = np.asarray(k.v_threshold), np.asarray(k.v_reset)
    late, subtract = rules.reset_step in ("next", "hold"), rules.reset == "subtract"
    due = count(v, v_threshold, rules) if late else np.zeros_like(v)
    if rules.reset_step == "next" and not subtract:
        v = np.where(due > 0, v_reset, v)
    h = k.alpha * v + k.beta * x + k.c
    if subtract:
        h = h - due * v_threshold
    if rules.reset_step == "hold":
        h = np.where(due > 0, v_reset, h)
    spikes = count(h, v_threshold, rules)
    if not late:
        h = np.where(spikes > 0, h - spikes * v_threshold if subtract else v_reset, h)
    return spikes, h if k.v_min is None else np.maximum(h, k.v_min)


def _crossing_step(
    x: np.ndarray, v: np.ndarray, k: Coefficients, rules: Semantics
) -> tuple[np.ndarray, np.ndarray]:
    """The same with resets at the moment of crossing; x is constant over the step, so all is in closed form.

    The membrane runs towards `target` at the rate dt/tau, or by `drive` per step where nothing leaks. It
    reaches the threshold after `first` steps, and again every `period` steps.
    """
    v_threshold, rate = np.asarray(k.v_threshold), np.asarray(k.rate)
    drive = k.beta * x + k.c
    leaks = np.broadcast_to(rate > 0, v.shape)
    with np.errstate(divide="ignore", invalid="ignore"):  # of neurons that do not fire
        target = drive / (1.0 - k.alpha)

        def steps(start: np.ndarray) -> np.ndarray:
            curved = np.log((target - start) / (target - v_threshold)) / rate
            return np.where(leaks, curved, (v_threshold - start) / drive)

        v_reset = np.zeros_like(v_threshold) if rules.reset == "subtract" else np.asarray(k.v_reset)
        h = k.alpha * v + drive
        fired = fires(h, v_threshold, rules)
        first = np.where(fired & (v < v_threshold), steps(v), 0.0)
        again = fired & np.where(leaks, target > v_threshold, drive > 0)
        period = np.where(again, steps(v_reset), np.inf)
        repeats = np.floor((1.0 - first) / period)
        left = 1.0 - first - np.where(again, repeats * period, 0.0)
        risen = np.where(leaks, target + (v_reset - target) * np.exp(-rate * left), v_reset + drive * left)
    spikes = fired * (1.0 if rules.spikes_per_step == "one" else 1.0 + repeats)
    h = np.where(fired, risen, h)
    return spikes, h if k.v_min is None else np.maximum(h, k.v_min)


def count(v: np.ndarray, v_threshold: np.ndarray, rules: Semantics) -> np.ndarray:
    """How many spikes leave at once, float64: the thresholds that v is above (or, by `comparison`, at)."""
    if rules.spikes_per_step == "one":
        return fires(v, v_threshold, rules).astype(np.float64)
    ratio = v / v_threshold
    return np.maximum(np.floor(ratio) if rules.comparison == ">=" else np.ceil(ratio) - 1.0, 0.0)
