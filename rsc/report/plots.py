"""The plots of a report, each a function from the report; None if there is nothing to show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from rsc.energy.results import Energy, EnergyReport, PricedProfile
from rsc.report import plots_energy, select
from rsc.report.numbers import plain
from rsc.report.select import Budget, Place
from rsc.report.svg import INK, Drawing, render, style
from rsc.report.value import Report
from rsc.robustness.results import Accuracy

COLOURS = ("#3b8ed0", "#e08a1e", "#2da36f", "#b06fc4", "#d1545b", "#8b8d94", "#b8a422", "#4fb3bf")
_MARKERS, _LINES = "osD^vPX*", ("-", "--", "-.", ":")
_LABEL = 34
_PANELS = 4


def robust(report: Report) -> Drawing | None:
    """Robust accuracy over eps, every model where it was attacked itself."""
    homes = [Place(name, select.home(report, name) or "") for name in select.model_names(report)]
    scored = set(select.places(report))
    title = "Robust accuracy over the strength of the attack, by model"
    return _curves(report, "robust", [p for p in homes if p in scored], title)


def deployed(report: Report) -> Drawing | None:
    """Robust accuracy over eps, the same model on several targets."""
    found = select.places(report)
    several = [p for p in found if len({q.target for q in found if q.model == p.model}) > 1]
    return _curves(report, "deployed", several, "Robust accuracy before and after deployment", targets=True)


def _curves(
    report: Report, name: str, shown: Sequence[Place], title: str, targets: bool = False
) -> Drawing | None:
    budgets = select.budgets(select.attack_rows(report))
    norms = list(dict.fromkeys(b.norm for b in budgets))
    if not shown or not budgets:
        return None
    with style(name):
        figure, axes = _figure(len(norms), 3.3)
        for ax, norm in zip(axes, norms, strict=True):
            for index, place in enumerate(shown):
                label = f"{place.model} on {place.target}" if targets else place.model
                _curve(ax, report, place, [b for b in budgets if b.norm == norm], index, label)
            _fraction_axis(ax, f"{select.NORMS.get(norm, norm)} eps (pixel units)", "Per-run accuracy")
        _legend(figure, axes[0])
        return render(figure, name, title, "Strongest attack at each strength; bars are 95 % intervals.")


def _curve(ax: Axes, report: Report, place: Place, budgets: Sequence[Budget], index: int, label: str) -> None:
    rows = select.attack_rows(report)
    scores = select.clean(report, place)
    points: list[tuple[float, Accuracy]] = [(0.0, scores.per_run)] if scores else []
    for budget in budgets:
        row = select.strongest(rows, budget, place.model, place.target)
        if row is not None:
            points.append((budget.eps, row.per_run))
    if points:
        x, values = [p[0] for p in points], [p[1] for p in points]
        y = [v.value for v in values]
        ends = _ends(y, [v.interval.low for v in values], [v.interval.high for v in values])
        ax.errorbar(x, y, yerr=ends, capsize=2.5, elinewidth=1, label=_label(label), **_look(index))


def _ends(y: Sequence[float], low: Sequence[float], high: Sequence[float]) -> list[list[float]]:
    """Lengths of error bars below and above; a value outside its own interval gets none on that side."""
    below = [max(0.0, a - b) for a, b in zip(y, low, strict=True)]
    return [below, [max(0.0, b - a) for a, b in zip(y, high, strict=True)]]


def certified(report: Report) -> Drawing | None:
    """Certified accuracy over the radius, one panel per norm."""
    found = [c for c in select.certificates(report) if c.report.rows]
    if not found:
        return None
    names, norms = [c.name for c in found], select.certified_norms(found)
    with style("certified"):
        figure, axes = _figure(len(norms), 3.0)
        panels = dict(zip(norms, axes, strict=True))
        for index, certificate in enumerate(found):
            rows = sorted(certificate.report.rows, key=lambda row: row.radius)
            ax = panels[certificate.report.norm]
            x, look, label = [row.radius for row in rows], _look(index), certificate.name
            if names.count(label) > 1:
                label = f"{label} on {certificate.report.target or 'another target'}"
            ax.plot(x, [row.certified_accuracy for row in rows], label=_label(label), **look)
            low, high = [r.interval.low for r in rows], [r.interval.high for r in rows]
            ax.fill_between(x, low, high, color=look["color"], alpha=0.18, linewidth=0)
        for norm, ax in panels.items():
            _fraction_axis(ax, f"{select.NORMS[norm]} radius (pixel units)", "Certified accuracy")
        _legend(figure, *axes)
        description = "Share of images that are right and certified; bands are 95 % intervals."
        return render(figure, "certified", "Certified accuracy over the radius", description)


def energy(report: Report) -> Drawing | None:
    """Energy per decision by class, with the interval of the costs, and the same network as ANN beside it."""
    profiles = list(dict.fromkeys(p.profile for e in report.energy for p in e.priced if p.energy))[:_PANELS]
    if not profiles:
        return None
    names = list(dict.fromkeys(c.name for e in report.energy for p in e.priced for c in p.breakdown))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    with style("energy"):
        bars = [_bars(report, profile) for profile in profiles]
        figure, axes = _stack([len(panel) for panel in bars])
        for ax, profile, panel in zip(axes, profiles, bars, strict=True):
            _energy_panel(ax, panel, colours)
            ax.set_title(_label(f"costs: {profile}"), loc="left")
        used = [name for name in names if any(name in bar[1] for panel in bars for bar in panel)]
        handles = [Patch(color=colours[name]) for name in used]
        figure.legend(handles, [_label(n) for n in used], loc="outside lower center", ncols=4, fontsize=9)
        description = (
            "Stacked by class at nominal costs; whiskers span the uncertainty of the costs; ≥ marks lower"
            " bounds. Hatched: the ANN with every weight read once; its whisker ends where nothing is reused."
        )
        return render(figure, "energy", "Energy per pass, spiking network and ANN", description)


_Bar = tuple[str, dict[str, float], tuple[float, float, float]]


def _bars(report: Report, profile: str) -> list[_Bar]:
    """(label, class -> nJ, (low, nominal, high)) from top to bottom."""
    bars: list[_Bar] = []
    for e in report.energy:
        name = select.energy_name(report, e)
        bars += [_snn_bar(name, p, p.energy) for p in e.priced if p.profile == profile and p.energy]
        bars += _ann_bars(name, e, profile)
    return bars


def _snn_bar(name: str, p: PricedProfile, total: Energy) -> _Bar:
    parts = {c.name: c.energy.nominal_nj for c in p.breakdown}
    return f"≥ {name}" if p.lower_bound else name, parts, (total.low_nj, total.nominal_nj, total.high_nj)


def _ann_bars(name: str, e: EnergyReport, profile: str) -> list[_Bar]:
    """With memory from all weights reused (the bar) to none (the whisker); without, its MACs."""
    bars: list[_Bar] = []
    for ann in e.ann:
        if ann.profile == profile:
            low, high = ann.total_reuse or ann.ops, ann.total_no_reuse or ann.ops
            label = f"{name} as ANN, {ann.baseline}"
            bars.append((label, {}, (low.low_nj, low.nominal_nj, high.high_nj)))
    return bars


def _energy_panel(ax: Axes, bars: Sequence[_Bar], colours: dict[str, str]) -> None:
    for y, (_, parts, (low, nominal, high)) in enumerate(bars):
        left = 0.0
        for name, value in parts.items():
            ax.barh(y, value * 1e-9, left=left * 1e-9, height=0.62, color=colours[name])
            left += value
        if not parts:
            ax.barh(y, nominal * 1e-9, height=0.62, color="none", edgecolor=INK, hatch="///", linewidth=0.8)
        ends = [[max(0.0, nominal - low) * 1e-9], [max(0.0, high - nominal) * 1e-9]]
        ax.errorbar([nominal * 1e-9], [y], xerr=ends, color=INK, capsize=3, linewidth=1)
    ax.set_yticks(range(len(bars)), [_label(bar[0]) for bar in bars])
    ax.set_ylim(len(bars) - 0.4, -0.6)
    ax.xaxis.set_major_formatter(EngFormatter("J"))
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.grid(False, axis="y")
    ax.set_xlim(left=0)


def sops(report: Report) -> Drawing | None:
    """Synaptic operations and MACs per pass of every weighted layer."""
    panels = [(e, [x for x in e.layers if x.means.sop or x.means.mac]) for e in report.energy]
    panels = [panel for panel in panels if panel[1]][:_PANELS]
    if not panels:
        return None
    with style("sops"):
        figure, axes = _stack([len(layers) for _, layers in panels])
        for ax, (e, layers) in zip(axes, panels, strict=True):
            y = range(len(layers))
            sop, mac = [x.means.sop for x in layers], [x.means.mac for x in layers]
            ax.barh([i - 0.18 for i in y], sop, height=0.34, color=COLOURS[0], label="SOPs")
            ax.barh([i + 0.18 for i in y], mac, height=0.34, color=COLOURS[1], hatch="///", label="MACs")
            ax.set_yticks(y, [_label(x.node) for x in layers])
            ax.set_ylim(len(layers) - 0.4, -0.6)
            ax.set_title(_label(select.energy_name(report, e)), loc="left")
            ax.xaxis.set_major_formatter(EngFormatter())
            ax.grid(False, axis="y")
        _legend(figure, axes[0])
        description = "Means per pass; synaptic operations and multiply-accumulates are told apart by colour."
        return render(figure, "sops", "Operations by layer", description)


def loss(report: Report) -> Drawing | None:
    """Training loss over the epochs."""
    trained = [m for m in report.models if m.training and len(m.training.losses) > 1]
    if not trained:
        return None
    with style("loss"):
        figure, axes = _figure(1, 2.2)
        for index, section in enumerate(trained):
            losses = section.training.losses if section.training else ()
            colour, line = _look(index)["color"], _look(index)["linestyle"]
            x, label = range(1, len(losses) + 1), _label(section.name)
            axes[0].plot(x, losses, label=label, color=colour, linestyle=line)
        axes[0].set_xlabel("Epoch")
        axes[0].set_ylabel("Mean loss")
        axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(figure, axes[0])
        return render(figure, "loss", "Training loss", "Mean loss of every epoch.")


def tornado(report: Report) -> Drawing | None:
    """What moves the energy of the first program that says so; the tables have all."""
    return _first(report, plots_energy.tornado)


def energy_layers(report: Report) -> Drawing | None:
    """Energy of every layer by class, of the first program that was priced; the tables have all."""
    return _first(report, plots_energy.by_layer)


def distribution(report: Report) -> Drawing | None:
    """Operations over the samples of the first program that ran several; the tables have all."""
    return _first(report, plots_energy.distribution)


def over_time(report: Report) -> Drawing | None:
    """Energy and accuracy over T of the first program that was followed; the tables have all."""
    return _first(report, plots_energy.over_time)


def _first(report: Report, draw: Callable[[EnergyReport], Drawing | None]) -> Drawing | None:
    for e in report.energy:
        drawing = draw(e)
        if drawing is not None:
            name = plain(f"{select.energy_name(report, e)} on {e.target}")
            return drawing._replace(title=f"{drawing.title}: {name}")
    return None


PLOTS: dict[str, Callable[[Report], Drawing | None]] = {
    "robust": robust,
    "deployed": deployed,
    "certified": certified,
    "energy": energy,
    "energy-layers": energy_layers,
    "sops": sops,
    "distribution": distribution,
    "tornado": tornado,
    "over-time": over_time,
    "loss": loss,
}


def _figure(panels: int, height: float) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(7.4, height + 0.5), layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _stack(bars: Sequence[int]) -> tuple[Figure, Sequence[Axes]]:
    """Panels one below the other, as high as their number of bars."""
    ratios = [n + 1.6 for n in bars]
    figure = Figure(figsize=(7.4, 0.7 + 0.34 * sum(ratios)), layout="constrained")
    return figure, list(figure.subplots(len(bars), 1, squeeze=False, height_ratios=ratios)[:, 0])


def _fraction_axis(ax: Axes, x: str, y: str) -> None:
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.set_ylim(-0.02, 1.02)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_xlim(left=0)


def _look(index: int) -> dict[str, Any]:
    """Colour, marker and dashes together, so that no line is known by its colour alone."""
    pick = {"color": COLOURS, "marker": _MARKERS, "linestyle": _LINES}
    return {key: choices[index % len(choices)] for key, choices in pick.items()}


def _legend(figure: Figure, *axes: Axes) -> None:
    """One legend for all panels, each label once."""
    found = [pair for ax in axes for pair in zip(*ax.get_legend_handles_labels(), strict=True)]
    shown = {label: handle for handle, label in found}
    labels = list(shown)
    figure.legend(
        list(shown.values()),
        labels,
        loc="outside lower center",
        ncols=min(4, max(1, len(labels))),
        fontsize=9,
    )


def _label(text: str) -> str:
    """A name short enough for an axis; a leading underscore would hide it from the legend."""
    text = plain(text)
    text = text if len(text) <= _LABEL else text[: _LABEL - 1] + "…"
    return "\u200b" + text if text.startswith("_") else text
