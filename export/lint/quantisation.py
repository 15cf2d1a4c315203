"""What the few bits of its weights leave of the network on Loihi."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rsc.errors import UnsupportedNode
from rsc.export.lint.finding import Finding, Subject
from rsc.export.loihi import QuantisationRow, lower, quantisation_table
from rsc.export.quantise import joined
from rsc.layered import Layer

RULE = "weight-bits"
FULL = 127  # half of the grid's end: one bit lost
ROUNDED_AWAY = 0.5
THRESHOLD_ERROR = 0.01


def check(subject: Subject) -> Iterator[Finding]:
    """A warning per layer whose weights or threshold the integer grid holds badly.

    Nothing where the program has no Loihi form: the check of the target itself says so.
    """
    names = [name for name in subject.targets if name in ("loihi", "lava")]
    if not names:
        return
    try:
        exact, quantised = lower(subject.program, "float"), lower(subject.program, "integer")
    except UnsupportedNode:
        return
    rows = quantisation_table(exact, quantised, subject.program.quantiser)
    for row, before, after in zip(rows, exact.layers, quantised.layers, strict=True):
        for what, fix in _losses(row, before, after):
            for target in names:
                yield Finding(RULE, "warning", target, row.layer, what, _WHY, fix)


_WHY = "Loihi holds weights as integers of at most 8 bits and a sign, and one threshold of 17 bits per layer."


def _losses(row: QuantisationRow, before: Layer, after: Layer) -> Iterator[tuple[str, str]]:
    largest = max(abs(row.weight_min), abs(row.weight_max))
    if largest <= FULL:
        what = f"The largest weight becomes {largest}, half of what fits: threshold, bias or fan-in limit it."
        yield what, "Bring bias, threshold and weights of the layer closer in size."
    lost = _rounded_away(before, after)
    if lost > ROUNDED_AWAY:
        what = f"{lost:.0%} of the weights that are not 0 become 0."
        yield what, "Clip or regularise the few large weights of the layer while training."
    if row.saturations:
        yield f"{row.saturations} weights are clipped to the ends of the grid.", "Reduce the largest weights."
    if row.threshold_error > THRESHOLD_ERROR:
        what = f"The threshold changes by {row.threshold_error:.1%} (to {row.vth} units)."
        yield what, "Use a threshold that is larger against the weights."


def _rounded_away(before: Layer, after: Layer) -> float:
    pairs = list(zip(before.connections, joined(before, after).connections, strict=True))
    given = sum(int(np.count_nonzero(a.weight)) for a, _ in pairs)
    kept = sum(int(np.count_nonzero(b.weight[a.weight != 0])) for a, b in pairs)
    return 1 - kept / given if given else 0.0
