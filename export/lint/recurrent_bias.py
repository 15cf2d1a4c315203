"""The bias of a recurrent Affine at the first step: added or not, NIR does not say."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rsc.discretise import NEURONS
from rsc.errors import InputRefused
from rsc.export.lint.finding import Finding, Subject
from rsc.graph import Topology

RULE = "recurrent-bias"

_TOOLS = {
    "late": "The recurrent branch gives 0 before the first step, so its bias is missing there.",
    "dropped": "It drops the bias of a recurrent Affine.",
}


def check(subject: Subject) -> Iterator[Finding]:
    """A note per recurrent node with a bias, and a warning per tool that treats it otherwise."""
    if isinstance(subject.flow, InputRefused):
        return
    fix = "Set this bias to 0 and move it into the feed-forward Affine of the same layer."
    heard = _hears_a_late_zero(subject.flow)
    for name in _biased(subject.flow):
        from_first = name in heard
        what = "The node is recurrent and has a bias."
        why = f"The program adds it from the {'first' if from_first else 'second'} step on; tools differ."
        yield Finding(RULE, "info", "", name, what, why, fix)
        for tool in subject.tools:
            if tool.recurrent_bias == "dropped" or (tool.recurrent_bias == "late" and from_first):
                yield Finding(RULE, "warning", tool.name, name, what, _TOOLS[tool.recurrent_bias], fix)


def _biased(flow: Topology) -> list[str]:
    """Nodes of cycles that have a bias and no state."""
    inside = [name for part in flow.components if flow.is_recurrent(part) for name in part]
    return sorted(name for name in inside if np.any(getattr(flow.nodes[name], "bias", None)))


def _hears_a_late_zero(flow: Topology) -> set[str]:
    """Nodes that see the 0 of a delayed edge in the first step, through stateless nodes only."""
    pending = [b for _, b in flow.delayed]
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        if name not in seen and not isinstance(flow.nodes[name], NEURONS):
            seen.add(name)
            pending += [after for after in flow.successors[name] if (name, after) not in flow.delayed]
    return seen
