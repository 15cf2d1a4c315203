"""Integer weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rsc.export.lint.finding import Finding, Subject

RULE = "integer-weights"


def check(subject: Subject) -> Iterator[Finding]:
    """An error per node with integer weights, for tools that multiply them with floats."""
    for tool in subject.tools:
        for name, node in subject.nodes:
            dtype = np.asarray(getattr(node, "weight", 0.0)).dtype
            if tool.float_weights and dtype.kind != "f":
                what, why = (
                    f"The weight is stored as {dtype}.",
                    f"{tool.title} keeps the type, and torch refuses to multiply it with float32.",
                )
                yield Finding(RULE, "error", tool.name, name, what, why, "Store the weight as float32.")
