"""Padding of SumPool2d, which most tools drop."""

from __future__ import annotations

from collections.abc import Iterator

import nir
import numpy as np

from rsc.export.lint.finding import Finding, Subject

RULE = "pool-padding"


def check(subject: Subject) -> Iterator[Finding]:
    """A warning per padded SumPool2d and tool that treats the padding otherwise."""
    for name, node in subject.nodes:
        if not isinstance(node, nir.SumPool2d) or not np.any(node.padding):
            continue
        for tool in subject.tools:
            if tool.pool_padding and "SumPool2d" in tool.nodes:
                what = f"SumPool2d pads by {np.asarray(node.padding).tolist()}."
                fix = "Use padding 0, and padding in the Conv2d before it if the shape needs it."
                yield Finding(RULE, "warning", tool.name, name, what, tool.pool_padding, fix)
