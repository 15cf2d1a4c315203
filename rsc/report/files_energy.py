"""An energy report as files: JSON is the value, Markdown, CSV and plots are functions of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import msgspec

from rsc.energy.results import EnergyReport, LayerCounts
from rsc.errors import StorageError
from rsc.files import write_atomic
from rsc.report import plots, plots_energy, tables_energy
from rsc.report.machine import utc_now
from rsc.report.markdown import escape, pipe_table
from rsc.report.table import Table
from rsc.report.terminal import rich_table as rich_table
from rsc.report.value import Report


def alone(report: EnergyReport) -> Report:
    """A report that holds this and nothing else."""
    return Report(title="Energy", created=utc_now(), energy=(report,))


def all_tables(report: EnergyReport) -> tuple[Table, ...]:
    """Every table of an energy report that has rows, in reading order."""
    t, whole = tables_energy, alone(report)
    makers = (t.priced, t.ratios, t.measured, t.totals, t.neurobench, t.encoders, t.layers, t.layer_prices)
    more = (t.breakdown, t.traffic, t.data, t.curve, t.tornado, t.conventions, t.sources)
    return tuple(made for maker in (*makers, *more) if (made := maker(whole)).rows)


def extra_tables(report: EnergyReport) -> tuple[Table, ...]:
    """The tables of what was asked for beyond one run."""
    whole = alone(report)
    made = (tables_energy.curve(whole), tables_energy.measured(whole))
    return tuple(t for t in made if t.rows or "not readable" in t.note or "NVML" in t.note)


def energy_markdown(report: EnergyReport) -> str:
    """All tables with their notes as Markdown."""
    parts = ["# Energy"]
    for made in all_tables(report):
        parts += [f"## {escape(made.title)}", pipe_table(made), *([escape(made.note)] if made.note else [])]
    facts = tables_energy.notes(alone(report))
    parts += ["\n".join(f"- {escape(fact)}" for fact in facts)] if facts else []
    return "\n\n".join(parts) + "\n"


def layers_csv(report: EnergyReport) -> str:
    """One line per node: counts summed over the passes, means beside them, energy in nJ per profile."""
    prices = {(p.profile, x.node): x.energy for p in report.priced for x in p.layers}
    lines = [_csv_line(report, layer, prices) for layer in report.layers]
    sink = io.StringIO()
    writer = csv.DictWriter(sink, list(lines[0]) if lines else ["node"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return sink.getvalue()


def _csv_line(report: EnergyReport, layer: LayerCounts, prices: dict) -> dict[str, object]:
    plain = msgspec.to_builtins(layer)
    means = plain.pop("means")
    plain |= {"shape": "x".join(map(str, layer.shape)), "sources": " ".join(layer.sources)}
    line: dict[str, object] = plain | {f"{k}_per_pass": v for k, v in means.items()}
    for p in report.priced:
        found = prices.get((p.profile, layer.node))
        for end in ("low", "nominal", "high"):
            line[f"{p.profile}_{end}_nj"] = getattr(found, f"{end}_nj", None)
        total = p.energy.nominal_nj if p.energy else 0.0
        line[f"{p.profile}_share"] = found.nominal_nj / total if found and total else None
    return line


def _drawings(report: EnergyReport) -> Iterator[tuple[str, str]]:
    whole = alone(report)
    for name, made in (
        ("energy", plots.energy(whole)),
        ("sops", plots.sops(whole)),
        ("tornado", plots_energy.tornado(report)),
        ("over-time", plots_energy.over_time(report)),
    ):
        if made is not None:
            yield name, standalone(made.svg)


def standalone(svg: str) -> str:
    """An <svg> element of a page as a file of its own."""
    return svg if "xmlns=" in svg else svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)


def write_energy(report: EnergyReport, folder: Path) -> tuple[Path, ...]:
    """Write energy.json, energy.md, layers.csv and the plots as SVG; each whole or not at all.

    Raises:
        StorageError: a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"Folder '{folder}' cannot be made.", f"{error.strerror or error}.", "Choose another place."
        ) from error
    contents = {
        "energy.json": msgspec.json.format(msgspec.json.encode(report)),
        "energy.md": energy_markdown(report).encode(),
        "layers.csv": layers_csv(report).encode(),
        **{f"{name}.svg": svg.encode() for name, svg in _drawings(report)},
    }
    for name, data in contents.items():
        write_atomic(folder / name, data)
    return tuple(folder / name for name in contents)
