"""What an energy estimate returns: counts, prices, ratios. Plain frozen values that go to JSON as they are.

Integers are exact sums over all passes (one pass: one sample, one noise draw, T steps); every `*_per_pass`
is such a sum divided by `n`. Energies are in nJ per pass unless the name says otherwise.
"""

from __future__ import annotations

import msgspec

from rsc.energy.values import CurvePoint as CurvePoint
from rsc.energy.values import DataInterval as DataInterval
from rsc.energy.values import Energy as Energy
from rsc.energy.values import Histogram as Histogram
from rsc.energy.values import MeasuredEnergy as MeasuredEnergy
from rsc.energy.values import ModelInterval as ModelInterval
from rsc.energy.values import StepTime as StepTime
from rsc.energy.values import Swing as Swing
from rsc.energy.values import Traffic as Traffic

EVENTS = {"events_in": "events"}  # what JSON calls them


class LayerMeans(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename=EVENTS):
    """Means per pass of the integers of one layer; None where the integer is unknown."""

    sop: float
    sop_nz: float
    mac: float
    events_in: float | None
    spikes_out: float
    updates: float


class LayerCounts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename=EVENTS):
    """What one node of the graph did, summed over n passes of T steps.

    Fields:
        node, kind: dotted name and NIR type.
        shape: shape of the node's output, without time and batch.
        sources: emitters whose values arrive here (pooling, Flatten and Scale in between are folded).
        params, zero_weights: weights of the node, and how many of them are zero (biases excluded).
        synapses, synapses_nz: in-bounds (input site, output site) pairs of one dense step; those of
            non-zero weight.
        dense: synapses * T * n, what a machine that skips nothing would do.
        neurons: number of neurons (0 for a weighted node).
        events_in: delivered binary events, or non-zero graded inputs; None if not observable. JSON: events.
        sop, sop_nz: synaptic operations (accumulates) of binary events, structural and non-zero fan-out.
        mac: multiply-accumulates of graded input as executed, dense at every step.
        mac_hoisted: the same, done once if the input does not change over the steps; None if it does.
        mac_zero_skipped, mac_nonzero: zero inputs skipped; zero weights skipped too; None if not observable.
        adds: additions outside the synapses (bias, graded pooling, merges of currents), not priced apart.
        spikes_out: binary events emitted by this node.
        updates: neuron updates, neurons * T * n.
        updates_active: updates with at least one delivered non-zero synapse; None if rasters are missing.
        undelivered: events emitted too late to reach a synapse within T (delayed edges).
        delivered_exact: False if an edge is delayed and the raster that tells the undelivered events is
            missing; then all emitted events were counted, an upper bound.
        rate: spikes_out / (neurons * T * n), None for nodes that do not spike.
        spikes_per_synapse: sop per pass / synapses, None without binary input.
    """

    node: str
    kind: str
    shape: tuple[int, ...]
    means: LayerMeans
    sources: tuple[str, ...] = ()
    params: int = 0
    zero_weights: int = 0
    synapses: int = 0
    synapses_nz: int = 0
    dense: int = 0
    neurons: int = 0
    events_in: int | None = 0
    sop: int = 0
    sop_nz: int = 0
    mac: int = 0
    mac_hoisted: int | None = None
    mac_zero_skipped: int | None = None
    mac_nonzero: int | None = None
    adds: int = 0
    spikes_out: int = 0
    updates: int = 0
    updates_active: int | None = None
    undelivered: int = 0
    delivered_exact: bool = True
    rate: float | None = None
    spikes_per_synapse: float | None = None


class EncoderCounts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the encoder does per pass, a layer of its own.

    Fields:
        kind: name of the encoder, "none" if ready-made frames were given.
        draws: random numbers drawn (one uniform per normal: Box-Muller turns 2 uniforms into 2 normals).
        comparisons: spike decisions, or clipping against two bounds.
        multiplies, adds: scaling of the noise and normalisation.
        pixel_reads: reads of the image.
    """

    kind: str
    draws: int = 0
    comparisons: int = 0
    multiplies: int = 0
    adds: int = 0
    pixel_reads: int = 0


class EnergyClass(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One class of the breakdown, see `rsc.energy.terms.CLASSES`."""

    name: str
    energy: Energy
    share: float


class LayerEnergy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Energy of one node, or of the "encoder", per pass; `parts` are its classes with shares of the node."""

    node: str
    energy: Energy
    parts: tuple[EnergyClass, ...] = ()


class StaticEnergy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Static power while a pass lasts, a line of its own: it is a statement about latency.

    Fields:
        mw_low, mw_nominal, mw_high: power of the chips, mW.
        step_time_s: assumed duration of one step.
        energy: per pass.
    """

    mw_low: float
    mw_nominal: float
    mw_high: float
    chips: float
    step_time_s: float
    energy: Energy


class PricedProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The counts priced with one cost profile.

    Fields:
        profile, title, source, doi, process_nm, voltage_v: which costs, from where.
        evidence: kinds of evidence behind the costs used (measured, fitted, simulated, derived, vendor,
            assumed).
        scope: what the synapse cost contains ("op", "op+mem", "all-in").
        priced_count: "sop", "sop_nz" or "dense", the count that the hardware pays for.
        energy: total per pass without static power; None if the profile prices no operation of the run.
        energy_per_decision: energy times `votes`, what one voted answer costs.
        breakdown: by class; layers: by node.
        data: nominal energy over the passes; None with `energy`.
        model: the part of the interval that the choices of the model span; tornado: its parts and those of
            the costs, the widest first.
        traffic: bits moved by node and class, where the profile has memory.
        step_time: how short and how long a step can be, where the profile knows the times of its operations.
        static: static power as a separate line, None if not known or no step time was given.
        not_priced: what happened and has no cost here; never zero in truth.
        lower_bound: True if `not_priced` is not empty: the total is then a lower bound.
    """

    profile: str
    title: str
    source: str
    evidence: tuple[str, ...]
    scope: str
    priced_count: str
    energy: Energy | None
    energy_per_decision: Energy | None
    breakdown: tuple[EnergyClass, ...]
    layers: tuple[LayerEnergy, ...]
    data: DataInterval | None
    not_priced: tuple[str, ...] = ()
    lower_bound: bool = False
    static: StaticEnergy | None = None
    doi: str = ""
    process_nm: float | None = None
    voltage_v: float | None = None
    model: ModelInterval | None = None
    tornado: tuple[Swing, ...] = ()
    traffic: tuple[Traffic, ...] = ()
    step_time: StepTime | None = None


class Ratio(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """SNN energy over ANN energy; above 1 the spiking network needs more.

    Fields:
        name: "ops" (synapses and MACs), "ops+neurons", "memory" (also weights, accumulators and states) or
            "all" (also spike queues, resets, hops and the encoder); each includes the ones before it.
        nominal: at nominal costs; None where only the two ends of the memory model have a meaning.
        model_low, model_high: nominal costs, extremes of the memory model
            (accumulator in a register against an ANN without weight reuse; scattered against full reuse).
        low, high: extremes over the corners of the cost box as well. Where costs of the spiking network are
            missing (`PricedProfile.not_priced`), all of these are lower bounds.
    """

    name: str
    nominal: float | None
    model_low: float
    model_high: float
    low: float
    high: float


class AnnComparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The same topology with ReLU, one pass, border-exact dense MACs.

    Fields:
        profile: id of the profile that prices the spiking network.
        baseline: what prices the ANN, e.g. "h45-int8" or "4-bit matched".
        bits: width of its weights and activations, None if the profile does not say.
        mac: MACs of one pass; params and activations: words it reads and writes.
        ops: energy of the MACs, nJ.
        total_reuse, total_no_reuse: with memory, every weight read once / read for every MAC; None without
            memory costs.
        ratios: see `Ratio`.
        tornado: what moves the last of the ratios, the widest first; nominally no weight is reused.
    """

    profile: str
    baseline: str
    bits: int | None
    mac: int
    params: int
    activations: int
    ops: Energy
    ratios: tuple[Ratio, ...]
    total_reuse: Energy | None = None
    total_no_reuse: Energy | None = None
    tornado: tuple[Swing, ...] = ()


class Totals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sums over the layers, per pass.

    Fields:
        sop, sop_nz, mac, mac_hoisted, updates, spikes: means per pass.
        dense: synapses of one dense step over all weighted nodes: the MACs of the ANN.
        spikes_per_synapse: sop / dense of the binary-fed layers per pass; published crossovers: 0.15-1.38
            (Dampfhoffer et al. 2023), 1.72 (Davidson and Furber 2021).
        rate: spikes per neuron and step; published crossover 5.7 % (Yan et al., T = 5).
        connection_sparsity: share of zero weights.
    """

    sop: float
    sop_nz: float
    mac: float
    mac_hoisted: float
    updates: float
    spikes: float
    dense: int
    spikes_per_synapse: float | None
    rate: float | None
    connection_sparsity: float


class Conventions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was decided where the field has no single answer; printed with every number.

    Fields:
        pooling: "fold" delivers every spike through pooling to the next synapses; "graded" pools first and
            multiplies the pooled value.
        first_layer: "executed" prices MACs of a constant input at every step, "hoisted" once.
        leak: "multiply" or "shift" (a decay of 2^-k, priced as an addition).
        accumulator: nominal memory model, "gather" (in a register) or "scatter" (read and written in memory
            per operation).
        bias: where bias additions are priced.
        weights: weight bits are read per synaptic operation, nothing is reused.
    """

    pooling: str = "fold"
    first_layer: str = "executed"
    leak: str = "multiply"
    accumulator: str = "scatter"
    bias: str = "inside the neuron update, not priced apart"
    weights: str = "read once per synaptic operation"


class EnergyReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Exact counts and their prices for one run.

    Fields:
        target: which target produced the spikes.
        n: passes counted; steps: T; votes: passes per decision.
        layers, totals, encoder: counts.
        data: sop, sop_nz and spikes over the passes; histograms: of sop over the samples.
        priced: one entry per profile; ann: comparisons for the profiles that can price an ANN.
        notes: facts a reader needs, e.g. upper bounds where rasters were not recorded.
        input: what the Inputs were counted as, "events" or "graded".
        curve: energy and accuracy over T, from one run.
        measured: what meters of this machine showed; not_measured: which are not readable, and why.
        program_digest: SHA-256 of the program.
    """

    target: str
    n: int
    steps: int
    votes: int
    layers: tuple[LayerCounts, ...]
    totals: Totals
    encoder: EncoderCounts
    data: tuple[DataInterval, ...]
    priced: tuple[PricedProfile, ...]
    ann: tuple[AnnComparison, ...]
    conventions: Conventions
    notes: tuple[str, ...] = ()
    program_digest: str = ""
    input: str = ""
    curve: tuple[CurvePoint, ...] = ()
    measured: tuple[MeasuredEnergy, ...] = ()
    not_measured: tuple[str, ...] = ()
    histograms: tuple[Histogram, ...] = ()
