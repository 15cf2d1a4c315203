"""From the differential equations of a NIR neuron to the numbers of one time step.

    i' = alpha_syn i + beta_syn x          (Cuba neurons only; otherwise i' = x)
    h  = alpha v + beta i' + c
    spiking neurons fire where h > v_threshold (or >=), and v' is h after the reset

The membrane uses the new synaptic current i', held over the step. States start at 0, the membrane
under v0 "v_leak" at v_leak.

| node | equation (nir 1.0.8) | Euler | exponential |
|---|---|---|---|
| I, IF | dv/dt = R x | alpha 1, beta R dt, c 0 | the same |
| LI, LIF | tau dv/dt = v_leak - v + R x | k = dt/tau: alpha 1-k, beta R k, c v_leak k | k = 1-exp(-dt/tau) |
| CubaLI, CubaLIF | tau_syn di/dt = w_in x - i, and LI with R i | as LI, twice | as LI, twice |

"mixed" takes alpha and c of "exponential" and beta of "euler". The other rules that `Semantics` can ask
for are described there; `special_rules` names those in use.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import msgspec
import nir
import numpy as np

from rsc.program import Semantics
from rsc.results import Issue

NEURONS = (nir.I, nir.IF, nir.LI, nir.LIF, nir.CubaLI, nir.CubaLIF)
SYNAPTIC = (nir.CubaLI, nir.CubaLIF)
RESETTING = (nir.IF, nir.LIF, nir.CubaLIF)
SPIKING = (*RESETTING, nir.Threshold)

# The fields of `Semantics` that a target need not know, with the value that every target means.
SPECIAL = {
    field.name: field.default
    for field in msgspec.structs.fields(Semantics)
    if field.name != "dt" and field.default is not msgspec.NODEFAULT
}
EVERY_RULE = (*SPECIAL, "mixed", "zero")


@dataclasses.dataclass(frozen=True, eq=False)
class Coefficients:
    """The update of one population of neurons; float64 arrays that broadcast to its shape.

    Fields:
        alpha, beta, c: of the membrane, h = alpha v + beta i' + c.
        alpha_syn, beta_syn: of the synapse, i' = alpha_syn i + beta_syn x; None without one.
        v_threshold, v_reset: None for neurons that do not fire.
        v0: membrane before the first step; None is 0.
        v_min: the membrane is raised to it after a reset; None where it is not.
        rate: dt / tau of the membrane (0 without a leak), for resets inside the step; None without them.
    """

    alpha: np.ndarray
    beta: np.ndarray
    c: np.ndarray
    alpha_syn: np.ndarray | None = None
    beta_syn: np.ndarray | None = None
    v_threshold: np.ndarray | None = None
    v_reset: np.ndarray | None = None
    v0: np.ndarray | None = None
    v_min: np.ndarray | None = None
    rate: np.ndarray | None = None


def coefficients(node: Any, semantics: Semantics) -> Coefficients:
    """The coefficients of a neuron node (one of `NEURONS`) under the time step and rules given."""
    alpha, beta, c = _membrane(node, semantics)
    alpha_syn = beta_syn = v_threshold = v_reset = v_min = rate = None
    if isinstance(node, SYNAPTIC):
        alpha_syn, _, driven = _leak(node.tau_syn, semantics)
        beta_syn = _array(node.w_in) * driven
    if isinstance(node, RESETTING):
        v_threshold = _array(node.v_threshold)
        to_zero = node.v_reset is None or semantics.reset == "zero"
        v_reset = np.zeros_like(v_threshold) if to_zero else _array(node.v_reset)
        clamped = semantics.clamp == "all" or (semantics.clamp == "if" and isinstance(node, nir.IF))
        v_min = -v_threshold if clamped else None
        rate = _rate(node, semantics) if semantics.reset_step == "crossing" else None
    leaky = not isinstance(node, nir.I | nir.IF)
    v0 = _array(node.v_leak) if semantics.v0 == "v_leak" and leaky else None
    return Coefficients(alpha, beta, c, alpha_syn, beta_syn, v_threshold, v_reset, v0, v_min, rate)


def _membrane(node: Any, semantics: Semantics) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(alpha, beta, c) of a neuron node."""
    r = _array(node.r)
    one, own = np.ones_like(r), semantics.input_gain == "r" or isinstance(node, SYNAPTIC)
    if isinstance(node, nir.I | nir.IF):
        return one, r * semantics.dt if own else one, np.zeros_like(r)
    alpha, taken, driven = _leak(_tau(node), semantics)
    gain = one if semantics.input_gain == "one" else driven
    return alpha, r * driven if own else one * gain, _array(node.v_leak) * taken


def _tau(node: Any) -> Any:
    """Time constant of the membrane of a neuron that leaks."""
    return node.tau_mem if isinstance(node, SYNAPTIC) else node.tau


def effective_r(node: Any, semantics: Semantics) -> np.ndarray:
    """The r that gives a neuron under input_gain "r" the gain it has under `semantics`."""
    r = _array(node.r)
    if semantics.input_gain == "r" or isinstance(node, SYNAPTIC):
        return r
    if isinstance(node, nir.I | nir.IF):
        return np.full_like(r, 1.0 / semantics.dt)
    if semantics.input_gain == "leak":
        return np.ones_like(r)
    return 1.0 / _leak(_tau(node), semantics)[2] * np.ones_like(r)


def _rate(node: Any, semantics: Semantics) -> np.ndarray:
    if isinstance(node, nir.IF):
        return np.zeros_like(_array(node.r))
    return semantics.dt / _array(_tau(node))


def special_rules(semantics: Semantics, known: Collection[str] = ()) -> list[Issue]:
    """An error for each rule that departs from what every target knows and that is not in `known`.

    Args:
        known: names of fields of `Semantics` (`SPECIAL`) that a target honours, and "mixed", "zero" for
            these values of `integrator` and `reset`.
    """
    asked = [(f, getattr(semantics, f)) for f in SPECIAL if getattr(semantics, f) != SPECIAL[f]]
    asked = [(field, value) for field, value in asked if field not in known]
    asked += [("integrator", "mixed")] if semantics.integrator == "mixed" and "mixed" not in known else []
    asked += [("reset", "zero")] if semantics.reset == "zero" and "zero" not in known else []
    fix = "Use target 'reference' or 'torch', or drop the rule from the semantics."
    return [Issue("error", "", f"The target does not know {f} = {v!r}.", fix) for f, v in asked]


def delay_steps(node: nir.Delay, dt: float) -> np.ndarray:
    """int64, the delay of each element in whole time steps, rounded to nearest (halves to even)."""
    return np.rint(_array(node.delay) / dt).astype(np.int64)


def _leak(tau: Any, semantics: Semantics) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(what is kept, what is let go, gain of a unit input) per step of a first-order low-pass; float64."""
    ratio = semantics.dt / _array(tau)
    if semantics.integrator == "euler":
        return 1.0 - ratio, ratio, ratio
    taken = -np.expm1(-ratio)
    return np.exp(-ratio), taken, ratio if semantics.integrator == "mixed" else taken


def _array(value: Any) -> np.ndarray:
    return np.asarray(value, dtype=np.float64)
