"""The input weight w_in of CubaLIF: some tools ignore it, some demand tau_syn/dt."""

from __future__ import annotations

from collections.abc import Iterator

import nir

from rsc.export.lint.finding import Finding, Subject, span, synapse_gain
from rsc.export.lint.resistance import compared_dt, verdict
from rsc.export.lint.tools import Gain

RULE = "ignored-w-in"


def check(subject: Subject) -> Iterator[Finding]:
    """A finding per CubaLIF whose w_in a tool refuses (error) or takes as tau_syn/dt (warning)."""
    for tool in subject.tools:
        gain = tool.gains.get("w_in", Gain())
        dt = compared_dt(tool, gain, subject.dt)
        for name, node in subject.read_by(tool):
            if not isinstance(node, nir.CubaLIF):
                continue
            scaled = synapse_gain(node, dt)
            severity = verdict(gain, (node.w_in, scaled), (node.w_in, synapse_gain(node, subject.dt)))
            if severity is not None:
                what = f"w_in is {span(node.w_in)}, and w_in dt/tau_syn {span(scaled)}."
                fix = "Set w_in to tau_syn/dt and divide the weights before it accordingly."
                yield Finding(RULE, severity, tool.name, name, what, gain.why, fix)
