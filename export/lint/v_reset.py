"""v_reset other than 0: most tools reset to 0 or by subtraction whatever the file says."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rsc.export.lint.finding import Finding, Subject, span

RULE = "lost-v-reset"


def check(subject: Subject) -> Iterator[Finding]:
    """A warning per neuron with a v_reset that the tool drops."""
    if subject.program.semantics.reset != "value":
        return
    for tool in subject.tools:
        for name, node in subject.read_by(tool):
            value = getattr(node, "v_reset", None)
            if tool.reset == "value" or value is None or not np.any(value):
                continue
            rule = "resets to 0" if tool.reset == "zero" else "subtracts the threshold"
            yield Finding(
                RULE,
                "warning",
                tool.name,
                name,
                f"v_reset is {span(value)}.",
                f"{tool.title} ignores it and {rule}.",
                "Shift v so that v_reset is 0 (v_leak and v_threshold with it).",
            )
