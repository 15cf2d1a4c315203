"""What a run recorded, checked against the graph, and which events arrive where and when."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import nir
import numpy as np

from rsc.discretise import delay_steps
from rsc.energy.edges import POOLS, SPIKING, WEIGHTED, Edge, Net
from rsc.energy.fanout import reached
from rsc.errors import InputRefused, UnsupportedNode
from rsc.results import SpikeRecord


@dataclasses.dataclass(frozen=True, eq=False)
class Activity:
    """The checked record of a run.

    Fields:
        net: the flattened graph.
        record: counts [B, ...] and, where probed, rasters [T, B, ...].
        steps, batch: T and B.
        dt: duration of a step in seconds, the unit of Delay nodes.
        binary: names of the emitters whose values are 0 or 1.
    """

    net: Net
    record: SpikeRecord
    steps: int
    batch: int
    dt: float
    binary: frozenset[str]

    def counts(self, name: str) -> np.ndarray:
        """int64 [B, ...], events (non-zero steps of a graded input) per site."""
        return np.asarray(self.record.counts[name], dtype=np.int64)

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
        raster = self.raster(edge.source)
        if raster is None:
            return np.where(lag < self.steps, counts, 0), not counts.any()
        arrives = np.arange(self.steps).reshape(-1, *(1,) * lag.ndim) + lag < self.steps
        return (raster & arrives[:, None]).sum(0, dtype=np.int64), True

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
        """For every step, where non-zero synapses delivered something to `name`: bool [B, ...], or None."""
        sources = self._needed(name)
        if sources is None or any(self.raster(s) is None for s in sources):
            return None
        return (self._arrives(name, t) for t in range(self.steps))

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

    def _arrives(self, name: str, t: int) -> np.ndarray:
        parts = [
            self._leaves(before, t - ((before, name) in self.net.delayed))
            for before in self.net.predecessors[name]
        ]
        return np.logical_or.reduce(parts)

    def _leaves(self, name: str, t: int) -> np.ndarray:
        """Where the output of a node may differ from zero at step t, bool [B, ...]."""
        if t < 0:
            return np.zeros((self.batch, *self.net.shapes[name]), dtype=bool)
        node = self.net.nodes[name]
        if name in self.net.inputs or isinstance(node, SPIKING):
            raster = self.raster(name)
            if raster is None:
                raise InputRefused(
                    f"There is no raster of '{name}'.", "It was not probed.", "Probe its spikes."
                )
            return raster[t]
        if isinstance(node, nir.Delay):
            steps = np.broadcast_to(self.delay_steps(name), self.net.shapes[name])
            parts = [self._arrives(name, t - d) & (steps == d) for d in np.unique(steps) if d <= t]
            return np.logical_or.reduce([np.zeros((self.batch, *steps.shape), dtype=bool), *parts])
        return reached(self.net, name, self._arrives(name, t))


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
    counts = {name: raster.sum(0, dtype=np.int64) for name, raster in rasters.items()}
    return dataclasses.replace(
        record, rasters={**rasters, **record.rasters}, counts={**counts, **record.counts}
    )


def check_record(net: Net, record: SpikeRecord, steps: int, dt: float, binary: frozenset[str]) -> Activity:
    """The record as an `Activity`.

    Raises:
        InputRefused: counts are missing, have the wrong shape, exceed T or contradict their raster.
    """
    if steps < 1:
        raise InputRefused(f"steps (T) is {steps}.", "A run has at least one step.", "Give the T of the run.")
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
        _check_counts(name, record, (batch, *net.shapes[name]), steps)
    return Activity(net, record, steps, batch, dt, binary)


def _check_counts(name: str, record: SpikeRecord, shape: tuple[int, ...], steps: int) -> None:
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
    if raster is not None and not np.array_equal(np.asarray(raster, dtype=bool).sum(0), counts):
        raise InputRefused(
            f"Raster and counts of '{name}' contradict each other.",
            "The raster summed over the steps is not the counts.",
            "Take both from the same run.",
        )
