"""r dt/tau far from 1: the sign of a file that meant another dt, another unit, or no dt at all."""

from __future__ import annotations

from collections.abc import Iterator

import nir
import numpy as np

from rsc.export.lint.finding import Finding, Subject, membrane_gain, span, synapse_gain

RULE = "input-gain"
FACTOR = 1000.0


def check(subject: Subject) -> Iterator[Finding]:
    """A warning per neuron whose gain of one step is at most 1/1000 or at least 1000."""
    for name, node in subject.neurons:
        gain = membrane_gain(node, subject.dt)
        if isinstance(node, nir.CubaLI | nir.CubaLIF):
            gain = gain * synapse_gain(node, subject.dt)
        size = np.abs(gain[gain != 0]) if gain.ndim else np.abs(np.atleast_1d(gain))
        if not size.size or (size.min() * FACTOR > 1 + 1e-9 and size.max() < FACTOR * (1 - 1e-9)):
            continue
        what = f"An input of 1 moves v by {span(gain)} in one step of {subject.dt:g} s."
        why = (
            "Exporters write r = tau/dt (IF: 1/dt) or r = 1 for the same network; the reader must know which."
        )
        fix = (
            "Check dt and the unit of tau; if the exporter added inputs directly, use r = tau/dt (IF: 1/dt)."
        )
        yield Finding(RULE, "warning", "", name, what, why, fix)
