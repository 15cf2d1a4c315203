"""What our own targets find in their checks."""

from __future__ import annotations

from collections.abc import Iterator

from rsc.export.lint.finding import Finding, Subject

RULE = "target-check"


def check(subject: Subject) -> Iterator[Finding]:
    """The issues that were handed in, for the targets asked for."""
    for target in subject.targets:
        for issue in subject.issues.get(target, ()):
            why = f"Found by the check of target '{target}'."
            yield Finding(RULE, issue.severity, target, issue.node, issue.what, why, issue.fix)
