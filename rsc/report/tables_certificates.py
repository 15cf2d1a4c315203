"""Tables of certificates by noise: radii, what few runs keep, how it was done, and what is promised."""

from __future__ import annotations

from collections.abc import Sequence

from rsc.report import numbers, select
from rsc.report.select import Certified
from rsc.report.table import Table, number, table, text
from rsc.report.value import Report
from rsc.robustness.results import CertifyReport

SOUNDNESS = {
    "integer": "integers only",
    "sampler": "noise in integers, network in floating point",
    "real": "noise in floating point",
}


def certificates(report: Report) -> Table:
    """Certified accuracy by radius."""
    found = select.certificates(report)
    columns = [
        *text("Model", "Target"),
        *number(_head(found), "L∞ ball inside", "Certified accuracy", "n"),
    ]
    body = [
        [
            c.name,
            c.report.target,
            _radius(found, c, row.radius),
            numbers.small(row.linf_eps),
            f"{numbers.percent(row.certified_accuracy)}"
            f" {numbers.percent_range(row.interval.low, row.interval.high)}",
            row.n,
        ]
        for c in found
        for row in c.report.rows
    ]
    note = (
        "Radii in pixel units. A certificate holds for the vote, at the confidence below, under any attack."
    )
    return table("certificates", "Certified accuracy", columns, body, note)


def guarantees(report: Report) -> Table:
    """What the certificates promise for a few runs."""
    found = select.certificates(report)
    votes = sorted({k for c in found for g in c.report.guarantees for k in g.votes if k > 1})
    columns = [
        *text("Model", "Target"),
        *number(_head(found), "One run", *(f"Vote of {k}" for k in votes)),
    ]
    body = [
        [c.name, c.report.target, _radius(found, c, g.radius), numbers.percent(g.per_run)]
        + [numbers.percent(g.votes.get(k)) for k in votes]
        for c in found
        for g in c.report.guarantees
    ]
    note = "Lower bounds of the mean accuracy under any attack of that size in that norm."
    return table("guarantees", "Guaranteed accuracy of few runs", columns, body, note)


def _head(found: Sequence[Certified]) -> str:
    norms = select.certified_norms(found)
    return f"{select.NORMS[norms[0]]} radius" if len(norms) == 1 else "Radius"


def _radius(found: Sequence[Certified], c: Certified, radius: float) -> str:
    """The norm is in the header if there is only one."""
    several = len(select.certified_norms(found)) > 1
    return f"{select.NORMS[c.report.norm]} {numbers.small(radius)}" if several else numbers.small(radius)


def parameters(report: Report) -> Table:
    """How the certificates were made."""
    columns = [
        *text("Model", "Target", "Rule", "Norm"),
        *number("σ", "T", "Draws to select / estimate", "α per image", "Images", "Expected false"),
        *number("Abstained", "At the ceiling", "Ceiling radius", "Off the grid", "Seed"),
        *text("Noise", "Arithmetic"),
    ]
    body = [_parameter_row(found.name, found.report) for found in select.certificates(report)]
    note = (
        "At the ceiling: all draws agreed, so that more draws would certify a larger radius. Arithmetic:"
        " where floating point is left between image and class; only “integers only” leaves none."
    )
    return table("certificate-parameters", "How it was certified", columns, body, note)


def _parameter_row(name: str, c: CertifyReport) -> list[object]:
    return [
        name,
        c.target,
        c.rule,
        select.NORMS[c.norm],
        numbers.small(c.sigma),
        c.steps,
        f"{c.n0:,} / {c.n:,}",
        numbers.small(c.alpha) + (" (all hold at once)" if c.together else ""),
        len(c.images),
        numbers.small(c.expected_false),
        c.abstained,
        c.at_ceiling,
        numbers.small(c.ceiling),
        c.off_grid or numbers.NONE,
        c.seed,
        c.source,
        SOUNDNESS[c.soundness],
    ]


def transfers(report: Report) -> Table:
    """Targets that were certified through a faster twin."""
    columns = [
        *text("Model", "Target", "Drawn on"),
        *number("Paired draws per image", "Runs that differ", "… that lose the class", "Cost in pA, mean"),
    ]
    body = [
        [
            c.name,
            t.target,
            t.twin,
            f"{t.draws:,}",
            f"{t.disagreements:,} of {t.runs:,}",
            t.lost,
            numbers.small(t.q_up_mean),
        ]
        for c in select.certificates(report)
        if (t := c.report.transfer) is not None
    ]
    note = (
        "The twin drew the many runs; paired runs bound how often the target loses the class, half of α each."
    )
    return table("transfers", "Certified through a twin", columns, body, note)


def voted(report: Report) -> Table:
    """Votes that may abstain."""
    columns = [
        *text("Model", "Target"),
        *number("Runs per image", "Right", "Wrong", "Abstained", "α per image", "n"),
    ]
    body = []
    for c in select.certificates(report):
        v = c.report.voted
        if v is not None:
            ends = f" {numbers.percent_range(v.interval.low, v.interval.high)}" if v.interval else ""
            right = numbers.percent(v.accuracy) + ends
            shown = [f"{v.draws:,}", right, numbers.percent(v.wrong), v.abstained]
            body.append([c.name, v.target, *shown, numbers.small(v.alpha), len(v.classes)])
    note = "An answer differs from the vote of infinitely many runs with probability α at most."
    return table("voted", "Vote or no answer", columns, body, note)


def claims(report: Report) -> tuple[str, ...]:
    """What the certificates promise, what they do not, and what would give more; each sentence once."""
    found = select.certificates(report)
    owners: dict[str, list[str]] = {}
    for lead, kind in (("", "promises"), ("Not covered: ", "limits"), ("", "advice")):
        for c in found:
            for sentence in getattr(c.report, kind):
                owners.setdefault(lead + sentence, []).append(_name(c))
    everyone = {_name(c) for c in found}
    return tuple(
        sentence if set(names) == everyone else f"{', '.join(dict.fromkeys(names))}: {sentence}"
        for sentence, names in owners.items()
    )


def _name(c: Certified) -> str:
    return f"{c.name} on {c.report.target}" if c.report.target else c.name
