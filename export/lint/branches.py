"""Several edges into one node, and several out of one."""

from __future__ import annotations

from collections.abc import Iterator

from rsc.errors import InputRefused
from rsc.export.lint.finding import Finding, Subject

RULE = "branches"


def check(subject: Subject) -> Iterator[Finding]:
    """A finding per node where branches outside of cycles join, for the tools that get them wrong."""
    flow = subject.flow
    if isinstance(flow, InputRefused):
        return
    inside = {name: set(part) for part in flow.components for name in part if flow.is_recurrent(part)}
    for name in flow.order:
        sources = [source for source in flow.predecessors[name] if source not in inside.get(name, ())]
        if len(sources) < 2:
            continue
        what = f"{len(sources)} edges end in the node: from {', '.join(sources)}."
        fix = "Join them into one node by hand, or check the tool's output against `rsc run`."
        for tool in subject.tools:
            if tool.branches is not None:
                yield Finding(RULE, tool.branches.severity, tool.name, name, what, tool.branches.why, fix)
