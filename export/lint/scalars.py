"""Neuron parameters without an axis."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rsc.export.lint.finding import Finding, Subject, kind
from rsc.shapes import own_arrays

RULE = "scalar-parameter"
_ELEMENTWISE = ("Scale", "Threshold", "Delay")


def check(subject: Subject) -> Iterator[Finding]:
    """A warning per elementwise node with a 0-d parameter."""
    fix = "Write one value per neuron: np.full(shape, value)."
    why = "nir 1.0.8 compresses arrays, which HDF5 refuses for scalars, and the shape stays unknown."
    names = {name for name, _ in subject.neurons}
    for name, node in subject.nodes:
        if name not in names and kind(node) not in _ELEMENTWISE:
            continue
        fields = [field for field, value in own_arrays(node).items() if np.ndim(value) == 0]
        if fields:
            what = f"{', '.join(fields)} {'is' if len(fields) == 1 else 'are'} scalar."
            yield Finding(RULE, "warning", "", name, what, why, fix)
