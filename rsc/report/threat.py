"""What the attacker may do and what was not tried: from the rows, and from what the plans left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rsc.report import numbers, select
from rsc.report.tables_robustness import ENSEMBLE, surrogate_text
from rsc.report.value import Report
from rsc.robustness.results import AttackRow, RobustnessReport

ON_SPIKES = "sea"  # changes the frames of one run, behind the encoder
IMAGE_NORMS = ("linf", "l2", "l1")


def threat_model(report: Report) -> str:
    """What the attacker may do, in words."""
    rows = select.attack_rows(report)
    on_images = tuple(row for row in rows if row.attack != ON_SPIKES)
    sentences = [_images(on_images)] if on_images else []
    sentences += [_spikes(rows)] if len(on_images) < len(rows) else []
    if rows:
        apart = all((r.attack_seed, r.attack_stream) != (r.scores.seed, r.scores.stream) for r in on_images)
        sentences.append(
            "All scores of attacked images are on noise that the attack never saw."
            if apart
            else "Some scores share their noise with the attack and mean little."
        )
    return " ".join(sentences)


def _images(rows: Sequence[AttackRow]) -> str:
    balls = ", ".join(select.budget_text(b, rows) for b in select.budgets(rows)) or "none"
    modes = _list(row.eot_mode for row in rows if row.eot)
    surrogates = _list(surrogate_text(row) for row in rows if row.attack != ENSEMBLE)
    return (
        "The white-box attacker knows weights, time steps and the law of the noise, and adds one perturbation"
        f" within {balls} (pixel units, inside the legal pixel range) before the noise is drawn. Noise in the"
        f" gradients: {modes}. Surrogate gradients: {surrogates}."
    )


def _spikes(rows: Sequence[AttackRow]) -> str:
    found = [row for row in rows if row.attack == ON_SPIKES]
    balls = ", ".join(select.budget_text(b, found) for b in select.budgets(found)) or "none"
    return f"Another ({ON_SPIKES}) sees the spikes of one run and changes them within {balls}."


def not_tried(report: Report) -> tuple[str, ...]:
    """What the plans left out, and kinds of attack that no row of the report shows."""
    rows = select.attack_rows(report)
    if not rows:
        return ("No attack was run.",)
    told = left_out(report.robustness)
    images = [row for row in rows if row.attack != ON_SPIKES]
    surrogates = {r.surrogate for r in images if r.surrogate and r.attack != ENSEMBLE}
    tried = {
        "gradient attacks with more than one noise draw per gradient": any(r.eot > 1 for r in rows),
        "more than one restart": any(r.restarts > 1 for r in rows),
        "several surrogate gradients": bool(told) or len(surrogates) > 1,
        "an attacker who knows the noise (frozen draws)": any(r.eot_mode == "frozen" for r in rows),
        "black-box attacks (square, SPSA)": bool(told)
        or any(r.attack.startswith(("square", "spsa")) for r in rows),
        "images made on another model (transfer)": any(r.crafted_on for r in rows),
        "images rounded to the input grid before scoring": any(r.levels for r in rows),
        f"attacks in other norms than {_list(select.NORMS.get(r.norm, r.norm) for r in rows)}": {
            r.norm for r in rows
        }.issuperset(IMAGE_NORMS),
    }
    return (*told, *(f"Not tried: {what}." for what, done in tried.items() if not done))


def left_out(reports: Sequence[RobustnessReport]) -> tuple[str, ...]:
    """What the plans of evaluations left out, one sentence for all models with the same list."""
    models: dict[tuple[str, ...], list[str]] = {}
    for r in reports:
        if r.not_tried:
            models.setdefault(r.not_tried, []).append(r.model)
    everywhere = {r.model for r in reports}
    return tuple(
        f"Not tried{'' if set(names) == everywhere else f' on {_list(names)}'}: {_kinds(items)}."
        for items, names in models.items()
    )


def _kinds(items: Sequence[str]) -> str:
    """("attack square", "attack spsa", "gradient hart") as "attacks square, spsa; gradients hart"."""
    found: dict[str, list[str]] = {}
    for item in items:
        kind, _, name = item.partition(" ")
        known = kind in ("attack", "gradient") and name
        found.setdefault(f"{kind}s " if known else "", []).append(name if known else item)
    return "; ".join(f"{kind}{', '.join(names)}" for kind, names in found.items())


def _list(items: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(item for item in items if item)) or numbers.NONE
