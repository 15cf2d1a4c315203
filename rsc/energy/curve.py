"""Energy and accuracy against T from one run: what it had done, and whether it was right, after every step.

A run of T steps begins like a run of T' < T steps, as noise is keyed by the step and networks are causal, so
the prefixes of one run are the shorter runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np
from scipy.stats import binomtest

from rsc.energy.counts import Counts, count
from rsc.energy.encoder import encoder_counts
from rsc.energy.estimate import report_of
from rsc.energy.profile import Profile
from rsc.energy.rasters import summed
from rsc.energy.results import Conventions, CurvePoint, EncoderCounts
from rsc.energy.stream import Tally, joined
from rsc.errors import UsageError
from rsc.program import Program
from rsc.results import RunResult, SpikeRecord

POINTS = 16


def chosen_steps(steps: int) -> tuple[int, ...]:
    """1 to T, thinned out to `POINTS` values that end with T."""
    return tuple(sorted({round(t) for t in np.linspace(1, steps, min(steps, POINTS))}))


@dataclasses.dataclass
class CurveTally:
    """Collects the prefixes of one run that comes in parts (of samples).

    Args:
        at: numbers of steps at which the run is looked at.
        input_events, pooling, touched: see `rsc.energy.count`.
    """

    program: Program
    at: Sequence[int]
    input_events: bool | None = None
    pooling: str = "fold"
    touched: bool = True
    counts: dict[int, list[Counts]] = dataclasses.field(default_factory=dict)
    hits: dict[int, int] = dataclasses.field(default_factory=dict)
    labelled: int = 0

    def add(self, run: RunResult, targets: np.ndarray | None = None) -> None:
        """Take in one part, with rasters of all spiking nodes and Inputs; `targets` int64 [B] if known."""
        right = None if targets is None else correct_by_step(run, targets, self.program)
        for steps, made in zip(self.at, self._prefixes(run), strict=True):
            self.counts.setdefault(steps, []).append(made)
            if right is not None:
                self.hits[steps] = self.hits.get(steps, 0) + int(right[steps - 1].sum())
        self.labelled += 0 if targets is None else len(targets)

    def _prefixes(self, run: RunResult) -> Iterator[Counts]:
        """The counts after every step of `at`; each event is looked at once where sums can go on."""
        _check_rasters(run.spikes)
        target = run.stats.target
        if self.pooling != "fold":
            for steps in self.at:
                record = prefix(run.spikes, steps)
                yield count(
                    self.program, record, steps, target, self.input_events, self.pooling, None, self.touched
                )
            return
        tally, done = Tally.of(self.program, self.input_events, self.touched), 0
        for steps in self.at:
            tally.add({n: np.asarray(run.spikes.rasters[n][done:steps], bool) for n in tally.watched})
            done = steps
            yield tally.counts(target, self.input_events)

    def points(
        self,
        profiles: Sequence[str | Profile],
        conventions: Conventions | None = None,
        encoder: EncoderCounts | None = None,
    ) -> tuple[CurvePoint, ...]:
        """The curve, priced."""
        return tuple(self._point(t, profiles, conventions, encoder) for t in self.at)

    def _point(
        self,
        steps: int,
        profiles: Sequence[str | Profile],
        conventions: Conventions | None,
        encoder: EncoderCounts | None,
    ) -> CurvePoint:
        spec = None if self.input_events else self.program.encoder
        if spec is not None and encoder is None:
            shorter = msgspec.structs.replace(spec, steps=steps, step_sigma=spec.step_sigma[:steps])
            encoder = encoder_counts(shorter, self.program.input_shape)
        report = report_of(joined(self.counts[steps]), profiles, conventions, encoder)
        energy = tuple((p.profile, p.energy.nominal_nj) for p in report.priced if p.energy)
        point = CurvePoint(steps, report.totals.sop, report.totals.mac, energy)
        if not self.labelled:
            return point
        hits = self.hits[steps]
        ends = binomtest(hits, self.labelled).proportion_ci(method="wilson")
        return msgspec.structs.replace(
            point, accuracy=hits / self.labelled, low=float(ends.low), high=float(ends.high)
        )


def prefix(record: SpikeRecord, steps: int) -> SpikeRecord:
    """The record of the first steps.

    Raises:
        UsageError: a node has counts and no raster.
    """
    _check_rasters(record)
    rasters: Mapping[str, np.ndarray] = {n: np.asarray(r)[:steps] for n, r in record.rasters.items()}
    return SpikeRecord({n: summed(r) for n, r in rasters.items()}, rasters)


def _check_rasters(record: SpikeRecord) -> None:
    missing = sorted(set(record.counts) - set(record.rasters))
    if missing:
        raise UsageError(
            f"The raster of '{missing[0]}' was not recorded.",
            "Spike counts do not tell when events happened.",
            "Probe the spikes of all neurons and Inputs.",
        )


def correct_by_step(run: RunResult, targets: np.ndarray, program: Program) -> np.ndarray:
    """bool [T, B]: whether the readout after each step names the target."""
    first = np.asarray(run.outputs[program.outputs[0]], np.float64)
    flat = first.reshape(*first.shape[:2], -1)
    # mean and sum have their maximum at the same place
    seen = flat if program.semantics.readout == "last" else np.cumsum(flat, axis=0)
    return seen.argmax(-1) == np.asarray(targets)
