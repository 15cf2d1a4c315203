"""Primitives that a tool has no import for."""

from __future__ import annotations

from collections.abc import Iterator

from rsc.export.lint.finding import Finding, Subject, kind

RULE = "unsupported-node"


def check(subject: Subject) -> Iterator[Finding]:
    """An error per node that the tool cannot import."""
    for tool in subject.tools:
        for name, node in subject.nodes:
            if kind(node) in tool.nodes:
                continue
            missing = f"{tool.title} has no import for it"
            missing += " and passes its input on, without a word." if tool.skips else "."
            why = tool.refusals.get(kind(node), missing)
            fix = f"Replace it by one of {', '.join(sorted(tool.nodes))}."
            yield Finding(RULE, "error", tool.name, name, f"The node is a {kind(node)}.", why, fix)
