"""Layers that never or always fire on a sample."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rsc.discretise import SPIKING
from rsc.export.lint.finding import Finding, Subject

RULE = "activity"
SHARE = 0.5


def check(subject: Subject) -> Iterator[Finding]:
    """A warning per silent or saturated layer, a note where that holds for more than half of its neurons."""
    if subject.activity is None:
        return
    for name, node in subject.nodes:
        counts = subject.activity.counts.get(name)
        if counts is None or not isinstance(node, SPIKING):
            continue
        sites = np.asarray(counts).reshape(len(counts), -1)
        for share, word in (
            ((sites == 0).all(0), "never"),
            ((sites == subject.activity.steps).all(0), "always"),
        ):
            part = float(share.mean()) if share.size else 0.0
            if part > SHARE:
                yield _finding(name, part, word, len(counts), subject.activity.steps)


def _finding(name: str, part: float, word: str, samples: int, steps: int) -> Finding:
    who = "All" if part == 1 else f"{part:.0%} of the"
    what = f"{who} neurons {word} fire in {steps} steps on {samples} sample{'s' * (samples != 1)}."
    why = "Such neurons carry no information; a wrong dt, unit of tau or input scale does this."
    fix = "Check dt, the unit of tau and the scale of the input; look at the input gain."
    return Finding(RULE, "warning" if part == 1 else "info", "", name, what, why, fix)
