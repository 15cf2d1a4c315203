"""Node names that files or tools cannot hold."""

from __future__ import annotations

from collections.abc import Iterator

from rsc.export.lint.finding import Finding, Subject
from rsc.program import walk

RULE = "node-name"


def check(subject: Subject) -> Iterator[Finding]:
    """An error per name with "/", and per tool that looks for an Input of another name."""
    for name, _ in walk(subject.program.graph):
        if "/" in name:
            what, why = (
                f"The name {name!r} holds '/'.",
                "HDF5 reads it as a path: the file is written and cannot be read.",
            )
            yield Finding(RULE, "error", "", name, what, why, "Rename the node; '.' is fine.")
    for tool in subject.tools:
        if tool.input_name and tool.input_name not in subject.program.inputs:
            what = f"The Input node is called {subject.program.inputs[0]!r}."
            why = f"{tool.title} starts at a node called {tool.input_name!r}."
            yield Finding(
                RULE,
                "error",
                tool.name,
                subject.program.inputs[0],
                what,
                why,
                f"Call it {tool.input_name!r}.",
            )
