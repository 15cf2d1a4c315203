"""An energy report as files: JSON is the value, Markdown, CSV and plots are functions of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from rich.text import Text

from rsc.energy.results import EnergyReport, LayerCounts
from rsc.errors import StorageError
from rsc.files import write_atomic
from rsc.report import plots, plots_energy, tables_energy, tables_energy_runs
from rsc.report.machine import utc_now
from rsc.report.markdown import escape, pipe_table
from rsc.report.numbers import plain
from rsc.report.table import Table
from rsc.report.terminal import rich_table as rich_table
from rsc.report.value import Report


def alone(report: EnergyReport) -> Report:
    """A report that holds this and nothing else."""
    return Report(title="Energy", created=utc_now(), energy=(report,))


def all_tables(report: EnergyReport) -> tuple[Table, ...]:
    """Every table of an energy report that has rows, in reading order."""
    t, runs, whole = tables_energy, tables_energy_runs, alone(report)
    makers = (t.priced, t.ratios, runs.step_time, t.measured, t.totals, t.neurobench, t.encoders, t.layers)
    more = (t.layer_prices, t.breakdown, t.traffic, t.data, runs.histograms, t.curve, t.tornado)
    more += (t.conventions, t.sources)
    return tuple(made for maker in (*makers, *more) if (made := maker(whole)).rows)


def extra_tables(report: EnergyReport) -> tuple[Table, ...]:
    """The tables of what was asked for beyond one run."""
    whole = alone(report)
    made = (tables_energy.curve(whole), tables_energy.measured(whole))
    return tuple(t for t in made if t.rows or "not readable" in t.note or "NVML" in t.note)


def facts(report: EnergyReport) -> tuple[Text, ...]:
    """The notes, line by line, as text for the terminal."""
    return tuple(Text(plain(note)) for note in report.notes)


def energy_markdown(report: EnergyReport) -> str:
    """All tables with their notes as Markdown."""
    parts = ["# Energy"]
    for made in all_tables(report):
        parts += [f"## {escape(made.title)}", pipe_table(made), *([escape(made.note)] if made.note else [])]
    found = tables_energy.notes(alone(report))
    parts += ["\n".join(f"- {escape(fact)}" for fact in found)] if found else []
    return "\n\n".join(parts) + "\n"


def layers_csv(report: EnergyReport) -> str:
    """One line per node: counts summed over the passes, means beside them, energy in nJ per profile."""
    prices = {(p.profile, x.node): x.energy for p in report.priced for x in p.layers}
    return _csv([_csv_line(report, layer, prices) for layer in report.layers], "node")


def profiles_csv(report: EnergyReport) -> str:
    """One line per profile: nJ per pass, bounds of the step in s, static energy, and what is missing."""
    lines = []
    for p in report.priced:
        line: dict[str, object] = {"profile": p.profile, "lower_bound": p.lower_bound}
        line |= {f"{end}_nj": getattr(p.energy, f"{end}_nj", None) for end in ("low", "nominal", "high")}
        line |= {f"step_{end}_s": getattr(p.step_time, f"{end}_s", None) for end in ("low", "high")}
        line |= {"static_nj": p.static.energy.nominal_nj if p.static else None}
        lines.append(line | {"not_priced": "; ".join(p.not_priced)})
    return _csv(lines, "profile")


def histograms_csv(report: EnergyReport) -> str:
    """One line per bin of every histogram over the samples."""
    lines = [
        {"name": h.name, "unit": h.unit, "from": low, "to": high, "samples": n}
        for h in report.histograms
        for low, high, n in zip(h.edges, h.edges[1:], h.counts, strict=False)
    ]
    return _csv(lines, "name")


def curve_csv(report: EnergyReport) -> str:
    """One line per number of steps: operations, accuracy and energy in nJ per profile."""
    lines = []
    for point in report.curve:
        line = msgspec.structs.asdict(point)
        prices = line.pop("energy")
        lines.append(line | {f"{profile}_nj": nj for profile, nj in prices})
    return _csv(lines, "steps")


def _csv(lines: Sequence[Mapping[str, object]], first: str) -> str:
    sink = io.StringIO()
    writer = csv.DictWriter(sink, list(lines[0]) if lines else [first], lineterminator="\n")
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
        ("energy-layers", plots_energy.by_layer(report)),
        ("sops", plots.sops(whole)),
        ("distribution", plots_energy.distribution(report)),
        ("tornado", plots_energy.tornado(report)),
        ("over-time", plots_energy.over_time(report)),
    ):
        if made is not None:
            yield name, standalone(made.svg)


def standalone(svg: str) -> str:
    """An <svg> element of a page as a file of its own."""
    return svg if "xmlns=" in svg else svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)


def write_energy(report: EnergyReport, folder: Path) -> tuple[Path, ...]:
    """Write energy.json, energy.md, the tables as CSV and the plots as SVG; each whole or not at all.

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
        "profiles.csv": profiles_csv(report).encode(),
        "histograms.csv": histograms_csv(report).encode(),
        **({"curve.csv": curve_csv(report).encode()} if report.curve else {}),
        **{f"{name}.svg": svg.encode() for name, svg in _drawings(report)},
    }
    for name, data in contents.items():
        write_atomic(folder / name, data)
    return tuple(folder / name for name in contents)
