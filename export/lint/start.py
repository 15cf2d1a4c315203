"""Where the membrane starts: at 0 or at v_leak."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rsc.export.lint.finding import Finding, Subject, span

RULE = "initial-state"


def check(subject: Subject) -> Iterator[Finding]:
    """A warning per neuron with a v_leak that a tool starts elsewhere than the program."""
    own = subject.program.semantics.v0
    for tool in subject.tools:
        for name, node in subject.read_by(tool):
            if tool.habits["v0"] == own or not np.any(getattr(node, "v_leak", 0.0)):
                continue
            places = {"zero": "0", "v_leak": f"v_leak = {span(node.v_leak)}"}
            what = f"The program starts v at {places[own]}, {tool.title} at {places[tool.habits['v0']]}."
            why = "NIR does not say where a membrane starts."
            fix = "Shift v_leak to 0, and v_threshold and v_reset with it."
            yield Finding(RULE, "warning", tool.name, name, what, why, fix)
