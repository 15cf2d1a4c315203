"""From the differential equations of a NIR neuron to the numbers of one time step.

    i' = alpha_syn i + beta_syn x          (Cuba neurons only; otherwise i' = x)
    h  = alpha v + beta i' + c
    spiking neurons fire where h > v_threshold (or >=), and v' is h after the reset

The membrane uses the new synaptic current i', held over the step. All states start at 0.

| node | equation (nir 1.0.8) | Euler | exponential |
|---|---|---|---|
| I, IF | dv/dt = R x | alpha 1, beta R dt, c 0 | the same |
| LI, LIF | tau dv/dt = v_leak - v + R x | k = dt/tau: alpha 1-k, beta R k, c v_leak k | k = 1-exp(-dt/tau) |
| CubaLI, CubaLIF | tau_syn di/dt = w_in x - i, and LI with R i | as LI, twice | as LI, twice |
"""

from __future__ import annotations

import dataclasses
from typing import Any

import nir
import numpy as np

from rsc.program import Semantics
from rsc.results import Issue

NEURONS = (nir.I, nir.IF, nir.LI, nir.LIF, nir.CubaLI, nir.CubaLIF)
SYNAPTIC = (nir.CubaLI, nir.CubaLIF)
RESETTING = (nir.IF, nir.LIF, nir.CubaLIF)
SPIKING = (*RESETTING, nir.Threshold)

_TAUS = ("tau", "tau_syn", "tau_mem")


@dataclasses.dataclass(frozen=True, eq=False)
class Coefficients:
    """The update of one population of neurons; float64 arrays that broadcast to its shape.

    Fields:
        alpha, beta, c: of the membrane, h = alpha v + beta i' + c.
        alpha_syn, beta_syn: of the synapse, i' = alpha_syn i + beta_syn x; None without one.
        v_threshold, v_reset: None for neurons that do not fire.
    """

    alpha: np.ndarray
    beta: np.ndarray
    c: np.ndarray
    alpha_syn: np.ndarray | None = None
    beta_syn: np.ndarray | None = None
    v_threshold: np.ndarray | None = None
    v_reset: np.ndarray | None = None


def coefficients(node: Any, semantics: Semantics) -> Coefficients:
    """The coefficients of a neuron node (one of `NEURONS`) under the time step and integrator given."""
    r = _array(node.r)
    if isinstance(node, nir.I | nir.IF):
        alpha, beta, c = np.ones_like(r), r * semantics.dt, np.zeros_like(r)
    else:
        alpha, k = _leak(node.tau_mem if isinstance(node, SYNAPTIC) else node.tau, semantics)
        beta, c = r * k, _array(node.v_leak) * k
    alpha_syn = beta_syn = v_threshold = v_reset = None
    if isinstance(node, SYNAPTIC):
        alpha_syn, k = _leak(node.tau_syn, semantics)
        beta_syn = _array(node.w_in) * k
    if isinstance(node, RESETTING):
        v_threshold = _array(node.v_threshold)
        v_reset = np.zeros_like(v_threshold) if node.v_reset is None else _array(node.v_reset)
    return Coefficients(alpha, beta, c, alpha_syn, beta_syn, v_threshold, v_reset)


def delay_steps(node: nir.Delay, dt: float) -> np.ndarray:
    """int64, the delay of each element in whole time steps, rounded to nearest (halves to even)."""
    return np.rint(_array(node.delay) / dt).astype(np.int64)


def time_issues(name: str, node: Any, semantics: Semantics) -> list[Issue]:
    """Time constants and delays that look as if they were not in seconds, or that dt cannot resolve.

    NIR does not fix the unit of time: most tools write seconds, some milliseconds, some time steps,
    and a wrong guess is a factor of 1000 without any error.
    """
    issues = [_tau_issue(name, field, node, semantics) for field in _TAUS if hasattr(node, field)]
    if isinstance(node, nir.Delay):
        steps = _array(node.delay) / semantics.dt
        if (abs(steps - np.rint(steps)) > 1e-6 * np.maximum(1, abs(steps))).any():
            text = f"Delay up to {_array(node.delay).max():g} s is no multiple of dt {semantics.dt:g} s."
            issues.append(Issue("warning", name, text, "It is rounded to whole steps; choose another dt."))
    return [issue for issue in issues if issue is not None]


def _tau_issue(name: str, field: str, node: Any, semantics: Semantics) -> Issue | None:
    tau = _array(getattr(node, field))
    low, high = float(tau.min(initial=np.inf)), float(tau.max(initial=0.0))
    if not low > 0:
        return None
    if high >= 1 or semantics.dt / high < 1e-4:
        what = f"{field} is up to {high:g} s at dt {semantics.dt:g} s; its unit is probably ms or time steps."
        fix = "NIR does not fix the unit: multiply tau by 1e-3 if it is in ms, by dt if it is in steps."
        return Issue("warning", name, what, fix)
    if semantics.dt / low > 1:
        what = f"{field} is down to {low:g} s, shorter than dt {semantics.dt:g} s: the step is too long."
        fix = "Use a smaller dt; if tau counts ms or time steps, convert it (and dt) to seconds."
        return Issue("warning", name, what, fix)
    return None


def _leak(tau: Any, semantics: Semantics) -> tuple[np.ndarray, np.ndarray]:
    """(what is kept, what is taken in) per step of a first-order low-pass; both float64."""
    ratio = semantics.dt / _array(tau)
    if semantics.integrator == "exponential":
        return np.exp(-ratio), -np.expm1(-ratio)
    return 1.0 - ratio, ratio


def _array(value: Any) -> np.ndarray:
    return np.asarray(value, dtype=np.float64)
