"""Firing at v > v_threshold or at v >= v_threshold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rsc.discretise import SPIKING
from rsc.errors import InputRefused
from rsc.export.lint.finding import Finding, Subject

RULE = "threshold-ties"


def check(subject: Subject) -> Iterator[Finding]:
    """A finding per tool that treats v = v_threshold differently: a warning where ties are to be expected."""
    own = subject.program.semantics.comparison
    firing = [name for name, node in subject.nodes if isinstance(node, SPIKING)]
    tied = [name for name in firing if _on_grid(name, subject)]
    for tool in subject.tools:
        if firing and tool.comparison != own:
            where = f"; ties are likely at {', '.join(tied)}" if tied else ""
            what = f"The program's neurons fire at v {own} v_threshold{where}."
            why = f"{tool.title} fires at v {tool.comparison} v_threshold; only exact ties differ."
            fix = "Move the thresholds off the grid of the sums, e.g. by half a unit."
            yield Finding(RULE, "warning" if tied else "info", tool.name, "", what, why, fix)


def _on_grid(name: str, subject: Subject) -> bool:
    """Whether what reaches a neuron from spikes are whole numbers: no weights, or integer ones."""
    if isinstance(subject.flow, InputRefused):
        return False
    sources = [subject.flow.nodes[source] for source in subject.flow.predecessors[name]]
    return any(_whole(getattr(node, "weight", None)) for node in sources)


def _whole(weight: Any) -> bool:
    return weight is None or bool(np.all(np.asarray(weight) == np.rint(weight)))
