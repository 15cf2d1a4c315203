"""The bias of a recurrent Affine at the first step: added or not, NIR does not say."""

from __future__ import annotations

from collections.abc import Iterator

import nir
import numpy as np

from rsc.discretise import NEURONS
from rsc.errors import InputRefused
from rsc.export.lint.finding import Finding, Subject
from rsc.graph import Topology

RULE = "recurrent-bias"


def check(subject: Subject) -> Iterator[Finding]:
    """A note per recurrent node with a bias, and a warning per tool that leaves it out."""
    if isinstance(subject.flow, InputRefused):
        return
    fix = "Set this bias to 0 and move it into the feed-forward Affine of the same layer."
    for name in _biased(subject.flow):
        what = "The node lies behind a delayed edge and has a bias."
        why = "The program adds it from the first step on; a delay behind the node would leave out the first."
        yield Finding(RULE, "info", "", name, what, why, fix)
        for tool in subject.tools:
            if tool.recurrent_bias:
                yield Finding(RULE, "warning", tool.name, name, what, tool.recurrent_bias, fix)


def _biased(flow: Topology) -> list[str]:
    """Nodes with a bias that see the 0 of a delayed edge in the first step, through stateless nodes only."""
    pending = [b for _, b in flow.delayed]
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        if name not in seen and not isinstance(flow.nodes[name], (*NEURONS, nir.Delay)):
            seen.add(name)
            pending += flow.successors[name]
    return sorted(
        name for name in seen if np.any(getattr(flow.nodes[name], "bias", None)) and _looped(name, flow)
    )


def _looped(name: str, flow: Topology) -> bool:
    return any(name in part and flow.is_recurrent(part) for part in flow.components)
