"""What our own targets find in their checks."""

from __future__ import annotations

from collections.abc import Iterator

from rsc.export.lint.finding import Finding, Subject
from rsc.graph import DELAYED, Topology
from rsc.time_unit import time_issues

RULE = "target-check"


def check(subject: Subject) -> Iterator[Finding]:
    """The issues that were handed in, for the targets asked for, but for what another rule says for all."""
    said = {
        issue.what
        for name, node in subject.nodes
        for issue in time_issues(name, node, subject.program.semantics)
    }
    flow = subject.flow
    cycles = isinstance(flow, Topology) and any(flow.is_recurrent(part) for part in flow.components)
    for target in subject.targets:
        for issue in subject.issues.get(target, ()):
            if issue.what in said or (cycles and issue.what.startswith(DELAYED)):
                continue
            why = f"Found by the check of target '{target}'."
            yield Finding(RULE, issue.severity, target, issue.node, issue.what, why, issue.fix)
