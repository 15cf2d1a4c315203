"""What a run recorded, checked against the graph, and which events arrive where and when."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping

import nir
import numpy as np

from rsc.discretise import delay_steps
from rsc.energy.edges import POOLS, SPIKING, WEIGHTED, Edge, Net
from rsc.energy.reach import reached, reached_counts
from rsc.errors import InputRefused, UnsupportedNode
from rsc.results import SpikeRecord

BLOCK = 2**22  # values of the largest mask that are looked at together


@dataclasses.dataclass(frozen=True, eq=False)
class Activity:
    """The checked record of a run.

    Fields:
        net: the flattened graph.
        record: counts [B, ...] and, where probed, rasters [T, B, ...].
        steps, batch: T and B.
        dt: duration of a step in seconds, the unit of Delay nodes.
        binary: names of the emitters whose values are 0 or 1.
        tail: bool [t, B, ...] by node, the last t steps where whole rasters were not kept (a stream).
        touched: updates with synaptic input by neuron node, int64 [B]; None: counted from rasters, else only
            the nodes in it are known.
        known: counts as they are used, made so far.
    """

    net: Net
    record: SpikeRecord
    steps: int
    batch: int
    dt: float
    binary: frozenset[str]
    tail: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    touched: Mapping[str, np.ndarray] | None = None
    known: dict[str, np.ndarray] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def counts(self, name: str) -> np.ndarray:
        """int64 [B, ...] in C order, events (non-zero steps of a graded input) per site."""
        if name not in self.known:
            self.known[name] = np.ascontiguousarray(self.record.counts[name], dtype=np.int64)
        return self.known[name]

    def raster(self, name: str) -> np.ndarray | None:
        """bool [T, B, ...] if it was recorded, or follows from counts that are all 0 or T; else None."""
        if name in self.record.rasters:
            return np.asarray(self.record.rasters[name], dtype=bool)
        if name not in self.record.counts:
            return None
        counts = self.counts(name)
        if not ((counts == 0) | (counts == self.steps)).all():
            return None
        return np.broadcast_to(counts > 0, (self.steps, *counts.shape))

    def delivered(self, edge: Edge) -> tuple[np.ndarray, bool]:
        """Events of an edge that reach its target within T, int64 [B, ...] per source site.

        The second value is False if that could not be told apart from all emitted events.
        """
        counts, lag = self.counts(edge.source), self.lag(edge)
        if not lag.any():
            return counts, True
        last = self._last(edge.source, int(lag.max()))
        if last is None:
            return np.where(lag < self.steps, counts, 0), not counts.any()
        left = np.arange(len(last), 0, -1).reshape(-1, *(1,) * lag.ndim)  # steps from sending to the end
        return counts - (last & (left <= lag)[:, None]).sum(0, dtype=np.int64), True

    def _last(self, name: str, steps: int) -> np.ndarray | None:
        """The raster of the last steps (all, if there are fewer), if it is known."""
        kept = self.tail.get(name)
        if kept is not None and len(kept) >= min(steps, self.steps):
            return kept[-steps:]
        raster = self.raster(name)
        return None if raster is None else raster[-steps:]

    def lag(self, edge: Edge) -> np.ndarray:
        """Steps an event of each source site travels, int64."""
        lag = np.full(self.net.shapes[edge.source], edge.lag, dtype=np.int64)
        pooled = False
        for name in edge.path:
            node = self.net.nodes[name]
            pooled |= isinstance(node, POOLS)
            if isinstance(node, nir.Delay):
                steps = self.delay_steps(name)
                if pooled and np.ptp(steps):
                    raise UnsupportedNode(
                        f"Delays of node '{name}' differ between sites behind a pooling.",
                        "Events that were pooled have no single delay.",
                        "Put the Delay before the pooling or make it uniform.",
                    )
                lag += int(steps.flat[0]) if steps.size == 1 or pooled else steps.reshape(lag.shape)
        return lag

    def delay_steps(self, name: str) -> np.ndarray:
        """Delay of every element in steps, int64."""
        return delay_steps(self.net.nodes[name], self.dt)

    def arriving(self, name: str) -> Iterator[np.ndarray] | None:
        """For every step, where non-zero synapses deliver something to `name`: bool [B, ...], or None."""
        if not self._known(name):
            return None
        return (step for a, b in self._blocks(0) for step in self._arrives(name, a, b))

    def reached_updates(self, name: str, start: int = 0) -> np.ndarray | None:
        """Updates of `name` from step `start` on with synaptic input, int64 [B]; None if unknown."""
        if not self._known(name):
            return None
        total = np.zeros(self.batch, dtype=np.int64)
        before = self.net.predecessors[name]
        for a, b in self._blocks(start):
            if len(before) == 1 and isinstance(self.net.nodes[before[0]], WEIGHTED):  # no mask is needed
                late = (before[0], name) in self.net.delayed
                sent = self._arrives(before[0], a - late, b - late)
                found = reached_counts(self.net, before[0], sent.reshape(-1, *sent.shape[2:]))
                total += found.reshape(b - a, self.batch).sum(0)
            else:
                there = self._arrives(name, a, b)
                total += there.reshape(b - a, self.batch, -1).sum((0, 2), dtype=np.int64)
        return total

    def active_updates(self, name: str) -> np.ndarray | None:
        """Updates of a node with synaptic input, int64 [B]; None if they are not known, or not asked for."""
        return self.reached_updates(name) if self.touched is None else self.touched.get(name)

    def _known(self, name: str) -> bool:
        """Whether rasters tell what arrives at `name`."""
        sources = self._needed(name)
        return sources is not None and all(self.raster(s) is not None for s in sources)

    def _blocks(self, start: int) -> Iterator[tuple[int, int]]:
        """Steps from `start` on, so many at a time that the largest mask of them stays small."""
        sites = self.batch * max(math.prod(shape) for shape in self.net.shapes.values())
        size = max(1, BLOCK // max(1, sites))
        return ((a, min(a + size, self.steps)) for a in range(start, self.steps, size))

    def _needed(self, name: str) -> set[str] | None:
        """Emitters whose rasters decide what arrives at `name`; None if graded values do."""
        needed: set[str] = set()
        for edge in self.net.arrivals[name]:
            source = self.net.nodes[edge.source]
            if isinstance(source, WEIGHTED) and not isinstance(self.net.nodes[name], WEIGHTED):
                inner = self._needed(edge.source)
                if inner is None:
                    return None
                needed |= inner
            elif edge.source in self.net.inputs or isinstance(source, SPIKING):
                needed.add(edge.source)
            else:
                return None
        return needed

    def _arrives(self, name: str, a: int, b: int) -> np.ndarray:
        """Where something arrives at a node at steps a to b, bool [b - a, B, ...]; nothing does before 0."""
        parts = []
        for before in self.net.predecessors[name]:
            late = (before, name) in self.net.delayed
            parts.append(self._leaves(before, a - late, b - late))
        return np.logical_or.reduce(parts) if len(parts) > 1 else parts[0]

    def _leaves(self, name: str, a: int, b: int) -> np.ndarray:
        """Where the output of a node may differ from zero at steps a to b, bool [b - a, B, ...]."""
        node, shape = self.net.nodes[name], (self.batch, *self.net.shapes[name])
        if b <= 0:
            return np.zeros((b - a, *shape), dtype=bool)
        if name in self.net.inputs or isinstance(node, SPIKING):
            raster = self.raster(name)
            if raster is None:
                raise InputRefused(
                    f"There is no raster of '{name}'.", "It was not probed.", "Probe its spikes."
                )
            return np.concatenate([np.zeros((-a, *shape), dtype=bool), raster[:b]]) if a < 0 else raster[a:b]
        if isinstance(node, nir.Delay):
            steps = np.broadcast_to(self.delay_steps(name), self.net.shapes[name])
            late = [self._arrives(name, a - d, b - d) & (steps == d) for d in np.unique(steps) if d < b]
            return np.logical_or.reduce([np.zeros((b - a, *shape), dtype=bool), *late])
        sent = self._arrives(name, a, b)
        found = reached(self.net, name, sent.reshape(-1, *sent.shape[2:]))
        return found.reshape(b - a, *shape)


def summed(raster: np.ndarray) -> np.ndarray:
    """Events per site, int64 [B, ...], of a raster [T, B, ...]; short ones in bytes, ten times as fast."""
    return _few(raster).astype(np.int64, order="C")


def _few(raster: np.ndarray) -> np.ndarray:
    """Events per site in the smallest type that holds them, in the layout of the raster."""
    raster = np.asarray(raster, dtype=bool)
    return raster.view(np.uint8).sum(0, dtype=np.uint8 if len(raster) < 256 else np.int64)


def with_frames(
    net: Net, record: SpikeRecord, frames: np.ndarray | Mapping[str, np.ndarray], binary: frozenset[str]
) -> SpikeRecord:
    """The record with the rasters of the Inputs, whose frames [T, B, ...] are checked against the claim.

    Raises:
        InputRefused: frames of an unknown Input, or graded values where events were declared.
    """
    named = frames if isinstance(frames, Mapping) else {net.inputs[0]: frames}
    unknown = sorted(set(named) - set(net.inputs))
    if unknown:
        raise InputRefused(
            f"There is no Input '{unknown[0]}'.", f"Inputs: {list(net.inputs)}.", "Match the names."
        )
    for name, values in named.items():
        if name in binary and not ((values == 0) | (values == 1)).all():
            raise InputRefused(
                f"Frames of '{name}' were declared to be events.",
                "They hold values other than 0 and 1.",
                "Count them as graded: input_events=False.",
            )
    rasters = {name: np.asarray(values) != 0 for name, values in named.items()}
    counts = {name: summed(raster) for name, raster in rasters.items()}
    return dataclasses.replace(
        record, rasters={**rasters, **record.rasters}, counts={**counts, **record.counts}
    )


def check_record(net: Net, record: SpikeRecord, steps: int, dt: float, binary: frozenset[str]) -> Activity:
    """The record as an `Activity`; counts that are missing are made from rasters.

    Raises:
        InputRefused: counts are missing, have the wrong shape, exceed T or contradict their raster.
    """
    if steps < 1:
        raise InputRefused(f"steps (T) is {steps}.", "A run has at least one step.", "Give the T of the run.")
    made = {n: summed(r) for n, r in record.rasters.items() if n not in record.counts and n in net.nodes}
    record = dataclasses.replace(record, counts={**record.counts, **made})
    spiking = [n for n, node in net.nodes.items() if isinstance(node, SPIKING)]
    for name in dict.fromkeys([*spiking, *sorted(binary)]):
        if name not in record.counts:
            raise InputRefused(
                f"The record holds no spike counts of '{name}'.",
                "Synaptic operations cannot be counted without them.",
                "Run with Probe(counts=True).",
            )
    known = [n for n in record.counts if n in net.nodes]
    if not known:
        raise InputRefused(
            "The record holds no counts.", "No node of it is known.", "Run with Probe(counts=True)."
        )
    batch = len(record.counts[known[0]])
    for name in known:
        _check_counts(name, record, (batch, *net.shapes[name]), steps, name in made)
    return Activity(net, record, steps, batch, dt, binary)


def _check_counts(
    name: str, record: SpikeRecord, shape: tuple[int, ...], steps: int, summed_here: bool
) -> None:
    counts = np.asarray(record.counts[name])
    if counts.shape != shape or counts.dtype.kind not in "iu":
        raise InputRefused(
            f"Counts of '{name}' are {counts.dtype} {counts.shape}.",
            f"The graph needs integers {shape}.",
            "Count spikes per site, summed over the steps.",
        )
    if counts.size and (counts.min() < 0 or counts.max() > steps):
        raise InputRefused(
            f"Counts of '{name}' reach from {counts.min()} to {counts.max()}.",
            f"A site has 0 to T = {steps} binary events.",
            "Check T, and that the values are events and not graded.",
        )
    raster = record.rasters.get(name)
    if raster is not None and not summed_here and not np.array_equal(_few(raster), counts):
        raise InputRefused(
            f"Raster and counts of '{name}' contradict each other.",
            "The raster summed over the steps is not the counts.",
            "Take both from the same run.",
        )
