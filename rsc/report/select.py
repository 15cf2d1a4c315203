"""Questions that several tables, plots and sentences ask of a report."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from rsc.energy.results import EnergyReport
from rsc.report.value import ModelSection, Report, Role
from rsc.robustness.results import AttackRow, CertifyReport, RobustnessReport, Scores

NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}
ENSEMBLE = "ensemble"  # the row whose images are, one by one, the worst of several attacks
BLACK_BOX = ("random", "square", "spsa")


class Budget(NamedTuple):
    """A ball: sorted by norm, then radius."""

    norm: str
    eps: float


class Place(NamedTuple):
    """Which model was scored on which target."""

    model: str
    target: str


class Certified(NamedTuple):
    """A certificate and whose it is."""

    name: str
    report: CertifyReport


def attack_rows(report: Report) -> tuple[AttackRow, ...]:
    """All attack rows, those of curves included, each once, in order."""
    curves = [row for r in report.robustness for curve in r.curves for row in curve.rows]
    return tuple(dict.fromkeys([row for r in report.robustness for row in r.attacks] + curves))


def budgets(rows: Iterable[AttackRow]) -> tuple[Budget, ...]:
    """The balls that were tried, the empty one excluded."""
    return tuple(sorted({Budget(row.norm, row.eps) for row in rows if row.eps > 0}))


def budget_text(budget: Budget, rows: Iterable[AttackRow]) -> str:
    """ "L∞ 8/255", with the radius as the user wrote it."""
    texts = (row.eps_text for row in rows if (row.norm, row.eps) == budget and row.eps_text)
    return f"{NORMS.get(budget.norm, budget.norm)} {next(texts, f'{budget.eps:g}')}"


def strongest(
    rows: Iterable[AttackRow], budget: Budget, model: str, target: str | None = None
) -> AttackRow | None:
    """The row that leaves the model the least per-run accuracy; None if there is none.

    Where attacks were combined it is that row: its images were chosen on noise of their own, while the least
    of many noisy scores is lower than what the attack that has it would score again.
    """
    fitting = [
        row
        for row in rows
        if (row.norm, row.eps) == budget and row.model == model and target in (None, row.target)
    ]
    return min(fitting, key=lambda row: (row.attack != ENSEMBLE, row.per_run.value), default=None)


def places(report: Report) -> tuple[Place, ...]:
    """Every (model, target) that was scored, in order."""
    found = [Place(r.model, r.target) for r in report.robustness]
    found += [Place(row.model, row.target) for row in attack_rows(report)]
    return tuple(dict.fromkeys(found))


def home(report: Report, model: str) -> str | None:
    """The target on which the model itself was attacked, else the first it was scored on."""
    direct = [row.target for row in attack_rows(report) if row.model == model and not row.crafted_on]
    scored = [place.target for place in places(report) if place.model == model]
    return next(iter(direct + scored), None)


def clean(report: Report, place: Place) -> Scores | None:
    """Scores without perturbation."""
    return next((r.clean for r in report.robustness if Place(r.model, r.target) == place), None)


def model_names(report: Report) -> tuple[str, ...]:
    """Models in the order of the report, then those that only the robustness section knows."""
    return tuple(dict.fromkeys([m.name for m in report.models] + [p.model for p in places(report)]))


def model(report: Report, name: str) -> ModelSection | None:
    """The section of a model."""
    return next((m for m in report.models if m.name == name), None)


def with_role(report: Report, role: Role) -> tuple[str, ...]:
    """Names of the models with a role."""
    return tuple(m.name for m in report.models if m.role == role)


def certificates(report: Report) -> tuple[Certified, ...]:
    """All certificates, each under the name of its model.

    Those outside the robustness section name no model: they go to the one with that coder and that many
    steps, or are named by their coder if several or none have it.
    """
    named = [Certified(r.model, c) for r in report.robustness for c in r.certificates]
    known = [c.report for c in named]
    return (*named, *(Certified(_owner(report, c), c) for c in report.certificates if c not in known))


def _owner(report: Report, certificate: CertifyReport) -> str:
    if certificate.model:
        return certificate.model
    coder = (certificate.encoder, certificate.steps)
    fitting = [m.name for m in report.models if (m.encoder.get("kind"), m.encoder.get("steps")) == coder]
    if len(fitting) == 1:
        return fitting[0]
    return f"{certificate.encoder}, σ = {certificate.sigma:g}, T = {certificate.steps}"


def certificate_of(report: Report, name: str, norm: str) -> CertifyReport | None:
    """The first certificate of a model in a norm."""
    return next((c.report for c in certificates(report) if (c.name, c.report.norm) == (name, norm)), None)


def certified_norms(found: Iterable[Certified]) -> tuple[str, ...]:
    """The norms of certificates, in order."""
    return tuple(dict.fromkeys(c.report.norm for c in found))


def energy_name(report: Report, energy: EnergyReport) -> str:
    """The model whose program was counted; "program" and the first digits of its digest if unknown."""
    for section in report.models:
        if section.program_digest and section.program_digest == energy.program_digest:
            return section.name
    return f"program {energy.program_digest[:8]}" if energy.program_digest else "program"


def energy_of(report: Report, name: str) -> EnergyReport | None:
    """The first energy report of a model."""
    return next((e for e in report.energy if energy_name(report, e) == name), None)


def priced_in_part(energy: EnergyReport, profile: str) -> bool:
    """Whether something that happened has no cost in a profile, so that its sums are lower bounds."""
    return any(p.lower_bound for p in energy.priced if p.profile == profile)


def health(report: Report, status: str) -> tuple[tuple[RobustnessReport, str], ...]:
    """Checks with a status: the report they belong to and "id title"."""
    return tuple(
        (r, f"{check.id} {check.title}")
        for r in report.robustness
        for check in r.checks
        if check.status == status
    )
