"""Parameters that a tool keeps once per layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rsc.export.lint.finding import Finding, Subject, kind, membrane_gain, span

RULE = "one-value-per-layer"


def check(subject: Subject) -> Iterator[Finding]:
    """A finding per neuron and field that varies where the tool has one value (error) or takes the first."""
    fix = "Use one value per layer, or split the layer."
    for tool in subject.tools:
        for name, node in subject.read_by(tool):
            for field in _varying(node, tool.uniform.get(kind(node), ())):
                what = f"{field} varies over {span(getattr(node, field))}."
                yield Finding(RULE, "error", tool.name, name, what, f"{tool.title} demands one value.", fix)
            for field in _varying(node, tool.first_only.get(kind(node), ())):
                what = f"{field} varies over {span(getattr(node, field))}."
                why = f"{tool.title} uses the first element for all neurons."
                yield Finding(RULE, "warning", tool.name, name, what, why, fix)
            gain = membrane_gain(node, subject.dt)
            if kind(node) in tool.one_gain and not np.allclose(gain, gain.flat[0]):
                why = f"{tool.title} divides the threshold by the first one for all neurons."
                what = f"r dt/tau varies over {span(gain)}."
                yield Finding(RULE, "warning", tool.name, name, what, why, "Set r to tau/dt.")


def _varying(node: Any, fields: tuple[str, ...]) -> list[str]:
    values = {field: getattr(node, field) for field in fields}
    return [field for field, value in values.items() if value is not None and np.unique(value).size > 1]
