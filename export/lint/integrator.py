"""Forward Euler or exponential decay."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import nir
import numpy as np

from rsc.export.lint.finding import Finding, Subject

RULE = "integrator"
LEAKY = (nir.LI, nir.LIF, nir.CubaLI, nir.CubaLIF)


def check(subject: Subject) -> Iterator[Finding]:
    """A warning per leaky neuron that a tool decays in another way than the program."""
    own = subject.program.semantics.integrator
    for tool in subject.tools:
        for name, node in subject.read_by(tool):
            decay = "euler" if own == "euler" else "exponential"  # "mixed" decays so, too
            if tool.decay == decay or not isinstance(node, LEAKY):
                continue
            ratio = subject.dt / _shortest(node)
            kept = {"euler": 1 - ratio, "exponential": math.exp(-ratio)}
            theirs = f"{tool.title} {kept[tool.decay]:.4g}"
            what = f"Per step the program keeps {kept[decay]:.4g} of v or i, {theirs}."
            why = (
                f"The program integrates by the rule '{own}', the tool by '{tool.decay}'; NIR fixes neither."
            )
            fix = "Use a smaller dt, or tau' = -dt / ln(1 - dt/tau) in a copy for exponential tools."
            yield Finding(RULE, "warning", tool.name, name, what, why, fix)


def _shortest(node: Any) -> float:
    fields = (getattr(node, field) for field in ("tau", "tau_mem", "tau_syn") if hasattr(node, field))
    return min(float(np.min(value)) for value in fields)
