"""Grouped convolutions, which the type check of nir 1.0.8 and every importer refuse."""

from __future__ import annotations

from collections.abc import Iterator

import nir

from rsc.export.lint.finding import Finding, Subject

RULE = "grouped-convolution"


def check(subject: Subject) -> Iterator[Finding]:
    """A warning per grouped convolution, and an error per tool that would import it."""
    fix = "Write the kernel out with groups 1 and zeros between the groups."
    for name, node in subject.nodes:
        if not isinstance(node, nir.Conv1d | nir.Conv2d) or int(node.groups) == 1:
            continue
        what = f"The convolution has {int(node.groups)} groups."
        why = "nir 1.0.8 takes C_in/groups for the input channels, so its type check fails on reading."
        yield Finding(RULE, "warning", "", name, what, why, fix)
        for tool in subject.tools:
            why = f"{tool.title} builds it with C_in/groups input channels."
            yield Finding(RULE, "error", tool.name, name, what, why, fix)
