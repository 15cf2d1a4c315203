"""Tables of what surrounds the counts: how long a step can take, how the work is spread over the samples."""

from __future__ import annotations

from rsc.energy.results import EnergyReport, Histogram, PricedProfile
from rsc.report import numbers, select
from rsc.report.table import Table, number, table, text
from rsc.report.value import Report

_BLOCKS = "▁▂▃▄▅▆▇█"


def step_time(report: Report) -> Table:
    """Bounds on the duration of a step and of a pass, for the profiles that know the times of a chip."""
    columns = [
        *text("Model", "Costs"),
        *number("Step, at least", "Step, at most", "Pass, at least", "Pass, at most", "Step time given"),
        *number("Cores per chip"),
    ]
    body = [
        _step_row(select.energy_name(report, e), e, p) for e in report.energy for p in e.priced if p.step_time
    ]
    note = (
        "Of the mean step: all work spread evenly over the cores at the fastest times, and all of it on one"
        " core at the slowest. Which core holds what is not known, so this is no prediction."
    )
    return table("step-time", "How long a step takes", columns, body, note)


def _step_row(name: str, e: EnergyReport, p: PricedProfile) -> list[object]:
    assert p.step_time is not None
    low, high = p.step_time.low_s, p.step_time.high_s
    given = None if p.static is None else p.static.step_time_s
    durations = (low, high, e.steps * low, e.steps * high, given)
    return [name, p.profile, *(numbers.seconds(s) for s in durations), p.step_time.cores]


def histograms(report: Report) -> Table:
    """How a count per pass is distributed over the samples, one line each, drawn in blocks."""
    columns = [*text("Model", "Per pass"), *number("Samples", "From", "To", "Bins"), *text("Distribution")]
    body = [
        [select.energy_name(report, e), f"{h.name}, {h.unit}", sum(h.counts), *_shape(h)]
        for e in report.energy
        for h in e.histograms
        if sum(h.counts) > 1
    ]
    note = (
        "Every block is a bin between the smallest and the largest sample, its height the number of samples."
    )
    return table("histograms", "How the samples differ", columns, body, note)


def _shape(h: Histogram) -> list[object]:
    if len(h.counts) == 1:  # samples that are all alike lie in the middle of a bin of width 1
        middle = numbers.count((h.edges[0] + h.edges[-1]) / 2)
        return [middle, middle, 1, "all alike"]
    top = max(h.counts)
    drawn = "".join(_BLOCKS[-(-7 * c // top)] if c else "·" for c in h.counts)
    return [numbers.count(h.edges[0]), numbers.count(h.edges[-1]), len(h.counts), drawn]
