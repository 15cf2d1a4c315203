"""Cycles: NIR does not say which edge carries the delay, and tools read few patterns."""

from __future__ import annotations

from collections.abc import Iterator

import nir

from rsc.discretise import NEURONS
from rsc.errors import InputRefused
from rsc.export.lint.finding import Finding, Subject
from rsc.graph import Topology

RULE = "recurrence"


def check(subject: Subject) -> Iterator[Finding]:
    """An error for a graph that cannot be ordered; findings per cycle and tool."""
    if isinstance(subject.flow, InputRefused):
        refusal = subject.flow
        yield Finding(RULE, "error", "", "", refusal.what, refusal.why, refusal.fix)
        return
    for part in subject.flow.components:
        if not subject.flow.is_recurrent(part):
            continue
        delayed = ", ".join(f"{a} -> {b}" for a, b in sorted(subject.flow.delayed) if a in part)
        what = f"A cycle through {', '.join(sorted(part))}; delayed here: {delayed or 'its Delay nodes'}."
        why = "NIR does not say which edge hands over the value of the step before."
        fix = "State Semantics.delayed_edges, and compare spikes on the target with `rsc parity`."
        yield Finding(RULE, "info", "", part[0], what, why, fix)
        for tool in subject.tools:
            remark = tool.pair_cycle if _is_pair(part, subject.flow) else tool.other_cycle
            if len(part) == 1 and tool.self_edges:
                continue
            if remark is not None:
                yield Finding(RULE, remark.severity, tool.name, part[0], what, remark.why, fix)


def _is_pair(part: tuple[str, ...], flow: Topology) -> bool:
    """One neuron and one matrix."""
    kinds = [flow.nodes[name] for name in part]
    neurons = [node for node in kinds if isinstance(node, NEURONS)]
    matrices = [node for node in kinds if isinstance(node, nir.Affine | nir.Linear)]
    return len(part) == 2 and len(neurons) == len(matrices) == 1
