"""The order in which a report is told; HTML, Markdown and the terminal all follow it."""

from __future__ import annotations

import dataclasses

from rsc.report import (
    tables_certificates,
    tables_energy,
    tables_energy_runs,
    tables_models,
    tables_robustness,
    tables_targets,
    tables_verify,
    threat,
)
from rsc.report.numbers import plain
from rsc.report.table import Table
from rsc.report.value import Report


@dataclasses.dataclass(frozen=True)
class Section:
    """One part of the report.

    Fields:
        id, title: anchor and heading.
        paragraphs: text above the tables; points: a list below it.
        tables: those that have rows.
        plots: names in `rsc.report.plots.PLOTS`.
    """

    id: str
    title: str
    paragraphs: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    plots: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Nothing but a heading."""
        return not (any(self.paragraphs) or self.points or self.tables)


def sections(report: Report) -> tuple[Section, ...]:
    """All sections that hold something, in order."""
    every = (
        _glance(report),
        _robustness(report),
        _certificates(report),
        _verification(report),
        _deployment(report),
        _energy(report),
        _models(report),
        _not_done(report),
        _appendix(report),
    )
    return tuple(section for section in every if not section.empty)


def _section(
    id: str,
    title: str,
    tables: tuple[Table, ...],
    paragraphs: tuple[str, ...] = (),
    points: tuple[str, ...] = (),
    plots: tuple[str, ...] = (),
) -> Section:
    filled = tuple(t for t in tables if t.rows)
    texts = tuple(plain(p) for p in paragraphs if p)
    return Section(id, title, texts, tuple(map(plain, points)), filled, plots)


def _glance(report: Report) -> Section:
    return _section("glance", "At a glance", (tables_models.glance(report),), plots=("robust",))


def _robustness(report: Report) -> Section:
    if not report.robustness:
        return Section("robustness", "Robustness")
    t = tables_robustness
    return _section(
        "robustness",
        "Robustness",
        (
            t.clean(report),
            t.deployment(report),
            t.differences(report),
            t.checks(report),
            t.curves(report),
            t.attacks(report),
        ),
        (threat.threat_model(report),),
        threat.not_tried(report),
        ("deployed",),
    )


def _certificates(report: Report) -> Section:
    t = tables_certificates
    tables = (
        t.certificates(report),
        t.guarantees(report),
        t.voted(report),
        t.transfers(report),
        t.parameters(report),
    )
    return _section("certificates", "Certificates", tables, points=t.claims(report), plots=("certified",))


def _verification(report: Report) -> Section:
    t = tables_verify
    tables = (t.verified(report), t.parameters(report), t.neurons(report))
    return _section("verification", "Proofs for the deployed integers", tables, t.promises(report))


def _deployment(report: Report) -> Section:
    t = tables_targets
    tables = (t.targets(report), t.parity(report), t.quantisation(report), t.parity_nodes(report))
    return _section("deployment", "Deployment", tables)


def _energy(report: Report) -> Section:
    t = tables_energy
    tables = (
        t.priced(report),
        t.ratios(report),
        tables_energy_runs.step_time(report),
        t.measured(report),
        t.totals(report),
        t.neurobench(report),
        t.encoders(report),
        tables_energy_runs.histograms(report),
        t.sources(report),
        t.layers(report),
        t.breakdown(report),
        t.traffic(report),
        t.layer_prices(report),
        t.data(report),
        t.curve(report),
        t.tornado(report),
        t.conventions(report),
    )
    plots = ("energy", "energy-layers", "sops", "distribution", "tornado", "over-time")
    return _section("energy", "Energy", tables, points=t.notes(report), plots=plots)


def _models(report: Report) -> Section:
    return _section("models", "Models and training", (tables_models.models(report),), plots=("loss",))


def _not_done(report: Report) -> Section:
    return _section("not-done", "What was not done", (), points=report.not_done)


def _appendix(report: Report) -> Section:
    t = tables_models
    how = (f"To make this report again: {report.command}",) if report.command else ()
    tables = (t.dataset(report), t.environment(report), t.config(report))
    return _section("appendix", "Appendix: versions and how to reproduce", tables, how)


def lead(report: Report) -> str:
    """When, on what and with what the report was made."""
    parts = [f"Made {plain(report.created)}"]
    if report.dataset:
        parts.append(f"on {plain(report.dataset.name)} ({report.dataset.n_test:,} test images)")
    if report.environment and "rsc-snn" in report.environment.versions:
        parts.append(f"with rsc-snn {plain(report.environment.versions['rsc-snn'])}")
    return " ".join(parts) + "."
