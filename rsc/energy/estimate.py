"""One call from a run to its energy report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rsc.energy.ann import compare_ann
from rsc.energy.counts import Counts, NodeCounts, count
from rsc.energy.intervals import data_interval, histogram
from rsc.energy.pricing import price
from rsc.energy.profile import Profile, load_profile
from rsc.energy.results import (
    AnnComparison,
    Conventions,
    DataInterval,
    EncoderCounts,
    EnergyReport,
    LayerCounts,
    LayerMeans,
    PricedProfile,
    Totals,
)
from rsc.energy.terms import Pricing, snn_terms
from rsc.errors import UsageError
from rsc.program import Program
from rsc.results import RunResult, SpikeRecord

DEFAULT_PROFILES = ("h45-int8", "h45-int8-sram", "h45-fp32-sram", "loihi1-davies2018")


def energy_report(
    program: Program,
    run: SpikeRecord | RunResult,
    steps: int | None = None,
    profiles: Sequence[str | Profile] = DEFAULT_PROFILES,
    target: str | None = None,
    input_events: bool | None = None,
    conventions: Conventions | None = None,
    encoder: EncoderCounts | None = None,
    votes: int = 1,
    step_time_s: float | None = None,
    chips: float = 1.0,
    frames: np.ndarray | Mapping[str, np.ndarray] | None = None,
) -> EnergyReport:
    """Exact counts of a run, priced with every profile, with the ANN of the same topology beside it.

    Args:
        run: a `RunResult` or its spikes; one pass per sample and noise draw.
        steps: T; taken from a `RunResult` if not given.
        profiles: ids, paths of TOML files, or profiles.
        target: who produced the spikes; taken from a `RunResult` if not given.
        input_events: whether the Inputs carry binary events instead of graded values.
        encoder: operations of an encoder that ran outside the program, e.g. `bernoulli_encoder`.
        votes: passes per decision.
        step_time_s, chips: for static power.
        frames: what was fed in, [T, B, ...]; checked against `input_events`, and the raster of the Inputs.

    Raises:
        UnsupportedNode: a node without a counting rule.
        InputRefused: the record does not fit the program.
        UsageError: unknown profile, no T, or parameters out of range.
    """
    conventions = conventions or Conventions()
    counts = count(
        program,
        run.spikes if isinstance(run, RunResult) else run,
        steps if steps is not None else _steps(run),
        target if target is not None else _target(run),
        input_events,
        conventions.pooling,
        frames,
    )
    return report_of(counts, profiles, conventions, encoder, votes, step_time_s, chips)


def report_of(
    counts: Counts,
    profiles: Sequence[str | Profile] = DEFAULT_PROFILES,
    conventions: Conventions | None = None,
    encoder: EncoderCounts | None = None,
    votes: int = 1,
    step_time_s: float | None = None,
    chips: float = 1.0,
    seeds: int = 1,
) -> EnergyReport:
    """Counts priced with every profile; arguments as in `energy_report`.

    Args:
        counts: of one run, or of several that were joined.
        seeds: passes per sample: all samples under the first seed, then all under the next.

    Raises:
        UsageError: unknown profile, or parameters out of range.
    """
    conventions = conventions or Conventions()
    _check(conventions)
    loaded = [p if isinstance(p, Profile) else load_profile(p) for p in profiles]
    priced: list[PricedProfile] = []
    ann: list[AnnComparison] = []
    for profile in loaded:
        pricing = Pricing(counts, profile, conventions, encoder or counts.encoder)
        terms = snn_terms(pricing)
        priced.append(price(pricing, votes, step_time_s, chips, terms, seeds))
        ann += compare_ann(pricing, terms)
    return EnergyReport(
        target=counts.target,
        n=counts.batch,
        steps=counts.steps,
        votes=votes,
        layers=tuple(layer_counts(n, counts.steps) for n in counts.nodes),
        totals=_totals(counts),
        encoder=encoder or counts.encoder,
        data=tuple(_data(counts, seeds)),
        priced=tuple(priced),
        ann=tuple(ann),
        conventions=conventions,
        notes=(*_notes(counts), *_hasty(priced, step_time_s)),
        program_digest=counts.program.digest,
        input="events" if counts.binary_input else "graded",
        histograms=(histogram("sop", "operations", _per_pass(counts, "sop"), seeds),),
    )


def layer_counts(node: NodeCounts, steps: int) -> LayerCounts:
    """The row of one node: exact sums over the passes, with means beside them."""
    n = node.batch
    sop, spikes, events = _sum(node, "sop"), _sum(node, "spikes_out"), _known(node, "events_in")
    sop_nz, mac, updates = _sum(node, "sop_nz"), _sum(node, "mac"), _sum(node, "updates")
    return LayerCounts(
        node=node.node,
        kind=node.kind,
        shape=node.shape,
        means=LayerMeans(
            sop / n, sop_nz / n, mac / n, None if events is None else events / n, spikes / n, updates / n
        ),
        sources=node.sources,
        params=node.params,
        zero_weights=node.zero_weights,
        synapses=node.synapses,
        synapses_nz=node.synapses_nz,
        dense=node.synapses * steps * n,
        neurons=node.neurons,
        events_in=events,
        sop=sop,
        sop_nz=sop_nz,
        mac=mac,
        mac_hoisted=_known(node, "mac_hoisted"),
        mac_zero_skipped=_known(node, "mac_zero_skipped"),
        mac_nonzero=_known(node, "mac_nonzero"),
        adds=_sum(node, "adds"),
        spikes_out=spikes,
        updates=updates,
        updates_active=_known(node, "updates_active"),
        undelivered=_sum(node, "undelivered"),
        delivered_exact=node.delivered_exact,
        rate=_ratio(spikes, node.neurons * steps * n) if node.kind in _SPIKE_KINDS else None,
        spikes_per_synapse=_ratio(sop, node.synapses * n) if node.binary else None,
    )


_SPIKE_KINDS = ("IF", "LIF", "CubaLIF", "Threshold")


def _sum(node: NodeCounts, field: str) -> int:
    return int(node.per_pass(field).sum())


def _known(node: NodeCounts, field: str) -> int | None:
    return None if getattr(node, field) is None else _sum(node, field)


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def _totals(counts: Counts) -> Totals:
    def mean(field: str, nodes: Sequence[NodeCounts] = counts.nodes) -> float:
        return sum(float(n.per_pass(field).mean()) for n in nodes)

    hoisted = sum(
        float(n.per_pass("mac" if n.mac_hoisted is None else "mac_hoisted").mean()) for n in counts.nodes
    )
    fed = [n for n in counts.nodes if n.binary]
    spiking = sum(n.neurons for n in counts.nodes if n.kind in _SPIKE_KINDS)
    weights = sum(n.params for n in counts.nodes)
    return Totals(
        sop=mean("sop"),
        sop_nz=mean("sop_nz"),
        mac=mean("mac"),
        mac_hoisted=hoisted,
        updates=mean("updates"),
        spikes=mean("spikes_out"),
        dense=sum(n.synapses for n in counts.nodes if n.params),
        spikes_per_synapse=_ratio(mean("sop"), sum(n.synapses for n in fed)),
        rate=_ratio(mean("spikes_out"), spiking * counts.steps),
        connection_sparsity=_ratio(sum(n.zero_weights for n in counts.nodes), weights) or 0.0,
    )


def _data(counts: Counts, seeds: int) -> Iterator[DataInterval]:
    for field, unit in (("sop", "operations"), ("sop_nz", "operations"), ("spikes_out", "events")):
        yield data_interval(field, unit, _per_pass(counts, field), seeds)


def _per_pass(counts: Counts, field: str) -> np.ndarray:
    return np.sum([n.per_pass(field) for n in counts.nodes], axis=0)


def _hasty(priced: Sequence[PricedProfile], step_time_s: float | None) -> Iterator[str]:
    """A step time that was given and that no placement reaches."""
    for one in priced:
        least = one.step_time
        if least is not None and step_time_s is not None and step_time_s < least.low_s:
            yield (
                f"{one.profile}: a step takes at least {least.low_s:.3g} s even spread over all cores; "
                f"{step_time_s:.3g} s was given."
            )


def _notes(counts: Counts) -> Iterator[str]:
    for node in counts.nodes:
        if not node.delivered_exact:
            yield (
                f"{node.node}: events of the last step may never arrive; without a raster of "
                f"{', '.join(node.sources)} all emitted events were counted (upper bound)."
            )
        if node.neurons and node.updates_active is None:
            yield f"{node.node}: it is not known which updates had synaptic input; the interval covers all."


def _steps(run: SpikeRecord | RunResult) -> int:
    if isinstance(run, RunResult):
        return len(next(iter(run.outputs.values())))
    raise UsageError("The number of steps is not known.", "Spike counts do not hold it.", "Give steps=T.")


def _target(run: SpikeRecord | RunResult) -> str:
    return run.stats.target if isinstance(run, RunResult) else ""


def _check(conventions: Conventions) -> None:
    known = {
        "pooling": ("fold", "graded"),
        "first_layer": ("executed", "hoisted"),
        "leak": ("multiply", "shift"),
        "accumulator": ("gather", "scatter"),
    }
    for field, values in known.items():
        if getattr(conventions, field) not in values:
            raise UsageError(
                f"Convention {field} is '{getattr(conventions, field)}'.",
                f"Known: {', '.join(values)}.",
                "Choose one.",
            )
