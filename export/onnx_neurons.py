"""One step of NIR neurons as ONNX operations; equations in `rsc.discretise`, rules in `Semantics`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rsc.discretise import Coefficients
from rsc.export.onnx_scope import Scope, is_all
from rsc.program import Semantics


def fires(s: Scope, v: str, limit: str, rules: Semantics) -> str:
    """Where v is above its limit (or at it, by the program's comparison); bool."""
    return s.op("Greater" if rules.comparison == ">" else "GreaterOrEqual", v, limit)


def counts_many(rules: Semantics) -> bool:
    """Whether a neuron may send several spikes at once, so that its output is no bool."""
    return rules.spikes_per_step == "many"


def step_neuron(
    s: Scope, drive: str, before: Sequence[str], k: Coefficients, rules: Semantics
) -> tuple[str, list[str]]:
    """One step of a neuron: its output, and the states after it.

    Args:
        drive: what enters, times its gain [B, ...].
        before: v, and i of a neuron with a synapse.
    """
    v, *current = before
    if current:
        taken, after = charge(s, drive, current[0], k, rules)
        drive, current = s.times(taken, k.beta), [after]
    if k.v_threshold is None:
        v = leak(s, drive, v, k)
        return v, [v, *current]
    spikes, v = fire(s, drive, v, k, rules)
    return spikes, [v, *current]


def charge(s: Scope, drive: str, i: str, k: Coefficients, rules: Semantics) -> tuple[str, str]:
    """(current that the membrane takes, synaptic current after the step) for drive beta_syn x [B, ...]."""
    after = s.op("Add", s.times(i, np.asarray(k.alpha_syn)), drive)
    return (after if rules.current == "new" else i), after


def leak(s: Scope, drive: str, v: str, k: Coefficients) -> str:
    """alpha v + drive + c."""
    return s.plus(s.op("Add", s.times(v, k.alpha), drive), k.c)


def fire(s: Scope, drive: str, v: str, k: Coefficients, rules: Semantics) -> tuple[str, str]:
    """Integrate, fire and reset.

    Args:
        drive: beta times what drives the membrane [B, ...].
        v: membrane after the step before.
        k: of a neuron with a threshold.

    Returns:
        spikes (bool, or a real number where several may leave at once), membrane after the step.
    """
    if rules.reset_step == "crossing":
        spikes, h = _crossing(s, drive, v, k, rules)
    elif rules.reset_step == "same":
        spikes, h = _prompt(s, leak(s, drive, v, k), k, rules)
    else:
        spikes, h = _late(s, drive, v, k, rules)
    return spikes, h if k.v_min is None else s.op("Max", h, s.number(k.v_min))


def _prompt(s: Scope, h: str, k: Coefficients, rules: Semantics) -> tuple[str, str]:
    """Reset in the step of the spike."""
    limit = s.number(k.v_threshold)
    if counts_many(rules):
        spikes = _count(s, h, k, rules)
        some = s.op("Greater", spikes, s.number(0.0))
        taken = s.op("Mul", spikes, limit)
    else:
        spikes = some = fires(s, h, limit, rules)
        taken = limit
    reset = s.op("Sub", h, taken) if rules.reset == "subtract" else s.number(k.v_reset)
    return spikes, s.op("Where", some, reset, h)


def _late(s: Scope, drive: str, v: str, k: Coefficients, rules: Semantics) -> tuple[str, str]:
    """Reset in the step after the spike: before the leak, after it by subtraction, or instead of it."""
    due = _count(s, v, k, rules)
    some = s.op("Greater", due, s.number(0.0))
    if rules.reset_step == "next" and rules.reset != "subtract":
        v = s.op("Where", some, s.number(k.v_reset), v)
    h = leak(s, drive, v, k)
    if rules.reset == "subtract":
        h = s.op("Sub", h, s.op("Mul", due, s.number(k.v_threshold)))
    if rules.reset_step == "hold":
        h = s.op("Where", some, s.number(k.v_reset), h)
    if counts_many(rules):
        return _count(s, h, k, rules), h
    return fires(s, h, s.number(k.v_threshold), rules), h


def _count(s: Scope, v: str, k: Coefficients, rules: Semantics) -> str:
    """How many spikes leave at once, a real number."""
    limit = s.number(k.v_threshold)
    if not counts_many(rules):
        return s.cast(fires(s, v, limit, rules), s.real)
    ratio = s.op("Div", v, limit)
    if rules.comparison == ">=":
        whole = s.op("Floor", ratio)
    else:
        whole = s.op("Sub", s.op("Ceil", ratio), s.number(1.0))
    return s.op("Max", whole, s.number(0.0))


def _crossing(s: Scope, drive: str, v: str, k: Coefficients, rules: Semantics) -> tuple[str, str]:
    """Resets at the moment of crossing, in closed form as `rsc.hw_targets.reference_fire` derives it."""
    drive = s.plus(drive, k.c)
    path = _Path(s, drive, k)
    v_threshold = np.asarray(k.v_threshold)
    v_reset = np.zeros_like(v_threshold) if rules.reset == "subtract" else np.asarray(k.v_reset)
    limit, start, zero, one = s.number(v_threshold), s.number(v_reset), s.number(0.0), s.number(1.0)
    h = s.op("Add", s.times(v, k.alpha), drive)
    fired = fires(s, h, limit, rules)
    risen_in_step = s.op("And", fired, s.op("Less", v, limit))
    first = s.op("Where", risen_in_step, path.steps(v), zero)
    again = s.op("And", fired, path.goes_on())
    period = s.op("Where", again, path.steps(start), s.number(np.inf))
    rest = s.op("Sub", one, first)
    repeats = s.op("Floor", s.op("Div", rest, period))
    left = s.op("Sub", rest, s.op("Where", again, s.op("Mul", repeats, period), zero))
    h = s.op("Where", fired, path.after(left, v_reset), h)
    if not counts_many(rules):
        return fired, h
    return s.op("Where", fired, s.op("Add", one, repeats), zero), h


class _Path:
    """The membrane inside a step: towards drive / (1 - alpha) where it leaks, else on a straight line."""

    def __init__(self, s: Scope, drive: str, k: Coefficients) -> None:
        self.s, self.drive = s, drive
        self.rate, self.v_threshold = np.asarray(k.rate), np.asarray(k.v_threshold)
        self.leaks = self.rate > 0
        self.target = drive
        if self.leaks.any():
            self.target = s.op("Div", drive, s.number(1.0 - k.alpha))

    def _either(self, curved: str, straight: str) -> str:
        if is_all(self.leaks, bool(self.leaks.flat[0])):
            return curved if self.leaks.flat[0] else straight
        return self.s.op("Where", self.s.constant(self.leaks, "bool"), curved, straight)

    def steps(self, start: str) -> str:
        """How many steps from `start` to the threshold."""
        s, limit = self.s, self.s.number(self.v_threshold)
        ratio = s.op("Div", s.op("Sub", self.target, start), s.op("Sub", self.target, limit))
        curved = s.op("Div", s.op("Log", ratio), s.number(self.rate))
        return self._either(curved, s.op("Div", s.op("Sub", limit, start), self.drive))

    def goes_on(self) -> str:
        """Whether it reaches the threshold again after a reset."""
        s = self.s
        curved = s.op("Greater", self.target, s.number(self.v_threshold))
        return self._either(curved, s.op("Greater", self.drive, s.number(0.0)))

    def after(self, time: str, v_reset: np.ndarray) -> str:
        """Where it is some time after a reset."""
        s, start = self.s, self.s.number(v_reset)
        kept = s.op("Exp", s.op("Mul", s.number(-self.rate), time))
        curved = s.op("Add", self.target, s.op("Mul", s.op("Sub", start, self.target), kept))
        return self._either(curved, s.op("Add", start, s.op("Mul", self.drive, time)))
