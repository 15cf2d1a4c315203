"""Do two targets do the same? One program, the same frames, every spike and state compared.

Exact means: all spikes equal and, between integer targets, all u, v and outputs equal bit for bit;
between floating-point targets states and outputs may differ by rounding (1e-9 of their size).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import nir
import numpy as np

from rsc.coding import encode
from rsc.errors import UsageError
from rsc.graph import topology
from rsc.hw_targets.base import DeployedModel, checked_frames
from rsc.parity_results import Agreement, NodeParity, ParityRow, Place
from rsc.program import Program, walk
from rsc.results import Keys, Probe, RunResult
from rsc.robustness.statistics import wilson

NEURONS = (nir.LIF, nir.IF, nir.CubaLIF, nir.LI, nir.CubaLI, nir.I, nir.Threshold)
ROUNDING = 1e-9
_CHUNK_VALUES = 1 << 24


@dataclasses.dataclass
class _Signal:
    """Running comparison of one signal of one node."""

    compared: int = 0
    different: int = 0
    max_abs: float = 0.0
    size: float = 0.0
    first: Place | None = None

    def add(self, a: np.ndarray, b: np.ndarray, offset: int) -> None:
        if a.shape != b.shape:
            raise UsageError(
                f"Recordings have shapes {a.shape} and {b.shape}.", "They cannot be compared.", "Report this."
            )
        unequal = a != b
        if unequal.any():
            step, sample = np.argwhere(unequal.reshape(*a.shape[:2], -1).any(-1))[0]
            here = Place(int(sample) + offset, int(step))
            if self.first is None or here.step < self.first.step:
                self.first = here
        self.compared += a.size
        self.different += int(unequal.sum())
        gap = np.abs(a.astype(np.float64) - b.astype(np.float64))
        self.max_abs = max(self.max_abs, float(gap.max(initial=0)))
        self.size = max(self.size, float(np.abs(a.astype(np.float64)).max(initial=0)))


@dataclasses.dataclass
class _Pair:
    """Running comparison of two targets."""

    a: DeployedModel
    b: DeployedModel
    signals: dict[tuple[str, str], _Signal] = dataclasses.field(default_factory=dict)
    same_frames: bool = True
    agree: int = 0
    logit_gap: float = 0.0

    def add(self, first: RunResult, second: RunResult, offset: int) -> None:
        self.same_frames &= first.frames_digest == second.frames_digest
        self.agree += int((first.predictions == second.predictions).sum())
        self.logit_gap = max(self.logit_gap, float(np.abs(first.logits - second.logits).max(initial=0)))
        same_units = (self.a.arithmetic == "integer") == (self.b.arithmetic == "integer")
        recordings = [
            (name, "s", first.spikes.rasters[name], second.spikes.rasters[name])
            for name in sorted(set(first.spikes.rasters) & set(second.spikes.rasters))
        ]
        if same_units:
            recordings += [
                (
                    key.rpartition(".")[0],
                    key.rpartition(".")[2],
                    first.spikes.states[key],
                    second.spikes.states[key],
                )
                for key in sorted(set(first.spikes.states) & set(second.spikes.states))
            ]
        recordings += [(name, "output", first.outputs[name], second.outputs[name]) for name in first.outputs]
        for node, signal, a, b in recordings:
            self.signals.setdefault((node, signal), _Signal()).add(np.asarray(a), np.asarray(b), offset)

    def exact(self) -> bool:
        integer = self.a.arithmetic == self.b.arithmetic == "integer"
        return self.same_frames and all(
            s.different == 0 or (not integer and signal != "s" and s.max_abs <= ROUNDING * max(1.0, s.size))
            for (_, signal), s in self.signals.items()
        )


def compare(
    program: Program,
    models: Sequence[tuple[str, DeployedModel]],
    *,
    x: np.ndarray | None = None,
    keys: Keys | None = None,
    frames: np.ndarray | Mapping[str, np.ndarray] | None = None,
    name: str = "",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[ParityRow]:
    """Compare every later target with the first.

    Args:
        models: (target spec, deployed model), at least two.
        x, keys: images and noise keys; or
        frames: ready-made frames [T, B, ...], by Input node if there are several.
        on_progress: called with images done and all images.

    Raises:
        UsageError: fewer than two targets, or neither images nor frames.
    """
    if len(models) < 2:
        raise UsageError("Parity needs two targets.", f"{len(models)} given.", "Repeat --on.")
    if frames is None:
        if x is None or keys is None or program.encoder is None:
            raise UsageError(
                "Parity needs images with keys, or frames.", "Neither was given.", "Use --input."
            )
        frames = encode(program.encoder, x, keys)
    named = checked_frames(program, frames)
    steps, batch = next(iter(named.values())).shape[:2]
    pairs = [_Pair(models[0][1], model) for _, model in models[1:]]
    probe = _probe(program, models)
    size = _chunk_size(program, steps)
    for start in range(0, batch, size):
        part = {key: np.ascontiguousarray(x[:, start : start + size]) for key, x in named.items()}
        results = [model.run_frames(part, probe) for _, model in models]
        for pair, result in zip(pairs, results[1:], strict=True):
            pair.add(results[0], result, start)
        on_progress(min(start + size, batch), batch)
    return [
        _row(program, models[0][0], spec, pair, steps, batch, keys.seed if keys else None, name)
        for (spec, _), pair in zip(models[1:], pairs, strict=True)
    ]


def _probe(program: Program, models: Sequence[tuple[str, DeployedModel]]) -> Probe:
    """All neurons; between integer targets also the accumulator that is read out."""
    neurons = {name for name, node in walk(program.graph) if isinstance(node, NEURONS)}
    readout = set()
    if all(m.arithmetic == "integer" for _, m in models):
        readout = {str(a) for a, b in program.graph.edges if b in program.outputs}
    return Probe(spikes=frozenset(neurons), states=frozenset(neurons | readout))


def _chunk_size(program: Program, steps: int) -> int:
    sites = sum(
        math.prod(np.shape(node.v_threshold))
        for _, node in walk(program.graph)
        if hasattr(node, "v_threshold")
    )
    return max(1, _CHUNK_VALUES // (steps * max(sites, 1)))


def _row(
    program: Program, a: str, b: str, pair: _Pair, steps: int, n: int, seed: int | None, name: str
) -> ParityRow:
    interval = wilson(pair.agree, n)
    order = {node: i for i, node in enumerate(topology(program.graph, program.semantics).order)}
    nodes = sorted(pair.signals.items(), key=lambda item: (order.get(item[0][0], len(order)), item[0]))
    integer = pair.a.arithmetic == pair.b.arithmetic == "integer"
    mixed = "integer" in (pair.a.arithmetic, pair.b.arithmetic) and not integer
    note = (
        "integers, compared bit for bit"
        if integer
        else "a quantised and an exact program; spikes and outputs are expected to differ"
        if mixed
        else "spikes compared exactly, states and outputs up to rounding"
    )
    return ParityRow(
        target_a=a,
        target_b=b,
        n=n,
        steps=steps,
        same_frames=pair.same_frames,
        exact=pair.exact(),
        nodes=tuple(
            NodeParity(node, signal, s.compared, s.different, s.max_abs, s.first)  # type: ignore[arg-type]
            for (node, signal), s in nodes
        ),
        prediction_agreement=Agreement(pair.agree / n, n, interval.low, interval.high),
        max_logit_diff=pair.logit_gap,
        seed=seed,
        version_a=str(pair.a.version),
        version_b=str(pair.b.version),
        note=note,
        model=name,
        program_digest=program.digest,
    )


def spike_mismatch(row: ParityRow) -> float:
    """Share of differing values among all compared spikes."""
    spikes = [node for node in row.nodes if node.signal == "s"]
    return sum(node.different for node in spikes) / max(1, sum(node.compared for node in spikes))
