"""Energies, intervals, curves and measurements: the small values that an energy report is made of."""

from __future__ import annotations

import msgspec


class Energy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An energy with the interval that the uncertainty of the costs spans (exact interval arithmetic), nJ."""

    low_nj: float
    nominal_nj: float
    high_nj: float


class DataInterval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A quantity per pass over the n passes of the run.

    Fields:
        name, unit: what it is.
        n: independent samples; the passes of one sample under several seeds count as one.
        mean, ci_low, ci_high: mean and its 95 % t-interval over the samples; the interval is None for n < 2.
        p5, p50, p95: percentiles of the passes.
        seeds: passes per sample; seed_std: standard deviation between the passes of a sample (pooled), None
            for one seed.
    """

    name: str
    unit: str
    n: int
    mean: float
    ci_low: float | None
    ci_high: float | None
    p5: float
    p50: float
    p95: float
    seeds: int = 1
    seed_std: float | None = None


class ModelInterval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the choices of the model leave open at nominal costs, nJ per pass.

    Fields:
        low_nj, nominal_nj, high_nj: all choices at their cheapest, as the conventions say, at their dearest.
        choices: what they are.
    """

    low_nj: float
    nominal_nj: float
    high_nj: float
    choices: tuple[str, ...]


class Traffic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bits that one node moves to or from one kind of memory, means per pass.

    Fields:
        node, name: of the graph, and the class ("weights", "accumulators", "states", "queue", "encoder").
        low, nominal, high: at the ends of the memory model and under the conventions; divided by the width of
            a word they are accesses.
    """

    node: str
    name: str
    low: float
    nominal: float
    high: float


class Swing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far one number moves when one cost, or one choice of the model, goes from end to end (a tornado).

    Fields:
        name: the cost, or the class whose counts the model leaves open.
        kind: "cost" or "model".
        low, high: the number with this one at its ends and all others nominal; nJ, or a ratio.
    """

    name: str
    kind: str
    low: float
    high: float


class StepTime(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds on the duration of a step, from the times of the operations of the chip.

    Fields:
        low_s: the work spread evenly over all cores, everything at its fastest: no placement is faster.
        high_s: all of it on one core, everything at its slowest.
        cores: cores per chip.
    """

    low_s: float
    high_s: float
    cores: int


class Histogram(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a quantity per pass is distributed over the samples (means over the seeds of each).

    Fields:
        edges: borders of the bins, one more than there are counts; counts: samples in every bin.
    """

    name: str
    unit: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]


class CurvePoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run stopped after some steps: what it had done by then, and how often it was right.

    Fields:
        steps: steps that were run.
        sop, mac: means per pass up to there.
        energy: (profile, nominal nJ per pass) of the profiles that price the run, encoder included.
        accuracy: share of the passes whose readout at that step is right; None without labels.
        low, high: its 95 % Wilson interval.
    """

    steps: int
    sop: float
    mac: float
    energy: tuple[tuple[str, float], ...]
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None


class MeasuredEnergy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Energy that a counter of the machine showed while passes were run; not an estimate from counts.

    Fields:
        meter: "NVML" or "RAPL"; domain: the device or package it counts.
        joules, seconds, passes: of the measurement.
        nj_per_pass: joules over passes: everything the domain drew, idle power included.
        idle_w: mean power of the domain before the measurement; None if it was not taken.
        evidence: always "measured".
    """

    meter: str
    domain: str
    joules: float
    seconds: float
    passes: int
    nj_per_pass: float
    idle_w: float | None = None
    evidence: str = "measured"
