"""Several inputs or outputs."""

from __future__ import annotations

from collections.abc import Iterator

from rsc.export.lint.finding import Finding, Subject

RULE = "ports"


def check(subject: Subject) -> Iterator[Finding]:
    """A finding per tool that cannot feed or return more than one array; an error without any output."""
    inputs, outputs = subject.program.inputs, subject.program.outputs
    if not outputs:
        what = "The graph has no Output node."
        yield Finding(RULE, "error", "", "", what, "Nothing would come back.", "Add a nir.Output.")
    if len(inputs) < 2 and len(outputs) < 2:
        return
    what = (
        f"The graph has {len(inputs)} input(s) and {len(outputs)} output(s): {', '.join(inputs + outputs)}."
    )
    fix = "Export a graph with one input and one output for this tool."
    for tool in subject.tools:
        if tool.ports is not None:
            yield Finding(RULE, tool.ports.severity, tool.name, "", what, tool.ports.why, fix)
