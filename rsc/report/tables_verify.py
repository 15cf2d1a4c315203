"""Tables of interval verification: what is proved about the deployed integers."""

from __future__ import annotations

from rsc.report import numbers
from rsc.report.table import Table, number, table, text
from rsc.report.value import Report
from rsc.robustness.verify_results import VerifyReport, VerifyRow


def verified(report: Report) -> Table:
    """Shares of images that are proved, by radius."""
    columns = [
        *text("Model", "Target"),
        *number("L∞ radius", "One run keeps at least", "Vote certified"),
        *number("… by noise alone", "… by one of the two", "Majority of these draws", "Refuted"),
        *number("n × draws"),
    ]
    note = (
        "Lower bounds for every image of the ball, under any attack. One run: mean share of noise draws whose"
        " whole ball is proved, so it holds even if the attacker knows the noise. Without noise the vote is"
        " that one run. Images whose vote is wrong count as 0."
    )
    body = [_row(v, row) for v in report.verification for row in v.rows]
    return table("verified", "Proved accuracy of the integers", columns, body, note)


def _row(v: VerifyReport, row: VerifyRow) -> list[object]:
    sampled = ("by_noise", "either", "majority")
    more = [_share(row, name) if v.alpha else numbers.NONE for name in sampled]
    refuted = numbers.percent(row.refuted) if v.refine_s else numbers.NONE
    both = [_share(row, "per_run"), _share(row, "certified")]
    return [v.model, v.target, row.eps_text, *both, *more, refuted, f"{row.n} × {v.draws}"]


def _share(row: VerifyRow, name: str) -> str:
    ends = row.intervals.get(name)
    return numbers.percent(getattr(row, name)) + (
        f" {numbers.percent_range(ends.low, ends.high)}" if ends else ""
    )


def parameters(report: Report) -> Table:
    """How it was verified, and the accuracy on the same draws without perturbation."""
    columns = [
        *text("Model", "Target", "Program", "Arithmetic", "Encoder"),
        *number("σ", "T", "One run, no attack", "Draws to select / estimate", "α per image"),
        *number("Expected false", "Balls", "Time", "Branch and bound per ball", "Seed"),
    ]
    return table("verification", "How it was verified", columns, map(_parameter_row, report.verification))


def _parameter_row(v: VerifyReport) -> list[object]:
    noise = v.alpha > 0
    return [
        v.model,
        v.target,
        v.program[:8],
        v.arithmetic,
        v.encoder,
        numbers.small(v.sigma) if noise else numbers.NONE,
        v.steps,
        numbers.accuracy(v.clean),
        f"{v.n0:,} / {v.draws:,}" if noise else numbers.NONE,
        numbers.small(v.alpha) if noise else numbers.NONE,
        numbers.small(v.expected_false) if noise else numbers.NONE,
        f"{v.boxes:,}",
        numbers.seconds(v.wall_s),
        numbers.seconds(v.refine_s) if v.refine_s else numbers.NONE,
        v.seed,
    ]


def neurons(report: Report) -> Table:
    """How far the bounds decide spikes."""
    columns = [
        *text("Model", "Target"),
        *number("L∞ radius", "Never fire", "Always fire", "Undecided"),
    ]
    body = [
        [
            v.model,
            v.target,
            row.eps_text,
            *(numbers.percent(x) for x in (row.never, row.always, row.unstable)),
        ]
        for v in report.verification
        for row in v.rows
    ]
    note = "Shares of neuron-steps over the balls; the undecided ones are what keeps a ball open."
    return table("verified-neurons", "Spikes that the bounds decide", columns, body, note, detail=True)


def promises(report: Report) -> tuple[str, ...]:
    """What the numbers promise, each sentence once."""
    return tuple(dict.fromkeys(v.guarantee for v in report.verification if v.guarantee))
