"""Files in which an exporter has lost something, recognised by how it writes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import nir
import numpy as np

from rsc.discretise import RESETTING
from rsc.export.lint.finding import Finding, Subject

RULE = "export-fault"

SNNTORCH_DT = 1e-4  # s; fixed in its code


def check(subject: Subject) -> Iterator[Finding]:
    """snnTorch: its default reset by subtraction is written as v_reset = 0. Wrong units: `time-unit`."""
    spiking = [node for _, node in subject.nodes if isinstance(node, RESETTING)]
    if spiking and not subject.told and all(_from_snntorch(node) for node in spiking):
        what = (
            f"Every neuron has r = tau / {SNNTORCH_DT:g} s, v_leak 0 and v_reset 0, as snnTorch writes them."
        )
        why = "snnTorch 1.0 writes v_reset = 0 also where it resets by subtraction, its default."
        fix = "If the network was trained with that default, use --semantics snntorch-subtract."
        yield Finding(RULE, "warning", "", "", what, why, fix)


def _from_snntorch(node: Any) -> bool:
    """Whether a neuron looks as `snntorch.export_nir` writes it."""
    if not isinstance(node, nir.LIF | nir.CubaLIF):
        return False
    pairs = [(node.tau_mem, node.r), (node.tau_syn, node.w_in)] if isinstance(node, nir.CubaLIF) else []
    pairs = pairs or [(node.tau, node.r)]
    at_rest = not np.any(node.v_leak) and not np.any(node.v_reset)
    return at_rest and all(
        np.allclose(np.asarray(tau) / SNNTORCH_DT, gain, rtol=1e-4, atol=0) for tau, gain in pairs
    )
