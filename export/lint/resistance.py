"""The resistance r: several tools ignore it, or take the membrane gain r dt/tau as 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rsc.discretise import coefficients, effective_r
from rsc.export.lint.finding import Finding, Severity, Subject, kind, membrane_gain, span
from rsc.export.lint.tools import Exact, Gain, Tool

RULE = "ignored-r"


def check(subject: Subject) -> Iterator[Finding]:
    """A finding per neuron whose r a tool refuses (error) or treats as another value (warning)."""
    for tool in subject.tools:
        for name, node in subject.read_by(tool):
            gain = tool.gains.get(kind(node), Gain())
            rules = subject.program.semantics
            scaled = membrane_gain(node, compared_dt(tool, gain, subject.dt))
            meant = effective_r(node, rules), coefficients(node, rules).beta
            severity, why = verdict(gain, (node.r, scaled), meant), gain.why
            if severity is None and gain.exact is None and not np.allclose(node.r, meant[0]):
                severity, why = "warning", f"The program leaves r out, {tool.title} uses it."
            if severity is not None:
                what = f"r is {span(node.r)}, and an input of 1 adds {span(meant[1])} to v."
                yield Finding(RULE, severity, tool.name, name, what, why, _fix(gain))


def compared_dt(tool: Tool, gain: Gain, dt: float) -> float:
    """The time step in seconds that r is compared with: a refusal follows the tool's, a deviation ours."""
    constant = tool.step.value if tool.step.source == "constant" else None
    return dt if gain.accepts is None or constant is None else constant


def verdict(gain: Gain, written: tuple[Any, Any], meant: tuple[Any, Any]) -> Severity | None:
    """How bad a value is for a tool: "error" if refused, "warning" if changed, None if exact.

    Args:
        written: the value in the file, and times dt/tau: what a tool may refuse.
        meant: the same under the rules of the program: what a tool may change.
    """
    if gain.accepts is not None and not _any_of(gain.accepts, *written):
        return "error"
    return None if gain.exact is None or _any_of(gain.exact, *meant) else "warning"


def _any_of(cases: tuple[Exact, ...], value: Any, scaled: Any) -> bool:
    values = {"one": value, "step": scaled}
    return any(np.allclose(np.asarray(values[case], np.float64), 1.0) for case in cases)


def _fix(gain: Gain) -> str:
    cases = gain.accepts or gain.exact or ()
    if "one" in cases:
        return "Set r to 1 and multiply the weights before it (and w_in) by the old r."
    if "step" in cases:
        return "Set r to tau/dt (IF: 1/dt) and divide the weights before it by what r dt/tau gains."
    return "No value of r is read as NIR means it; use another tool or node."
