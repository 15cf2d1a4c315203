"""One step of neurons that fire, in numpy float64, under every rule of `Semantics`."""

from __future__ import annotations

import numpy as np

from rsc.discretise import Coefficients
from rsc.hw_targets.reference_ops import fires
from rsc.program import Semantics


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
    v_threshold, v_reset = np.asarray(k.v_threshold), np.asarray(k.v_reset)
    late, subtract = rules.reset_step == "next", rules.reset == "subtract"
    due = count(v, v_threshold, rules) if late else np.zeros_like(v)
    if not subtract:
        v = np.where(due > 0, v_reset, v)
    h = k.alpha * v + k.beta * x + k.c
    if subtract:
        h = h - due * v_threshold
    spikes = count(h, v_threshold, rules)
    if not late:
        h = np.where(spikes > 0, h - spikes * v_threshold if subtract else v_reset, h)
    return spikes, h if k.v_min is None else np.maximum(h, k.v_min)


def count(v: np.ndarray, v_threshold: np.ndarray, rules: Semantics) -> np.ndarray:
    """How many spikes leave at once, float64: the thresholds that v is above (or, by `comparison`, at)."""
    if rules.spikes_per_step == "one":
        return fires(v, v_threshold, rules).astype(np.float64)
    ratio = v / v_threshold
    return np.maximum(np.floor(ratio) if rules.comparison == ">=" else np.ceil(ratio) - 1.0, 0.0)
