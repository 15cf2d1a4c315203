"""Counts priced with one profile: total, breakdown, what is missing, static power as a line of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from rsc.encoder_spec import GAUSSIAN
from rsc.energy.intervals import data_interval, energy_of, model_interval, swings
from rsc.energy.results import (
    Energy,
    EnergyClass,
    LayerEnergy,
    PricedProfile,
    StaticEnergy,
    Traffic,
)
from rsc.energy.step_time import step_time
from rsc.energy.terms import CLASSES, NEURON_OPS, Pricing, Term, executed_mac, snn_terms
from rsc.errors import UsageError


def price(
    pricing: Pricing,
    votes: int = 1,
    step_time_s: float | None = None,
    chips: float = 1.0,
    terms: Sequence[Term] | None = None,
    seeds: int = 1,
) -> PricedProfile:
    """Energy per pass of the counted run under one profile.

    Args:
        votes: passes per decision.
        step_time_s: duration of a step, for static power; None leaves static power out and says so.
        chips: number of chips (or share of one) that the network keeps powered.
        terms: `snn_terms(pricing)` if already at hand.
        seeds: passes per sample, see `data_interval`.

    Raises:
        UsageError: votes < 1, or a step time or chip share that is not positive.
    """
    check_amounts(votes, step_time_s, chips)
    terms = snn_terms(pricing) if terms is None else terms
    profile = pricing.profile
    total = energy_of(terms) if terms else None
    missing = tuple(not_priced(pricing, step_time_s))
    synapse = profile.cost.sop or profile.cost.mac
    return PricedProfile(
        profile=profile.id,
        title=profile.title,
        source=profile.source,
        evidence=tuple(sorted({t.cost.evidence for t in terms})),
        scope="none" if synapse is None else "op+mem" if profile.memory is not None else synapse.scope,
        priced_count="dense" if profile.execution == "dense" else _priced_count(profile.synapse_format),
        energy=total,
        energy_per_decision=None if total is None else _times(votes, total),
        breakdown=tuple(_breakdown(terms)),
        layers=tuple(_layers(terms)),
        data=data_interval("energy", "nJ", _per_pass(terms, pricing.counts.batch), seeds) if terms else None,
        not_priced=missing,
        lower_bound=bool(missing),
        static=_static(pricing, step_time_s, chips),
        doi=profile.doi,
        process_nm=profile.process_nm,
        voltage_v=profile.voltage_v,
        model=model_interval(terms) if terms else None,
        tornado=swings(terms),
        step_time=None if profile.timing is None else step_time(pricing.counts, profile.timing, chips),
        traffic=tuple(Traffic(t.node, t.group, *t.bits) for t in terms if t.bits is not None),
    )


def check_amounts(votes: int, step_time_s: float | None, chips: float = 1.0) -> None:
    """Refuse what cannot be priced; raises UsageError."""
    if votes < 1:
        raise UsageError(f"A decision of {votes} votes?", "It takes at least one pass.", "Use 1 or more.")
    for name, value, unit in (("step time", step_time_s, " s"), ("number of chips", chips, "")):
        if value is not None and not 0 < value < math.inf:
            raise UsageError(
                f"The {name} is {value:g}{unit}.", "It is above 0 and finite.", "Correct it, or leave it out."
            )


def not_priced(pricing: Pricing, step_time_s: float | None) -> Iterator[str]:
    """What happened in the run and has no cost in the profile."""
    profile, counts = pricing.profile, pricing.counts
    cost = profile.cost
    synapse = cost.sop or cost.mac
    all_in = profile.execution == "event" and synapse is not None and synapse.scope == "all-in"
    yield from _missing_operations(pricing)
    neurons = [n for n in counts.nodes if n.neurons]
    if neurons and not all_in and not (cost.sop is not None and cost.sop.includes_neurons):
        yield from _missing_neurons(pricing, {n.kind for n in neurons})
    events = counts.input_events.any() or any(n.per_pass("spikes_out").any() for n in counts.nodes)
    if events and not all_in and profile.execution == "event":
        if not pricing.has("spike") and not pricing.has("spike_out") and profile.memory is None:
            yield "transport of events"
        if profile.hops.high == 0:
            yield "hops over the network on chip (no placement)"
    if profile.memory is None and synapse is not None and synapse.scope == "op":
        yield "memory accesses of weights, accumulators and states"
    yield from _missing_encoder(pricing)
    if profile.static is None and (synapse is None or synapse.scope != "all-in"):
        yield "static power"
    elif profile.static is not None and step_time_s is None:
        yield "static power (no step time given)"


def _priced_count(synapse_format: str) -> str:
    return "sop" if synapse_format == "dense" else "sop_nz"


def _per_pass(terms: Sequence[Term], batch: int) -> np.ndarray:
    return sum((t.energy("nominal") for t in terms), np.zeros(batch)) / 1e3


def _times(factor: int, energy: Energy) -> Energy:
    return Energy(factor * energy.low_nj, factor * energy.nominal_nj, factor * energy.high_nj)


def _breakdown(terms: Sequence[Term]) -> Iterator[EnergyClass]:
    total = energy_of(terms).nominal_nj
    for name in CLASSES:
        part = [t for t in terms if t.group == name]
        if part:
            energy = energy_of(part)
            yield EnergyClass(name, energy, energy.nominal_nj / total if total else 0.0)


def _layers(terms: Sequence[Term]) -> Iterator[LayerEnergy]:
    for node in dict.fromkeys(t.node for t in terms):
        own = [t for t in terms if t.node == node]
        yield LayerEnergy(node, energy_of(own), tuple(_breakdown(own)))


def _static(pricing: Pricing, step_time_s: float | None, chips: float) -> StaticEnergy | None:
    static = pricing.profile.static
    if static is None or step_time_s is None:
        return None
    seconds = pricing.counts.steps * step_time_s
    low, nominal, high = (chips * mw for mw in (static.low, static.nominal, static.high))
    energy = Energy(*(mw * seconds * 1e6 for mw in (low, nominal, high)))
    return StaticEnergy(low, nominal, high, chips, step_time_s, energy)


def _missing_operations(pricing: Pricing) -> Iterator[str]:
    nodes = pricing.counts.nodes
    if pricing.profile.execution == "dense":
        return
    sop = sum(float(n.per_pass("sop").mean()) for n in nodes)
    mac = sum(float(executed_mac(pricing, n).mean()) for n in nodes)
    pooled = sum(float(n.per_pass("adds").mean()) for n in nodes if n.kind.endswith("Pool2d"))
    if sop and not pricing.has("sop"):
        yield f"synaptic operations ({sop:g} per pass)"
    if mac and not pricing.has("mac"):
        yield f"multiply-accumulates of graded input ({mac:g} per pass)"
    if pooled and not pricing.has("add"):
        yield f"additions of pooling ({pooled:g} per pass)"


def _missing_neurons(pricing: Pricing, kinds: set[str]) -> Iterator[str]:
    if pricing.profile.execution == "dense":
        yield "neuron updates"
    elif pricing.has("neuron_active", "neuron_inactive"):
        return
    elif not pricing.has("add"):
        yield "neuron updates"
    elif (
        not pricing.has("mul")
        and pricing.conventions.leak != "shift"
        and any(NEURON_OPS[k][0] for k in kinds)
    ):
        yield "multiplications of the leak"


def _missing_encoder(pricing: Pricing) -> Iterator[str]:
    encoder = pricing.encoder
    dense = pricing.profile.execution == "dense"
    if encoder.draws and (dense or not pricing.has("rng")):
        yield f"random numbers ({encoder.draws} per pass)"
    if encoder.draws and encoder.kind in GAUSSIAN:
        yield "logarithm, root and cosine of the normal transform"
    if (encoder.adds or encoder.comparisons) and (dense or not pricing.has("add")):
        yield "additions and comparisons of the encoder"
    if encoder.multiplies and (dense or not pricing.has("mul")):
        yield "multiplications of the encoder"
    if encoder.pixel_reads and pricing.profile.memory is None:
        yield f"pixel reads ({encoder.pixel_reads} per pass)"
