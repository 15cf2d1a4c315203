"""Flatten counts dimensions without batch; some tools count them with it."""

from __future__ import annotations

from collections.abc import Iterator

import nir

from rsc.export.lint.finding import Finding, Subject

RULE = "flatten-batch"


def check(subject: Subject) -> Iterator[Finding]:
    """A warning per Flatten with dims counted from the start, for tools that count the batch too."""
    for name, node in subject.nodes:
        if not isinstance(node, nir.Flatten) or int(node.start_dim) < 0:
            continue
        for tool in subject.tools:
            if tool.flattens_batch:
                what = f"Flatten from {int(node.start_dim)} to {int(node.end_dim)}, counted without batch."
                why = f"{tool.title} counts the batch as dimension 0, so it flattens one dimension too early."
                fix = "Feed one sample without a batch axis, or count from the end in a copy for this tool."
                yield Finding(RULE, "warning", tool.name, name, what, why, fix)
