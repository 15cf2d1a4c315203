"""Tables about the models as a whole, their training, and where the numbers were made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rsc.report import numbers, select
from rsc.report.select import Budget
from rsc.report.table import Table, number, table, text
from rsc.report.value import ModelSection, Report
from rsc.robustness.results import AttackRow

GLANCE_BUDGETS = 3
DEPTH = 5


def glance(report: Report) -> Table:
    """Models side by side: clean, robust, certified, operations, draws, energy."""
    rows = select.attack_rows(report)
    shown = _spread(select.budgets(rows), GLANCE_BUDGETS)
    radii = _glance_radii(report)
    columns = [
        *text("Model"),
        *number("Clean, per run", f"Clean, vote{_votes(report)}"),
        *number(*(f"Robust {select.budget_text(b, rows)}" for b in shown)),
        *number(*(f"Certified {select.NORMS[norm]} {radius:g}" for norm, radius in radii)),
        *number("SOPs", "MACs", "Random draws", "Energy per decision"),
    ]
    body = []
    for name in select.model_names(report):
        accuracies = [*_clean(report, name), *_robust(report, rows, shown, name)]
        certified = [_certified(report, name, norm, radius) for norm, radius in radii]
        body.append([name, *accuracies, *certified, *_cost(report, name)])
    return table("models", "Models at a glance", columns, body, _glance_note(report, rows))


def _glance_note(report: Report, rows: tuple[AttackRow, ...]) -> str:
    parts = ["Brackets hold 95 % intervals over images."]
    if rows:
        n = sorted({row.per_run.n for row in rows})
        parts.append(
            "Robust: per-run accuracy under the strongest of the attacks run, scored on noise that no attack"
            f" saw (n = {', '.join(map(str, n))})."
        )
    if report.models:
        parts.append("SOPs, MACs and draws are means per decision, all passes of a vote included.")
    if report.energy:
        parts.append(
            f"Energy: {_profile_title(report)}; brackets span the uncertainty of the costs, ≥ marks lower"
            " bounds."
        )
    return " ".join(parts)


def _profile_title(report: Report) -> str:
    priced = [p for energy in report.energy for p in energy.priced[:1] if p.energy]
    return ", ".join(dict.fromkeys(p.profile for p in priced)) or "not priced"


def _spread(found: tuple[Budget, ...], most: int) -> list[Budget]:
    """At most `most` balls of the first norm, evenly spread, the ends included."""
    same = [budget for budget in found if budget.norm == found[0].norm]
    if len(same) <= most:
        return same
    return [same[i * (len(same) - 1) // (most - 1)] for i in range(most)]


def _glance_radii(report: Report) -> list[tuple[str, float]]:
    """The middle radius of each norm that was certified."""
    found = select.certificates(report)
    middle = []
    for norm in select.certified_norms(found):
        radii = {r.radius for c in found if c.report.norm == norm for r in c.report.rows if r.radius > 0}
        middle += [(norm, sorted(radii)[(len(radii) - 1) // 2])] if radii else []
    return middle


def _clean(report: Report, name: str) -> list[str]:
    section = select.model(report, name)
    if section is not None and (section.per_run or section.vote):
        return [numbers.accuracy(section.per_run), numbers.accuracy(section.vote)]
    home = select.home(report, name)
    scores = select.clean(report, select.Place(name, home)) if home else None
    return [numbers.accuracy(scores.per_run), numbers.accuracy(scores.vote)] if scores else [numbers.NONE] * 2


def _votes(report: Report) -> str:
    draws = {m.vote.draws for m in report.models if m.vote} or {r.clean.vote.draws for r in report.robustness}
    return f" of {', '.join(map(str, sorted(draws)))}" if draws else ""


def _robust(report: Report, rows: tuple[AttackRow, ...], shown: list[Budget], name: str) -> list[str]:
    home = select.home(report, name)
    found = [select.strongest(rows, budget, name, home) for budget in shown]
    return [numbers.accuracy(row.per_run) if row else numbers.NONE for row in found]


def _certified(report: Report, name: str, norm: str, radius: float) -> str:
    certificate = select.certificate_of(report, name, norm)
    for row in certificate.rows if certificate else ():
        if row.radius == radius:
            ends = numbers.percent_range(row.interval.low, row.interval.high)
            return f"{numbers.percent(row.certified_accuracy)} {ends}"
    return numbers.NONE


def _cost(report: Report, name: str) -> list[str]:
    section, energy = select.model(report, name), select.energy_of(report, name)
    priced = numbers.NONE
    if energy and energy.priced and energy.priced[0].energy_per_decision:
        bound = "≥ " if energy.priced[0].lower_bound else ""
        priced = bound + numbers.energy(energy.priced[0].energy_per_decision)
    cost = section.cost if section else None
    if cost is not None:
        counts = [cost.sops, cost.macs, cost.encoder_draws]
    elif energy is not None:
        counts = [c * energy.votes for c in (energy.totals.sop, energy.totals.mac, energy.encoder.draws)]
    else:
        counts = [None, None, None]
    return [*(numbers.count(c) for c in counts), priced]


def models(report: Report) -> Table:
    """What each model is and how it was trained."""
    columns = [
        *text("Model", "What it is", "Encoder"),
        *number("Parameters", "Epochs", "Last loss", "Training time", "Seed", "Passes per decision"),
    ]
    return table("training", "The models", columns, (_model_row(m) for m in report.models))


def _model_row(section: ModelSection) -> list[object]:
    training, cost = section.training, section.cost
    return [
        section.name,
        section.description,
        encoder_text(section.encoder),
        numbers.count(section.params) if section.params else numbers.NONE,
        training.epochs if training else numbers.NONE,
        numbers.small(training.losses[-1]) if training and training.losses else numbers.NONE,
        numbers.seconds(training.wall_s) if training and training.wall_s else numbers.NONE,
        numbers.seed(training.seed) if training else numbers.NONE,
        cost.passes if cost else numbers.NONE,
    ]


def encoder_text(encoder: dict[str, Any]) -> str:
    """ "rsc2, steps 8, sigma 0.25, clip [0, 1]": what is given, apart from constants that change nothing."""
    plain = {"version": 1, "sigma": 0.0, "clip": None, "mean": (0.0,), "std": (1.0,)}
    parts = [str(encoder.get("kind", ""))]
    for key, value in encoder.items():
        fixed = tuple(value) if isinstance(value, list) else value
        if key != "kind" and (key not in plain or fixed != plain[key]):
            parts.append(f"{key} {_value_text(value)}")
    return numbers.join(tuple(parts))


def _value_text(value: object, depth: int = DEPTH) -> str:
    """A plain value on one line; what is nested too deeply is left to the JSON."""
    if isinstance(value, dict | list | tuple) and value and depth == 0:
        return "…"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k}: {_value_text(v, depth - 1)}' for k, v in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value_text(v, depth - 1) for v in value)}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def environment(report: Report) -> Table:
    """Interpreter, machine and package versions."""
    return table("environment", "Environment", text("What", "Value"), _environment_rows(report))


def _environment_rows(report: Report) -> Iterator[tuple[str, object]]:
    where = report.environment
    if where is not None:
        yield "Python", where.python
        yield "Machine", f"{where.platform}, {where.cpu_count} processors"
        if where.threads:
            yield "Threads of torch", where.threads
        yield from sorted(where.versions.items())
    yield "Report layout", f"version {report.schema_version}"


def dataset(report: Report) -> Table:
    """Which images."""
    data = report.dataset
    rows: list[tuple[str, object]] = []
    if data is not None:
        rows = [
            ("Name", data.name),
            ("Images to train", numbers.count(data.n_train)),
            ("Images to test", numbers.count(data.n_test)),
            ("Pixel range", f"[{data.bounds[0]:g}, {data.bounds[1]:g}]"),
            ("Classes", f"{len(data.labels)}: {', '.join(data.labels)}"),
        ]
    return table("dataset", "Data set", text("What", "Value"), rows)


def config(report: Report) -> Table:
    """The configuration, one line per value, nested keys joined by dots."""
    return table(
        "config", "Configuration as given", text("Key", "Value"), flatten(report.config), detail=True
    )


def flatten(values: dict[str, Any], prefix: str = "", depth: int = DEPTH) -> list[tuple[str, str]]:
    """Nested dicts as dotted keys, down to a depth."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict) and value and depth:
            rows += flatten(value, f"{prefix}{key}.", depth - 1)
        else:
            rows.append((f"{prefix}{key}", _value_text(value)))
    return rows
