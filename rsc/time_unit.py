"""The unit of time of a NIR file: NIR fixes none, and a wrong guess is a factor of 1000 without any error.

Most tools write seconds, some milliseconds (hxtorch, jaxsnn), some time steps (Sinabs), and Norse 1.1.0
writes dt times the seconds. What gives a unit away is the size of tau against dt, and r: an exporter that
scales no input writes r = tau/dt (w_in = tau_syn/dt), so tau/r is its time step in its own unit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import nir
import numpy as np

from rsc.errors import unknown_name
from rsc.program import Semantics
from rsc.results import Issue

# unit -> seconds per unit, given the time step in seconds
UNITS: dict[str, Callable[[float], float]] = {
    "s": lambda dt: 1.0,
    "ms": lambda dt: 1e-3,
    "steps": lambda dt: dt,
    "norse": lambda dt: 1.0 / dt,
}
_NAMES = {"ms": "milliseconds", "steps": "time steps", "norse": "dt x seconds, as Norse 1.1.0 writes it"}
_TAUS = ("tau", "tau_syn", "tau_mem")
_LONG = 1.0  # s; few networks remember longer


def in_seconds(graph: nir.NIRGraph, unit: str, dt: float) -> nir.NIRGraph:
    """A copy of a graph with time in seconds.

    Time constants and delays are converted; r of I and IF, which is per unit of time, conversely (but not
    for "norse", whose exporter scales tau alone).

    Args:
        unit: of the times in `graph`, one of `UNITS`.
        dt: time step in seconds.

    Raises:
        UsageError: no such unit.
    """
    if unit not in UNITS:
        raise unknown_name("unit of time", unit, UNITS)
    factor, graph = UNITS[unit](dt), copy.deepcopy(graph)
    for node in graph.nodes.values():
        if isinstance(node, nir.NIRGraph):
            node.nodes = in_seconds(node, unit, dt).nodes
        for field in (*_TAUS, "delay"):
            if hasattr(node, field):
                setattr(node, field, _array(getattr(node, field)) * factor)
        if isinstance(node, nir.I | nir.IF) and unit != "norse":
            node.r = _array(node.r) / factor
    return graph


def time_issues(name: str, node: Any, semantics: Semantics) -> list[Issue]:
    """Times and gains that look as if time were not in seconds, or that dt cannot resolve."""
    dt = semantics.dt
    issues = [_tau_issue(name, field, node, dt) for field in _TAUS if hasattr(node, field)]
    if isinstance(node, nir.Delay):
        issues.append(_delay_issue(name, _array(node.delay), dt))
    if isinstance(node, nir.I | nir.IF) and semantics.input_gain == "r" and (_array(node.r) == 1).all():
        text = f"r is 1: an input of 1 adds dt = {dt:g} to v in a step. Tools that ignore dt there mean 1."
        issues.append(Issue("warning", name, text, f"If one of them wrote it: {_fix('steps')}"))
    return [issue for issue in issues if issue is not None]


def _delay_issue(name: str, delay: np.ndarray, dt: float) -> Issue | None:
    steps, high = delay / dt, float(delay.max(initial=0.0))
    if high >= _LONG:
        text = f"Delay is up to {high:g} s, {high / dt:g} steps of {dt:g} s; it may count ms or time steps."
        return Issue("warning", name, text, f"If so: {_fix('ms', 'steps')}")
    if (abs(steps - np.rint(steps)) > 1e-6 * np.maximum(1, abs(steps))).any():
        text = f"Delay up to {high:g} s is no multiple of dt {dt:g} s."
        return Issue("warning", name, text, "It is rounded to whole steps; choose another dt.")
    return None


def written_unit(node: Any, field: str, dt: float) -> str | None:
    """The unit that r (or w_in) = tau/dt gives away, or None if the parameters do not say."""
    factor = {"tau": "r", "tau_mem": "r", "tau_syn": "w_in"}[field]
    gain, tau = _array(getattr(node, factor)), _array(getattr(node, field))
    if not (gain > 1).all() or not (tau > 0).all():
        return None
    own = tau / gain  # the exporter's time step in its own unit
    for unit, seconds in UNITS.items():
        if np.allclose(own * seconds(dt), dt, rtol=1e-3, atol=0):
            return unit
    return None


def _tau_issue(name: str, field: str, node: Any, dt: float) -> Issue | None:
    tau = _array(getattr(node, field))
    low, high = float(tau.min(initial=np.inf)), float(tau.max(initial=0.0))
    if not low > 0:
        return None
    said = written_unit(node, field, dt)
    if said == "s":
        return None
    long, short = high >= _LONG or dt / high < 1e-4, dt / low > 1.001
    if not long and not short and said is None:
        return None
    if said is not None:
        proof = "r = tau/dt" if field != "tau_syn" else "w_in = tau_syn/dt"
        what = f"{field} is {_span(low, high)}; {proof} shows that its unit is {_NAMES[said]}, not seconds."
        return Issue("warning", name, what, _fix(said))
    if short and dt <= low / dt <= 1:
        what = (
            f"{field} is down to {low:g} s, shorter than dt {dt:g} s; Norse 1.1.0 writes {low / dt:g} s so."
        )
        return Issue("warning", name, what, f"If Norse wrote it: {_fix('norse')} Otherwise use a smaller dt.")
    if short:
        what = f"{field} is down to {low:g} s, shorter than dt {dt:g} s: the step is too long."
        fix = "Use a smaller dt; if tau counts ms or time steps, give dt in seconds and --time-unit."
        return Issue("warning", name, what, fix)
    what = f"{field} is up to {high:g} s, {high / dt:g} steps of dt {dt:g} s; it may count ms or time steps."
    fix = f"As ms it is {1e-3 * high / dt:g} steps, as time steps {high:g}. If so: {_fix('ms', 'steps')}"
    return Issue("warning", name, what, fix)


def _fix(*units: str) -> str:
    options = " or ".join(f"--time-unit {unit}" for unit in units)
    return f"Use {options} (in Python rsc.time_unit.in_seconds)."


def _span(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _array(value: Any) -> np.ndarray:
    return np.asarray(value, dtype=np.float64)
