"""Neuron parameters with more axes than an importer takes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rsc.export.lint.finding import Finding, Subject, kind

RULE = "parameter-axes"


def check(subject: Subject) -> Iterator[Finding]:
    """An error per neuron of a kind that the tool reads in one dimension only."""
    for tool in subject.tools:
        for name, node in subject.read_by(tool):
            if kind(node) in tool.flat_only and np.ndim(node.r) > 1:
                what = f"The parameters have shape {np.shape(node.r)}."
                why = f"{tool.title} compares them as one truth value, which numpy refuses beyond one axis."
                yield Finding(RULE, "error", tool.name, name, what, why, "Use IF, or put Flatten before it.")
