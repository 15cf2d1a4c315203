"""Time constants that are probably not in seconds, and delays that dt cannot resolve."""

from __future__ import annotations

from collections.abc import Iterator

from rsc.export.lint.finding import Finding, Subject
from rsc.time_unit import time_issues

RULE = "time-unit"


def check(subject: Subject) -> Iterator[Finding]:
    """The findings of `rsc.time_unit.time_issues`."""
    why = "NIR does not fix the unit of time: tools write seconds, milliseconds or time steps."
    for name, node in subject.nodes:
        for issue in time_issues(name, node, subject.program.semantics):
            yield Finding(RULE, issue.severity, "", name, issue.what, why, issue.fix)
