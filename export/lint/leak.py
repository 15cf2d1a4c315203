"""The leak potential v_leak: refused, ignored or read as something else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rsc.export.lint.finding import Finding, Subject, kind, span

RULE = "lost-v-leak"


def check(subject: Subject) -> Iterator[Finding]:
    """A finding per neuron whose v_leak the tool does not take as NIR means it."""
    for tool in subject.tools:
        for name, node in subject.read_by(tool):
            remark = tool.leaks.get(kind(node))
            if remark is None or not np.any(_off(node, tool.reset)):
                continue
            what = f"v_leak is {span(node.v_leak)}."
            fix = "Shift v_leak to 0, and v_threshold and v_reset with it."
            yield Finding(RULE, remark.severity, tool.name, name, what, remark.why, fix)


def _off(node: Any, reset: str) -> np.ndarray:
    """Where v_leak is not what importers expect: 0, or v_reset for a LIF that may reset to any value."""
    v_leak = np.asarray(node.v_leak, np.float64)
    expected = node.v_reset if reset == "value" and kind(node) == "LIF" else None
    return v_leak - (0.0 if expected is None else np.asarray(expected, np.float64))
