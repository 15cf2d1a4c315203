"""Tables of attacks and of the checks on them."""

from __future__ import annotations

from rsc.report import numbers, select
from rsc.report.table import Table, number, status, table, text
from rsc.report.value import Report
from rsc.robustness.results import AttackRow, HealthCheck, PairedDifference, RobustnessReport

OWN = "model"  # the surrogate of an attack that used the gradient the model came with
ENSEMBLE = select.ENSEMBLE


def deployment(report: Report) -> Table:
    """One line per model and ball: the model attacked itself, and the same ball where it is deployed."""
    rows = select.attack_rows(report)
    columns = [
        *text("Model", "Ball"),
        *number("White box, where the model was attacked", "Same images replayed on a target"),
        *number("Black box", "n"),
    ]
    body = [
        _deployment_row(rows, budget, name)
        for name in select.model_names(report)
        for budget in select.budgets(r for r in rows if r.model == name)
    ]
    note = (
        "Per-run accuracy under the strongest attack of each kind. Replayed: the images were made on another"
        " model or target, so the number is an upper bound of what a dedicated attack would leave."
    )
    return table("robust", "Robust accuracy by kind of attack", columns, body, note)


def _deployment_row(rows: tuple[AttackRow, ...], budget: select.Budget, name: str) -> list[object]:
    mine = [row for row in rows if row.model == name]
    black = [row for row in mine if is_black_box(row) and not row.crafted_on]
    replayed = [row for row in mine if row.crafted_on]
    white = [row for row in mine if row not in black and row not in replayed]
    kinds = [_by_target(kind, budget, name) for kind in (white, replayed, black)]
    ns = sorted({row.per_run.n for row in mine if (row.norm, row.eps) == budget})
    return [name, select.budget_text(budget, rows), *kinds, ", ".join(map(str, ns))]


def is_black_box(row: AttackRow) -> bool:
    """Whether the attack asked for outputs only."""
    return row.attack.startswith(select.BLACK_BOX)


def _by_target(rows: list[AttackRow], budget: select.Budget, name: str) -> str:
    found = []
    for target in dict.fromkeys(row.target for row in rows):
        row = select.strongest(rows, budget, name, target)
        if row is not None:
            made = f" of {row.crafted_on}" if row.crafted_on not in ("", name) else ""
            found.append(f"{numbers.accuracy(row.per_run)} {target} ({row.attack}{made})")
    return "; ".join(found) or numbers.NONE


def attacks(report: Report) -> Table:
    """Every attack that was run, with all three accuracies."""
    columns = [
        *text("Model", "Scored on", "Images made on", "Ball", "Attack"),
        *number("Per run", "Vote", "Right every time", "… without attack", "n × draws"),
        *text("Seeds, attack / scoring"),
    ]
    note = (
        "Per run: expected over the encoder's noise. Vote: plurality of the draws. Right every time: in all"
        " draws, what is left if an attacker may try that often; compare it with that number without attack."
    )
    return table(
        "attacks",
        "Every attack",
        columns,
        map(_attack_row, select.attack_rows(report)),
        note,
        detail=True,
    )


def _attack_row(row: AttackRow) -> list[object]:
    return [
        row.model,
        row.target,
        row.crafted_on or "itself",
        f"{select.NORMS.get(row.norm, row.norm)} {row.eps_text or f'{row.eps:g}'}",
        attack_text(row),
        numbers.accuracy(row.per_run),
        numbers.accuracy(row.vote),
        numbers.accuracy(row.worst_of),
        numbers.accuracy(row.baseline.worst_of),
        f"{row.per_run.n} × {row.per_run.draws}",
        f"{row.attack_seed} {row.attack_stream} / {_noise(row)}",
    ]


def _noise(row: AttackRow) -> str:
    return f"{row.scores.seed} {row.scores.stream} ({row.scores.source})"


def attack_text(row: AttackRow) -> str:
    """ "pgd, 40 steps, 2 restarts, 16 fresh draws per gradient, surrogate atan"."""
    draws = [f"{row.eot} {row.eot_mode} draws per gradient"] if row.eot else []
    if row.attack == ENSEMBLE:
        return ", ".join([maker_text(row), *draws, *_rounding(row)])
    parts = [row.attack]
    parts += [f"{row.steps} steps"] if row.steps else []
    parts += [f"{row.restarts} restarts"] if row.restarts > 1 else []
    parts += draws
    parts += [f"surrogate {surrogate_text(row)}"] if row.surrogate else []
    return ", ".join([*parts, *_rounding(row)])


def _rounding(row: AttackRow) -> list[str]:
    levels = [f"rounded to {row.levels} levels"] if row.levels else []
    return levels + ([f"{row.runs_per_image:,} runs per image"] if row.runs_per_image else [])


def maker_text(row: AttackRow) -> str:
    """ "pgd through atan"; "pgd" through the model's own; "ensemble, worst of 5 per image"."""
    if row.attack == ENSEMBLE:
        return f"{row.attack}, {row.surrogate or 'worst'} per image"
    return row.attack if row.surrogate in ("", OWN) else f"{row.attack} through {row.surrogate}"


def surrogate_text(row: AttackRow) -> str:
    """Name of the surrogate gradient; "" where none was used."""
    return "the model's own" if row.surrogate == OWN else row.surrogate


def clean(report: Report) -> Table:
    """The three accuracies without any perturbation, per model and target."""
    columns = [
        *text("Model", "Target"),
        *number("Per run", "Vote", "Right every time", "n × draws", "Seed"),
        *text("Noise"),
    ]
    return table("clean", "Without attack", columns, map(_clean_row, report.robustness))


def _clean_row(r: RobustnessReport) -> list[object]:
    scores = r.clean
    three = [numbers.accuracy(a) for a in (scores.per_run, scores.vote, scores.worst_of)]
    size = f"{scores.per_run.n} × {scores.per_run.draws}"
    return [r.model, r.target, *three, size, scores.seed, f"{scores.source}, stream {scores.stream}"]


def curves(report: Report) -> Table:
    """Areas under the curves of accuracy over strength."""
    columns = [
        *text("Model", "Target", "Images made on", "Norm", "Attack", "Strengths"),
        *number("Area (QTE)", "Mean accuracy"),
    ]
    body = []
    for r in report.robustness:
        drawn = [c for c in r.curves if c.rows]
        worst = [c for c in drawn if c.rows[-1].attack == ENSEMBLE]
        for curve in worst or drawn:
            first = curve.rows[-1]
            strengths = ", ".join(row.eps_text or f"{row.eps:g}" for row in curve.rows)
            norm = select.NORMS.get(first.norm, first.norm)
            area = [numbers.small(curve.qte), numbers.percent(curve.qte_mean)]
            made = first.crafted_on or "itself"
            body.append([first.model, first.target, made, norm, maker_text(first), strengths, *area])
    note = (
        "QTE: trapezoid area under per-run accuracy over eps (Wu et al., arXiv 2407.20099). Where several"
        " attacks were combined, of their worst images."
    )
    return table("curves", "Accuracy over strength", columns, body, note)


def differences(report: Report) -> Table:
    """Pairs on the same images under the same noise."""
    columns = [
        *text("Pair, second minus first"),
        *number("Per run, points", "Vote, points", "Right only in first / second", "McNemar p"),
        *number("Changed answers", "n × draws"),
    ]
    found = [d for r in report.robustness for d in r.differences]
    worst = [d for d in found if f" under {ENSEMBLE} at " in d.second]
    note = f"Of {len(found)} pairs those of the worst images; report.json holds all." if worst else ""
    return table("differences", "Paired differences", columns, map(_difference_row, worst or found), note)


def _difference_row(d: PairedDifference) -> list[object]:
    ends = f"[{numbers.points(d.interval.low)}, {numbers.points(d.interval.high)}]"
    return [
        f"{d.second} − {d.first}",
        f"{numbers.points(d.per_run)} {ends}",
        numbers.points(d.vote),
        f"{d.only_first} / {d.only_second}",
        numbers.small(d.mcnemar_p),
        f"{d.flipped_runs:,} of {d.runs:,}",
        f"{d.n} × {d.draws}",
    ]


def checks(report: Report) -> Table:
    """Health checks, the failed ones first."""
    found = [(r, check) for r in report.robustness for check in r.checks]
    found.sort(key=lambda pair: ("FAIL", "WARN", "PASS").index(pair[1].status))
    columns = [*status("Status"), *text("Check", "Model on target", "Numbers", "What to do")]
    return table("checks", "Can these numbers be trusted?", columns, (_check_row(r, c) for r, c in found))


def _check_row(r: RobustnessReport, check: HealthCheck) -> list[object]:
    values = ", ".join(f"{name} {numbers.small(value)}" for name, value in check.numbers.items())
    return [check.status, f"{check.id} {check.title}", f"{r.model} on {r.target}", values, check.next_step]
