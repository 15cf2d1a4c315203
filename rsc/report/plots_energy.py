"""Plots of energy alone: by layer, over the samples, tornado, energy and accuracy over T, Pareto fronts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from rsc.energy.results import EnergyReport, PricedProfile, Swing
from rsc.report.numbers import joules, plain
from rsc.report.svg import INK, Drawing, render, style

COST, CHOICE, SECOND = "#3b8ed0", "#e08a1e", "#2da36f"
COLOURS = (
    COST,
    CHOICE,
    SECOND,
    "#b06fc4",
    "#d1545b",
    "#8b8d94",
    "#b8a422",
    "#4fb3bf",
    "#7a5c3e",
    "#e58fb0",
    "#5a67c8",
)
_BARS, _PANELS = 10, 3


def tornado(report: EnergyReport, name: str = "tornado") -> Drawing | None:
    """Energy per pass: one panel per profile, one bar per cost or choice, the widest on top."""
    panels = [
        (p.profile, p.tornado[:_BARS], p.energy.nominal_nj) for p in report.priced if p.energy and p.tornado
    ]
    if not panels:
        return None
    with style(name):
        ratios = [len(bars) + 1.6 for _, bars, _ in panels]
        figure = Figure(figsize=(7.4, 0.7 + 0.34 * sum(ratios)), layout="constrained")
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=ratios)[:, 0]
        for ax, (profile, bars, nominal) in zip(axes, panels, strict=True):
            _swings(ax, bars, nominal)
            ax.set_title(f"costs: {plain(profile)}", loc="left")
        description = (
            "Each bar moves one cost (blue) or one choice of the model (orange, hatched) from end to end with"
            " all others nominal; the line is the nominal energy per pass."
        )
        return render(figure, name, "What moves the energy", description)


def _swings(ax: Axes, bars: Sequence[Swing], nominal: float) -> None:
    for y, bar in enumerate(bars):
        choice = bar.kind == "model"
        ax.barh(
            y,
            (bar.high - bar.low) * 1e-9,
            left=bar.low * 1e-9,
            height=0.62,
            color=CHOICE if choice else COST,
            hatch="///" if choice else None,
        )
    ax.axvline(nominal * 1e-9, color=INK, linewidth=1)
    ax.set_yticks(range(len(bars)), [plain(b.name)[:40] for b in bars])
    ax.set_ylim(len(bars) - 0.4, -0.6)
    ax.xaxis.set_major_formatter(EngFormatter("J"))
    ax.grid(False, axis="y")


def by_layer(report: EnergyReport, name: str = "energy-layers") -> Drawing | None:
    """Energy of every node and the encoder, stacked by class; one panel per profile."""
    panels = [p for p in report.priced if any(x.parts for x in p.layers)][:_PANELS]
    if not panels:
        return None
    classes = list(dict.fromkeys(c.name for p in panels for x in p.layers for c in x.parts))
    colours = {c: COLOURS[i % len(COLOURS)] for i, c in enumerate(classes)}
    with style(name):
        ratios = [len(p.layers) + 1.6 for p in panels]
        figure = Figure(figsize=(7.4, 0.9 + 0.34 * sum(ratios)), layout="constrained")
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=ratios)[:, 0]
        for ax, p in zip(axes, panels, strict=True):
            _stacked(ax, p, colours)
        handles = [Patch(color=colours[c]) for c in classes]
        figure.legend(handles, classes, loc="outside lower center", ncols=4, fontsize=9)
        text = (
            "Per pass at nominal costs; whiskers span the uncertainty of the costs. Static power belongs to"
            " no layer and is named in the title where a step time was given."
        )
        return render(figure, name, "Energy by layer", text)


def _stacked(ax: Axes, p: PricedProfile, colours: dict[str, str]) -> None:
    for y, layer in enumerate(p.layers):
        left = 0.0
        for part in layer.parts:
            width = part.energy.nominal_nj * 1e-9
            ax.barh(y, width, left=left, height=0.62, color=colours[part.name])
            left += width
        low, usual, high = (getattr(layer.energy, f"{end}_nj") for end in ("low", "nominal", "high"))
        ends = [[max(0.0, usual - low) * 1e-9], [max(0.0, high - usual) * 1e-9]]
        ax.errorbar([usual * 1e-9], [y], xerr=ends, color=INK, capsize=3, linewidth=1)
    apart = f"; static power apart: {joules(p.static.energy.nominal_nj)}" if p.static else ""
    ax.set_title(f"costs: {plain(p.profile)}{apart}", loc="left")
    ax.set_yticks(range(len(p.layers)), [plain(x.node)[:40] for x in p.layers])
    ax.set_ylim(len(p.layers) - 0.4, -0.6)
    ax.xaxis.set_major_formatter(EngFormatter("J"))
    ax.grid(False, axis="y")
    ax.set_xlim(left=0)


def distribution(report: EnergyReport, name: str = "distribution") -> Drawing | None:
    """Histogram of the synaptic operations per pass over the samples; None for a single sample."""
    found = [h for h in report.histograms if sum(h.counts) > 1]
    if not found:
        return None
    with style(name):
        figure = Figure(figsize=(7.4, 2.6), layout="constrained")
        for ax, h in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
            ax.stairs(h.counts, h.edges, fill=True, color=COST)
            for interval in (d for d in report.data if d.name == h.name):
                ax.axvline(interval.mean, color=INK, linewidth=1)
            ax.set_xlabel(f"{plain(h.name)} per pass ({plain(h.unit)})")
            ax.set_ylabel("Samples")
            ax.xaxis.set_major_formatter(EngFormatter())
            ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        return render(figure, name, "How the samples differ", "Samples per bin; the line is the mean.")


def over_time(report: EnergyReport, name: str = "over-time") -> Drawing | None:
    """Energy and accuracy after every step of one run; None without a curve."""
    profiles = list(dict.fromkeys(k for point in report.curve for k, _ in point.energy))
    if not profiles:
        return None
    labelled = [point for point in report.curve if point.accuracy is not None]
    with style(name):
        figure = Figure(figsize=(7.4, 3.4), layout="constrained")
        axes = figure.subplots(1, 2 if labelled else 1, squeeze=False)[0]
        for marker, profile in zip("osD^vPX*" * len(profiles), profiles, strict=False):
            points = [
                (p.steps, dict(p.energy)[profile] * 1e-9) for p in report.curve if profile in dict(p.energy)
            ]
            axes[0].plot(*zip(*points, strict=True), marker=marker, label=plain(profile))
        axes[0].set_yscale("log")
        axes[0].yaxis.set_major_formatter(EngFormatter("J"))
        axes[0].set_ylabel("Energy per pass")
        axes[0].legend(fontsize=8)
        if labelled:
            _accuracies(axes[1], labelled)
        for ax in axes:
            ax.set_xlabel("T (steps)")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        text = "Prefixes of one run, at nominal costs; the band is the 95 % interval of the accuracy."
        return render(figure, name, "Energy and accuracy over T", text)


def _accuracies(ax: Axes, points: Sequence) -> None:
    steps = [p.steps for p in points]
    ax.plot(steps, [p.accuracy for p in points], marker="o", color=SECOND)
    ax.fill_between(steps, [p.low for p in points], [p.high for p in points], color=SECOND, alpha=0.18)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_ylabel("Accuracy per run")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One network, or one setting of it, in the plane of energy and quality.

    Fields:
        label: what it is.
        energy: (low, nominal, high) nJ per pass.
        scores: name of a quality ("clean", "robust") -> (low, value, high) in [0, 1].
    """

    label: str
    energy: tuple[float, float, float]
    scores: dict[str, tuple[float, float, float]]


def front(candidates: Sequence[Candidate], score: str) -> tuple[Candidate, ...]:
    """Those that no other beats (at most as dear, at least as good, and better in one), by energy."""

    def beats(a: Candidate, b: Candidate) -> bool:
        costs, values = (a.energy[1], b.energy[1]), (a.scores[score][1], b.scores[score][1])
        return (
            costs[0] <= costs[1] and values[0] >= values[1] and (costs[0] < costs[1] or values[0] > values[1])
        )

    kept = [c for c in candidates if not any(beats(other, c) for other in candidates)]
    return tuple(sorted(kept, key=lambda c: c.energy[1]))


def pareto(candidates: Sequence[Candidate], title: str, name: str = "pareto") -> Drawing | None:
    """Every quality over energy, with the intervals of both and the Pareto front of the nominal values."""
    scores = list(dict.fromkeys(k for c in candidates for k in c.scores))
    if not scores:
        return None
    with style(name):
        figure = Figure(figsize=(7.4, 3.6), layout="constrained")
        for ax, score in zip(figure.subplots(1, len(scores), squeeze=False)[0], scores, strict=True):
            for c in (c for c in candidates if score in c.scores):
                _candidate(ax, c, score)
            edge = front([c for c in candidates if score in c.scores], score)
            points = [(c.energy[1] * 1e-9, c.scores[score][1]) for c in edge]
            ax.plot(*zip(*points, strict=True), color=COST, linewidth=1, linestyle="--")
            ax.set_ylabel(f"{plain(score)} accuracy")
            ax.set_xlabel("Energy per pass")
            ax.xaxis.set_major_formatter(EngFormatter("J"))
            ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        text = "Boxes span cost interval and 95 % interval; dashed: what no other network beats."
        return render(figure, name, title, text)


def _candidate(ax: Axes, c: Candidate, score: str) -> None:
    (low, x, high), (worst, y, best) = c.energy, c.scores[score]
    ends = [[(x - low) * 1e-9], [(high - x) * 1e-9]], [[max(0.0, y - worst)], [max(0.0, best - y)]]
    ax.errorbar([x * 1e-9], [y], xerr=ends[0], yerr=ends[1], marker="o", capsize=2, elinewidth=0.8, color=INK)
    ax.annotate(plain(c.label), (x * 1e-9, y), textcoords="offset points", xytext=(5, 5), fontsize=8)
