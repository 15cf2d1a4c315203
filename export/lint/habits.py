"""Rules of the program that a tool has no way to follow."""

from __future__ import annotations

from collections.abc import Iterator

from rsc.discretise import RESETTING, SPECIAL, SYNAPTIC
from rsc.export.lint.finding import Finding, Subject

RULE = "unknown-rule"

_CONCERN = {
    "reset_step": RESETTING,
    "spikes_per_step": RESETTING,
    "clamp": RESETTING,
    "current": SYNAPTIC,
    "shift": (object,),
}


def check(subject: Subject) -> Iterator[Finding]:
    """A warning per tool and rule that departs from the default and that the tool does otherwise."""
    for tool in subject.tools:
        for field, kinds in _CONCERN.items():
            value, theirs = getattr(subject.program.semantics, field), tool.habits[field]
            concerned = any(isinstance(node, kinds) for _, node in subject.read_by(tool))
            if concerned and value not in (SPECIAL[field], theirs):
                what = f"The program has the rule {field} = '{value}', {tool.title} {field} = '{theirs}'."
                why = "NIR has no field for it, and the tool cannot be told."
                fix = "Compare spikes with `rsc parity`, or train with the tool's rule."
                yield Finding(RULE, "warning", tool.name, "", what, why, fix)
