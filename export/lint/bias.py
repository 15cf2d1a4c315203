"""Biases that a tool cannot hold."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rsc.export.lint.finding import Finding, Subject, kind, span

RULE = "bias-refused"


def check(subject: Subject) -> Iterator[Finding]:
    """An error per node whose bias must be 0 for a tool."""
    for tool in subject.tools:
        for name, node in subject.nodes:
            if kind(node) in tool.zero_bias and np.any(node.bias):
                what, why = f"The bias is {span(node.bias)}.", f"{tool.title} refuses a bias in {kind(node)}."
                fix = (
                    "Train without bias, or move it into the threshold where it is the same for all neurons."
                )
                yield Finding(RULE, "error", tool.name, name, what, why, fix)
