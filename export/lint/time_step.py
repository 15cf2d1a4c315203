"""Each tool has its own default time step, and some cannot be told another."""

from __future__ import annotations

import math
from collections.abc import Iterator

import nir
import numpy as np

from rsc.export.lint.finding import Finding, Subject, kind
from rsc.export.lint.integrator import LEAKY
from rsc.export.lint.tools import Tool

RULE = "dt-mismatch"


def check(subject: Subject) -> Iterator[Finding]:
    """A warning where a tool would step with another dt; a note where an argument settles it."""
    for tool in subject.tools:
        if tool.step.source == "guess":
            yield from _guesses(tool, subject)
        elif _concerned(tool, subject) and not math.isclose(tool.step.value or 0.0, subject.dt, rel_tol=1e-6):
            yield _mismatch(tool, subject.dt)


def _concerned(tool: Tool, subject: Subject) -> bool:
    """Whether dt enters at all: a leak, or an IF whose r is compared with 1/dt."""
    gain = tool.gains.get("IF")
    steps = gain is not None and gain.accepts is not None and "step" in gain.accepts
    return any(
        isinstance(node, LEAKY) or (steps and isinstance(node, nir.IF)) for _, node in subject.read_by(tool)
    )


def _mismatch(tool: Tool, dt: float) -> Finding:
    constant = tool.step.source == "constant"
    value = tool.step.value or 0.0
    what = f"The program steps by {dt:g} s, {tool.title} by {value:g} s{' always' if constant else ''}."
    why = "A NIR file holds no time step; the same tau then decays at another rate."
    fix = tool.step.fix.format(dt=dt, ratio=value / dt)
    return Finding(RULE, "warning" if constant else "info", tool.name, "", what, why, fix)


def _guesses(tool: Tool, subject: Subject) -> Iterator[Finding]:
    """Rockpool: dt = min of tau/(1 + r)."""
    for name, node in subject.read_by(tool):
        if kind(node) != "CubaLIF":
            continue
        guess = float(np.min(np.asarray(node.tau_mem, np.float64) / (1 + np.asarray(node.r, np.float64))))
        if not math.isclose(guess, subject.dt, rel_tol=1e-3):
            what = f"The program steps by {subject.dt:g} s, {tool.title} would step by {guess:g} s."
            why = "It guesses dt as tau_mem / (1 + r), per node."
            yield Finding(RULE, "warning", tool.name, name, what, why, tool.step.fix)
