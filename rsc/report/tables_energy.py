"""Tables of operations and their prices; MACs and accumulates are never added up."""

from __future__ import annotations

import msgspec

from rsc.energy.neurobench import neurobench_metrics
from rsc.energy.results import (
    AnnComparison,
    Conventions,
    CurvePoint,
    DataInterval,
    EnergyClass,
    EnergyReport,
    LayerCounts,
    PricedProfile,
)
from rsc.report import numbers, select
from rsc.report.table import Table, number, table, text
from rsc.report.value import Report


def totals(report: Report) -> Table:
    """What one pass does, all layers together."""
    columns = [
        *text("Model", "Counted on", "Input"),
        *number("SOPs", "… non-zero weights (Effective ACs)", "MACs as executed", "MACs, hoisted"),
        *number("Neuron updates", "Spikes", "Dense MACs of the ANN", "Spikes per synapse", "Firing rate"),
        *number("Zero weights", "n, T, passes"),
    ]
    note = (
        "Means per pass of T steps; counts are exact. SOPs are accumulates of binary events; a graded input,"
        " the first layer of this coding, costs MACs at every step. Published crossovers with an ANN: 0.15 to"
        " 1.38 and 1.72 spikes per synapse, firing rate 5.7 %."
    )
    body = [_totals_row(select.energy_name(report, e), e) for e in report.energy]
    return table("operations", "Operations per pass", columns, body, note)


def _totals_row(name: str, e: EnergyReport) -> list[object]:
    t = e.totals
    counts = (t.sop, t.sop_nz, t.mac, t.mac_hoisted, t.updates, t.spikes, t.dense)
    return [
        name,
        e.target,
        e.input,
        *(numbers.count(c) for c in counts),
        numbers.small(t.spikes_per_synapse),
        numbers.percent(t.rate),
        numbers.percent(t.connection_sparsity),
        f"{e.n}, {e.steps}, {e.votes}",
    ]


def data(report: Report) -> Table:
    """How the counts vary over the images."""
    columns = [*text("Model", "Quantity"), *number("Mean", "95 % interval", "p5 / p50 / p95", "n")]
    body = [
        [select.energy_name(report, e), *_data_row(interval)]
        for e in report.energy
        for interval in (*e.data, *(p.data for p in e.priced[:1]))
        if interval is not None
    ]
    return table("data", "Spread over passes", columns, body, detail=True)


def _data_row(d: DataInterval) -> list[object]:
    show = numbers.joules if d.unit == "nJ" else numbers.count
    known = d.ci_low is not None and d.ci_high is not None
    ends = f"[{show(d.ci_low)}, {show(d.ci_high)}]" if known else numbers.NONE
    unit = "" if d.unit in ("nJ", "", d.name) else f", {d.unit}"
    return [d.name + unit, show(d.mean), ends, " / ".join(map(show, (d.p5, d.p50, d.p95))), d.n]


def priced(report: Report) -> Table:
    """Energy per profile, what it contains and what it leaves out."""
    columns = [
        *text("Model", "Costs"),
        *number("Energy per pass", "Energy per decision"),
        *text("Synapse cost contains", "Count that is priced", "Evidence"),
        *number("Static power apart"),
        *text("Not priced"),
    ]
    body = [_priced_row(select.energy_name(report, e), p) for e in report.energy for p in e.priced]
    note = (
        "Brackets span the uncertainty of the costs. “≥” marks a lower bound: something that happened has no"
        " cost in this profile. These are estimates from counts, not measurements of a system."
    )
    return table("energy", "Energy", columns, body, note)


def _priced_row(name: str, p: PricedProfile) -> list[object]:
    bound = "≥ " if p.lower_bound and p.energy else ""
    static = p.static
    apart = (
        f"{numbers.energy(static.energy)} at {numbers.seconds(static.step_time_s)} per step"
        if static
        else numbers.NONE
    )
    return [
        name,
        p.profile,
        bound + numbers.energy(p.energy),
        bound + numbers.energy(p.energy_per_decision),
        p.scope,
        p.priced_count,
        numbers.join(p.evidence),
        apart,
        numbers.join(p.not_priced),
    ]


def breakdown(report: Report) -> Table:
    """Energy by class, the encoder among them."""
    columns = [*text("Model", "Costs", "Class"), *number("Energy per pass", "Share")]
    body = [
        (select.energy_name(report, e), p.profile, part.name, numbers.energy(part.energy), _share(part))
        for e in report.energy
        for p in e.priced
        for part in p.breakdown
    ]
    return table("breakdown", "Where the energy goes", columns, body, detail=True)


def _share(part: EnergyClass) -> str:
    return numbers.percent(part.share)


def layer_prices(report: Report) -> Table:
    """Energy by node, for every profile side by side."""
    profiles = list(dict.fromkeys(p.profile for e in report.energy for p in e.priced))
    columns = [*text("Model", "Node"), *number(*profiles)]
    body = []
    for e in report.energy:
        prices = {(p.profile, part.node): part.energy for p in e.priced for part in p.layers}
        for node in dict.fromkeys(node for _, node in prices):
            cells = [numbers.energy(prices.get((profile, node))) for profile in profiles]
            body.append([select.energy_name(report, e), node, *cells])
    return table("layer-prices", "Energy per pass by layer", columns, body, detail=True)


def ratios(report: Report) -> Table:
    """Energy of the spiking network over that of the same topology with ReLU."""
    found = [(e, ann) for e in report.energy for ann in e.ann]
    names = list(dict.fromkeys(ratio.name for _, ann in found for ratio in ann.ratios))
    columns = [
        *text("Model", "Costs", "ANN"),
        *number("MACs of the ANN", "ANN, MACs only", "ANN with memory", *(f"SNN / ANN, {n}" for n in names)),
    ]
    body = [
        _ratio_row(select.energy_name(report, e), ann, names, select.priced_in_part(e, ann.profile))
        for e, ann in found
    ]
    note = (
        "Above 1× the spiking network needs more. Each column includes the ones before it. A range spans the"
        " uncertainty of the costs, which both networks share, and of the memory model. Operations alone say"
        " nothing about a system: memory costs more than arithmetic. “≥” marks lower bounds, as above."
    )
    return table("ratios", "Against the same network as ANN", columns, body, note)


def _ratio_row(name: str, ann: AnnComparison, names: list[str], priced_in_part: bool) -> list[object]:
    by_name = {ratio.name: ratio for ratio in ann.ratios}
    cells = [numbers.times(by_name[n].low, by_name[n].high) if n in by_name else numbers.NONE for n in names]
    if priced_in_part:
        cells = [cell if cell == numbers.NONE else f"≥ {cell}" for cell in cells]
    reuse, no_reuse = ann.total_reuse, ann.total_no_reuse
    memory = numbers.NONE
    if reuse and no_reuse:
        memory = f"{numbers.joules(reuse.nominal_nj)} to {numbers.joules(no_reuse.nominal_nj)}"
    baseline = f"{ann.baseline}, {ann.bits} bit" if ann.bits else ann.baseline
    return [name, ann.profile, baseline, numbers.count(ann.mac), numbers.energy(ann.ops), memory, *cells]


def layers(report: Report) -> Table:
    """Counts of every node."""
    columns = [
        *text("Model", "Node", "Type", "Shape"),
        *number("Weights", "Synapses", "Neurons", "Events in", "SOPs", "… non-zero", "MACs", "MACs, hoisted"),
        *number("Updates", "Rate", "Spikes per synapse"),
    ]
    body = [
        [select.energy_name(report, e), *_layer_row(layer, e.n)] for e in report.energy for layer in e.layers
    ]
    note = "Means per pass. Pooling between the layers is folded into the synapses."
    return table("layers", "Operations by layer", columns, body, note, detail=True)


def _layer_row(layer: LayerCounts, n: int) -> list[object]:
    means = layer.means
    hoisted = None if layer.mac_hoisted is None or n < 1 else layer.mac_hoisted / n
    return [
        layer.node,
        layer.kind,
        " × ".join(map(str, layer.shape)),
        *(numbers.count(c) for c in (layer.params, layer.synapses, layer.neurons, means.events_in)),
        *(numbers.count(c) for c in (means.sop, means.sop_nz, means.mac, hoisted, means.updates)),
        numbers.percent(layer.rate),
        numbers.small(layer.spikes_per_synapse),
    ]


def encoders(report: Report) -> Table:
    """What the encoder itself does per pass, and its price."""
    columns = [
        *text("Model", "Encoder"),
        *number("Random draws", "Comparisons", "Multiplications", "Additions", "Pixel reads"),
        *text("Priced as"),
    ]
    body = []
    for e in report.energy:
        c = e.encoder
        work = (c.draws, c.comparisons, c.multiplies, c.adds, c.pixel_reads)
        counts = [numbers.count(w) for w in work]
        body.append([select.energy_name(report, e), c.kind, *counts, _encoder_price(e)])
    note = "The encoder is a layer of its own: noise is not free, and no ANN pays it."
    return table("encoders", "The encoder", columns, body, note)


def _encoder_price(e: EnergyReport) -> str:
    prices = [
        f"{p.profile}: {numbers.energy(part.energy)}"
        for p in e.priced
        for part in p.breakdown
        if part.name == "encoder"
    ]
    return "; ".join(prices) or "not priced"


def sources(report: Report) -> Table:
    """Where the costs come from."""
    profiles = {p.profile: p for e in report.energy for p in e.priced}
    columns = [*text("Costs", "Title"), *number("Process", "Voltage"), *text("Evidence", "Source", "DOI")]
    body = [
        [
            p.profile,
            p.title,
            f"{p.process_nm:g} nm" if p.process_nm else numbers.NONE,
            f"{p.voltage_v:g} V" if p.voltage_v else numbers.NONE,
            numbers.join(p.evidence),
            p.source,
            p.doi,
        ]
        for p in profiles.values()
    ]
    return table("sources", "Sources of the costs", columns, body)


def conventions(report: Report) -> Table:
    """What was decided where the field has no single answer."""
    found: dict[Conventions, list[str]] = {}
    for e in report.energy:
        found.setdefault(e.conventions, []).append(select.energy_name(report, e))
    body = [
        [", ".join(dict.fromkeys(names)), key.replace("_", " "), value]
        for convention, names in found.items()
        for key, value in msgspec.structs.asdict(convention).items()
    ]
    return table("conventions", "Conventions", text("Model", "Question", "Decision"), body, detail=True)


def notes(report: Report) -> tuple[str, ...]:
    """Facts that the counting found worth telling, and meters that could not be read."""
    told = ((select.energy_name(report, e), (*e.notes, *e.not_measured)) for e in report.energy)
    return tuple(dict.fromkeys(f"{name}: {note}" for name, found in told for note in found))


def tornado(report: Report) -> Table:
    """What moves the energy and the ratio to the ANN: every cost and every choice of the model alone."""
    columns = [*text("Model", "Costs", "Of", "What moves"), *text("Kind"), *number("Low", "High")]
    body: list[list[object]] = []
    for e in report.energy:
        name = select.energy_name(report, e)
        for p in e.priced:
            for s in p.tornado:
                ends = (numbers.joules(s.low), numbers.joules(s.high))
                body.append([name, p.profile, "energy per pass", s.name, s.kind, *ends])
        for ann in e.ann:
            for s in ann.tornado:
                ends = (numbers.small(s.low), numbers.small(s.high))
                body.append([name, ann.profile, f"SNN / ANN, {ann.baseline}", s.name, s.kind, *ends])
    note = "Each line moves one thing from end to end with all others nominal, the widest first."
    return table("tornado", "What moves the result", columns, body, note, detail=True)


def curve(report: Report) -> Table:
    """Energy and accuracy after every step of one run."""
    profiles = list(dict.fromkeys(k for e in report.energy for point in e.curve for k, _ in point.energy))
    columns = [*text("Model"), *number("T", "SOPs", "MACs", "Accuracy", "95 % interval", *profiles)]
    body = []
    for e in report.energy:
        for point in e.curve:
            known = dict(point.energy)
            body.append(
                [
                    select.energy_name(report, e),
                    point.steps,
                    *(numbers.count(c) for c in (point.sop, point.mac)),
                    numbers.percent(point.accuracy),
                    _ends(point),
                    *(numbers.joules(known.get(k)) for k in profiles),
                ]
            )
    note = (
        "Prefixes of one run: noise is keyed by the step, so a shorter run is the beginning of a longer one."
    )
    return table("curve", "Energy and accuracy over T", columns, body, note, detail=True)


def _ends(point: CurvePoint) -> str:
    if point.low is None or point.high is None:
        return numbers.NONE
    return numbers.percent_range(point.low, point.high)


def measured(report: Report) -> Table:
    """What the energy counters of the machine showed."""
    columns = [
        *text("Model", "Meter", "Domain", "Evidence"),
        *number("Energy per pass", "Idle power", "Passes, s"),
    ]
    body = [
        [
            select.energy_name(report, e),
            m.meter,
            m.domain,
            m.evidence,
            numbers.joules(m.nj_per_pass),
            numbers.NONE if m.idle_w is None else f"{m.idle_w:.1f} W",
            f"{m.passes}, {m.seconds:.1f}",
        ]
        for e in report.energy
        for m in e.measured
    ]
    missing = " ".join(dict.fromkeys(why for e in report.energy for why in e.not_measured))
    note = f"Everything that the device drew, idle power included. {missing}".strip()
    return table("measured", "Measured on this machine", columns, body, note)


def neurobench(report: Report) -> Table:
    """The metrics of NeuroBench under their names there."""
    found = [(select.energy_name(report, e), neurobench_metrics(e)) for e in report.energy]
    names = list(dict.fromkeys(k for _, metrics in found for k in metrics))
    body = [
        [
            name,
            *(
                numbers.percent(metrics[k]) if k.endswith("Sparsity") else numbers.count(metrics[k])
                for k in names
            ),
        ]
        for name, metrics in found
    ]
    note = "Per pass. Effective ACs leave out zero weights, so they are our SOPs of non-zero weights."
    return table(
        "neurobench", "In the terms of NeuroBench", [*text("Model"), *number(*names)], body, note, detail=True
    )


def traffic(report: Report) -> Table:
    """Bits moved per pass, by class."""
    columns = [*text("Model", "Costs", "Class"), *number("Bits per pass", "Range of the memory model")]
    body: list[list[object]] = []
    for e in report.energy:
        for p in e.priced:
            for name in dict.fromkeys(t.name for t in p.traffic):
                rows = [t for t in p.traffic if t.name == name]
                low, usual, high = (sum(getattr(t, k) for t in rows) for k in ("low", "nominal", "high"))
                ends = f"[{numbers.count(low)}, {numbers.count(high)}]" if low < high else numbers.NONE
                body.append([select.energy_name(report, e), p.profile, name, numbers.count(usual), ends])
    return table("traffic", "Memory traffic", columns, body, detail=True)
