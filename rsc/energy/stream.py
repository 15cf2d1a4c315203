"""Counting in bounded memory: sets of samples part by part, long recordings chunk by chunk."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import nir
import numpy as np

from rsc.discretise import delay_steps
from rsc.energy.counts import Counts, NodeCounts, binary_emitters, counts_of
from rsc.energy.edges import NEURONS, SPIKING, Net, open_net
from rsc.energy.rasters import Activity, check_record, summed, with_frames
from rsc.errors import UsageError
from rsc.program import Program
from rsc.results import Probe, SpikeRecord

if TYPE_CHECKING:
    from rsc.hw_targets.base import StreamingModel

Frames = np.ndarray | Mapping[str, np.ndarray]


def joined(parts: Sequence[Counts]) -> Counts:
    """The counts of several runs of one program as one run of all their passes, in this order.

    Raises:
        UsageError: no parts, or parts of different programs, steps or meaning of the input.
    """
    if not parts:
        raise UsageError("There is nothing to join.", "No run was counted.", "Count at least one.")
    first = parts[0]
    if any(_identity(p) != _identity(first) for p in parts):
        raise UsageError(
            "Counts of different runs cannot be joined.",
            "Program, steps, target or meaning of the input differ.",
            "Join runs of one program on one target.",
        )
    return dataclasses.replace(
        first,
        batch=sum(p.batch for p in parts),
        nodes=tuple(_joined_node(nodes) for nodes in zip(*(p.nodes for p in parts), strict=True)),
        input_events=np.concatenate([p.input_events for p in parts]),
    )


def _identity(c: Counts) -> tuple[object, ...]:
    return c.program.digest, c.steps, c.target, c.binary_input, tuple(n.node for n in c.nodes)


COUNTED = ("sop", "sop_nz", "events_in", "mac", "mac_hoisted", "mac_zero_skipped", "mac_nonzero", "adds")
COUNTED += ("spikes_out", "resets", "updates", "updates_active", "undelivered")


def _joined_node(parts: Sequence[NodeCounts]) -> NodeCounts:
    """Per-pass arrays one after the other; unknown where one part does not know."""
    fields: dict[str, Any] = {}
    for name in COUNTED:
        known = all(getattr(p, name) is not None for p in parts)
        fields[name] = np.concatenate([p.per_pass(name) for p in parts]) if known else None
    return dataclasses.replace(
        parts[0],
        batch=sum(p.batch for p in parts),
        delivered_exact=all(p.delivered_exact for p in parts),
        **fields,
    )


def count_stream(
    program: Program,
    model: StreamingModel,
    chunks: Iterable[Frames],
    input_events: bool | None = None,
    target: str = "",
    touched: bool = True,
) -> Counts:
    """Exact counts of a recording that comes in chunks of steps; as `count` gives them for the whole of it.

    Memory holds one chunk, as many steps before it as delays reach back, and the state of the neurons.

    Args:
        model: of a target that hands out its state.
        chunks: frames [t, B, ...] (by Input node if there are several), one after the other.
        input_events, target, touched: see `count`.

    Raises:
        UsageError: no chunks.
        InputRefused: frames that do not fit, or are not the events they were declared to be.
    """
    net = open_net(program)
    tally = Tally.of(program, input_events, touched)
    probe, state = Probe(spikes=frozenset(tally.watched) - set(net.inputs), counts=False), None
    for frames in chunks:
        result, state = model.run_state(frames, state, probe)
        rasters = {n: np.asarray(r, dtype=bool) for n, r in result.spikes.rasters.items()}
        record = with_frames(net, SpikeRecord({}, rasters), frames, tally.binary)
        tally.add({n: record.rasters[n] for n in tally.watched})
    return tally.counts(target, input_events)


@dataclasses.dataclass
class Tally:
    """Running totals of a stream of rasters.

    Fields:
        reach: steps that delays and delayed links can look back; so many are kept as `tail`.
        count_touched: whether updates with synaptic input are counted.
        steps: steps seen; totals, touched: sums so far, by node.
    """

    program: Program
    net: Net
    binary: frozenset[str]
    reach: int
    count_touched: bool = True
    steps: int = 0
    totals: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    touched: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    tail: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, program: Program, input_events: bool | None, touched: bool) -> Tally:
        """An empty one; arguments as in `count`."""
        net = open_net(program)
        binary = binary_emitters(net, program, input_events)
        return cls(program, net, binary, _reach(net, program.semantics.dt), touched)

    @property
    def watched(self) -> tuple[str, ...]:
        """Nodes whose rasters are needed."""
        spiking = [n for n, node in self.net.nodes.items() if isinstance(node, SPIKING)]
        return (*self.net.inputs, *spiking)

    def add(self, rasters: Mapping[str, np.ndarray]) -> None:
        """Count the next steps, rasters bool [t, B, ...] of all watched nodes."""
        window = {
            n: np.concatenate([self.tail[n], r]) if self.reach and self.tail else r
            for n, r in rasters.items()
        }
        new = len(next(iter(rasters.values())))
        held = len(next(iter(window.values()))) - new
        dt = self.program.semantics.dt
        activity = check_record(self.net, SpikeRecord({}, window), held + new, dt, self.binary)
        for name, node in self.net.nodes.items():
            asked = self.count_touched and isinstance(node, NEURONS)
            found = activity.reached_updates(name, held) if asked else None
            if found is not None:
                self.touched[name] = found + self.touched.get(name, 0)
        for name, raster in rasters.items():
            self.totals[name] = self.totals.get(name, 0) + summed(raster)
        self.steps += new
        self.tail = {n: r[len(r) - min(self.reach, len(r)) :] for n, r in window.items()}

    def counts(self, target: str, input_events: bool | None) -> Counts:
        """The counts of all steps so far."""
        if not self.steps:
            raise UsageError("The stream is empty.", "No chunk came.", "Give at least one.")
        record = SpikeRecord(self.totals)
        checked = check_record(self.net, record, self.steps, self.program.semantics.dt, self.binary)
        activity: Activity = dataclasses.replace(checked, tail=self.tail, touched=self.touched)
        return counts_of(self.program, activity, target, input_events)


def _reach(net: Net, dt: float) -> int:
    """Steps that any way through the graph can look back, at most."""
    delays = [delay_steps(node, dt) for node in net.nodes.values() if isinstance(node, nir.Delay)]
    return sum(int(d.max(initial=0)) for d in delays) + len(net.delayed)
