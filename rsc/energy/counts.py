"""Exact operation counts of a run: spike counts times fan-out maps, int64.

    sop = sum over delivered events of the fan-out of their site,   mac = dense in-bounds pairs * T

Whether a layer accumulates (binary events) or multiplies (graded values) follows from the types in the
graph, never from values: IF, LIF, CubaLIF and Threshold emit events; an Input does if the caller says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import nir
import numpy as np

from rsc.energy.edges import NEURONS, POOLS, SPIKING, WEIGHTED, Edge, Net, open_net
from rsc.energy.encoder import encoder_counts
from rsc.energy.fanout import FanOut, fan_out, has_pool
from rsc.energy.rasters import Activity, check_record, with_frames
from rsc.energy.results import EncoderCounts
from rsc.errors import UsageError
from rsc.program import Program
from rsc.results import SpikeRecord

Counts1d = np.ndarray  # int64 [B], one number per pass


@dataclasses.dataclass(frozen=True, eq=False)
class NodeCounts:
    """What one node did in every pass; fields as in `LayerCounts`, with int64 [B] in place of sums.

    Fields beyond those:
        static: synapses, neurons, sizes: what does not depend on the data.
        inputs: sites that arrive at the node.
        binary: whether it is fed with events (then sop counts) or graded values (then mac counts).
        resets: subtractive resets, one per emitted spike where the semantics say so.
    """

    node: str
    kind: str
    shape: tuple[int, ...]
    batch: int
    sources: tuple[str, ...] = ()
    params: int = 0
    zero_weights: int = 0
    synapses: int = 0
    synapses_nz: int = 0
    inputs: int = 0
    neurons: int = 0
    binary: bool = False
    sop: Counts1d | int = 0
    sop_nz: Counts1d | int = 0
    events_in: Counts1d | int | None = 0
    mac: Counts1d | int = 0
    mac_hoisted: Counts1d | int | None = None
    mac_zero_skipped: Counts1d | int | None = None
    mac_nonzero: Counts1d | int | None = None
    adds: Counts1d | int = 0
    spikes_out: Counts1d | int = 0
    resets: Counts1d | int = 0
    updates: Counts1d | int = 0
    updates_active: Counts1d | int | None = None
    undelivered: Counts1d | int = 0
    delivered_exact: bool = True

    def per_pass(self, field: str) -> np.ndarray:
        """int64 [B] of a counted field."""
        value = getattr(self, field)
        return np.broadcast_to(np.asarray(value, dtype=np.int64), (self.batch,))


@dataclasses.dataclass(frozen=True, eq=False)
class Counts:
    """All counts of a run.

    Fields:
        nodes: in name order; nodes that do nothing countable are left out.
        encoder: operations of the encoder per pass.
        input_events: int64 [B], events of binary Inputs.
        binary_input: whether the Inputs emit events.
        activations: (sites, accesses) of every layer of values that an ANN of the same topology moves: inputs
            are read, hidden ones written and read, outputs written.
    """

    program: Program
    target: str
    steps: int
    batch: int
    nodes: tuple[NodeCounts, ...]
    encoder: EncoderCounts
    input_events: np.ndarray
    binary_input: bool
    activations: tuple[tuple[int, int], ...]

    def __getitem__(self, node: str) -> NodeCounts:
        for found in self.nodes:
            if found.node == node:
                return found
        raise UsageError(
            f"Nothing was counted for '{node}'.",
            f"Nodes: {[n.node for n in self.nodes]}.",
            "Check the spelling.",
        )


def count(
    program: Program,
    record: SpikeRecord,
    steps: int,
    target: str = "",
    input_events: bool | None = None,
    pooling: str = "fold",
    frames: np.ndarray | Mapping[str, np.ndarray] | None = None,
    touched: bool = True,
) -> Counts:
    """Exact counts per node and pass.

    Args:
        record: spike counts [B, ...] of every spiking node and, for what needs time, rasters [T, B, ...].
        steps: T of the run.
        input_events: whether the Inputs carry binary events; None: if the program's encoder makes them
            (bernoulli does; the others are graded, and so are ready-made frames unless said otherwise).
            True is for ready-made events, so no encoder is counted.
        pooling: "fold" delivers events one by one through pooling and merges; "graded" forms the pooled or
            merged value first, which then multiplies (needs rasters).
        frames: what was fed in, [T, B, ...] (by Input if there are several); checked against `input_events`,
            and the raster of the Inputs.
        touched: whether to count the updates with synaptic input, where rasters allow it.

    Raises:
        UnsupportedNode: a node without a counting rule.
        InputRefused: the record does not fit the program.
        UsageError: unknown `pooling`, or rasters that it needs are missing.
    """
    if pooling not in ("fold", "graded"):
        raise UsageError(f"pooling is '{pooling}'.", "Known: fold, graded.", "Choose one.")
    net = open_net(program)
    binary = binary_emitters(net, program, input_events)
    if frames is not None:
        record = with_frames(net, record, frames, binary)
    activity = check_record(net, record, steps, program.semantics.dt, binary)
    activity = activity if touched else dataclasses.replace(activity, touched={})
    return counts_of(program, activity, target, input_events, pooling)


def counts_of(
    program: Program, activity: Activity, target: str, input_events: bool | None, pooling: str = "fold"
) -> Counts:
    """The counts of a checked record; arguments as in `count`."""
    net, events = activity.net, bool(activity.binary & set(activity.net.inputs))
    latched = frozenset() if events or not _latched(program) else frozenset(net.inputs)
    nodes = [_count_node(activity, name, latched, pooling, program) for name in sorted(net.arrivals)]
    return Counts(
        program=program,
        target=target,
        steps=activity.steps,
        batch=activity.batch,
        nodes=tuple(n for n in nodes if n is not None),
        encoder=encoder_counts(None if input_events else program.encoder, program.input_shape),
        input_events=_input_events(activity),
        binary_input=events,
        activations=_activations(net, program),
    )


def binary_emitters(net: Net, program: Program, input_events: bool | None) -> frozenset[str]:
    """Nodes whose values are 0 or 1, by their types; of the Inputs see `count`."""
    encoded = program.encoder is not None and program.encoder.events
    binary = {n for n, node in net.nodes.items() if isinstance(node, SPIKING)}
    return frozenset(
        binary | (set(net.inputs) if (encoded if input_events is None else input_events) else set())
    )


def _latched(program: Program) -> bool:
    """Whether every frame of a sample is the same."""
    return program.encoder is not None and program.encoder.latched


def _activations(net: Net, program: Program) -> tuple[tuple[int, int], ...]:
    """Inputs, neurons that feed more than an Output, and outputs."""
    feeding = {a for b, before in net.predecessors.items() if b not in program.outputs for a in before}
    hidden = [n for n in sorted(feeding) if isinstance(net.nodes[n], NEURONS)]
    accesses = [*((n, 1) for n in net.inputs), *((n, 2) for n in hidden), *((n, 1) for n in program.outputs)]
    return tuple((int(np.prod(net.shapes[n])), times) for n, times in accesses)


def _input_events(activity: Activity) -> np.ndarray:
    total = np.zeros(activity.batch, dtype=np.int64)
    for name in activity.net.inputs:
        if name in activity.binary:
            total += activity.counts(name).reshape(activity.batch, -1).sum(1)
    return total


def _count_node(
    activity: Activity, name: str, latched: frozenset[str], pooling: str, program: Program
) -> NodeCounts | None:
    node = activity.net.nodes[name]
    if isinstance(node, WEIGHTED):
        return _count_weighted(activity, name, latched, pooling)
    if isinstance(node, NEURONS):
        return _count_neurons(activity, name, program)
    if isinstance(node, POOLS):
        return _count_pool(activity, name, pooling)
    return None


def _count_weighted(activity: Activity, name: str, latched: frozenset[str], pooling: str) -> NodeCounts:
    net, node = activity.net, activity.net.nodes[name]
    edges = net.arrivals[name]
    direct = fan_out(net, edges[0], fold=False)
    graded = any(e.source not in activity.binary for e in edges)
    merged = pooling == "graded" and (len(edges) > 1 or any(has_pool(net, e) for e in edges))
    rows = NodeCounts(
        node=name,
        kind=type(node).__name__,
        shape=net.shapes[name],
        batch=activity.batch,
        sources=tuple(sorted({e.source for e in edges})),
        params=int(node.weight.size),
        zero_weights=int(np.count_nonzero(node.weight == 0)),
        synapses=int(direct.structural.sum()),
        synapses_nz=int(direct.nonzero.sum()),
        inputs=int(direct.structural.size),
        adds=_bias_sites(net, name) * activity.steps,
        binary=not (graded or merged),
    )
    if merged and not graded:
        return dataclasses.replace(rows, **_merged(activity, name, direct))
    if graded:
        return dataclasses.replace(rows, **_graded(activity, name, direct, latched))
    return dataclasses.replace(rows, **_events(activity, edges))


def _bias_sites(net: Net, name: str) -> int:
    bias = getattr(net.nodes[name], "bias", None)
    return int(np.prod(net.shapes[name])) if bias is not None and np.any(bias) else 0


def _events(activity: Activity, edges: tuple[Edge, ...]) -> dict[str, Any]:
    """Accumulates of binary events, edge by edge."""
    zero = np.zeros(activity.batch, dtype=np.int64)
    found: dict[str, Any] = {"sop": zero, "sop_nz": zero, "events_in": zero, "undelivered": zero}
    exact = True
    for edge in edges:
        maps = fan_out(activity.net, edge)
        sent = activity.counts(edge.source)
        delivered, known = activity.delivered(edge)
        arrived = _flat(delivered).sum(1)
        emitted = arrived if delivered is sent else _flat(sent).sum(1)
        exact &= known
        found["sop"] = found["sop"] + _flat(delivered) @ maps.structural.ravel()
        found["sop_nz"] = found["sop_nz"] + _flat(delivered) @ maps.nonzero.ravel()
        found["events_in"] = found["events_in"] + arrived
        found["undelivered"] = found["undelivered"] + emitted - arrived
    return found | {"delivered_exact": exact}


def _graded(activity: Activity, name: str, direct: FanOut, latched: frozenset[str]) -> dict[str, Any]:
    """Multiply-accumulates of graded values; zeros can be skipped only where they were recorded."""
    net, edges = activity.net, activity.net.arrivals[name]
    dense = int(direct.structural.sum())
    found: dict[str, Any] = {"mac": dense * activity.steps, "events_in": None}
    if _constant(net, name, latched):
        found["mac_hoisted"] = dense
    edge = edges[0]
    observed = len(edges) == 1 and edge.source in net.inputs and edge.source in activity.record.counts
    if not observed or has_pool(net, edge):
        return found
    delivered, exact = activity.delivered(edge)
    maps = fan_out(net, edge)
    return found | {
        "events_in": _flat(delivered).sum(1),
        "mac_zero_skipped": _flat(delivered) @ maps.structural.ravel(),
        "mac_nonzero": _flat(delivered) @ maps.nonzero.ravel(),
        "delivered_exact": exact,
    }


def _merged(activity: Activity, name: str, direct: FanOut) -> dict[str, Any]:
    """Multiply-accumulates of events that were pooled or merged into graded values first."""
    masks = _needed(activity, name)
    zero = np.zeros(activity.batch, dtype=np.int64)
    found: dict[str, Any] = {"events_in": zero, "mac_zero_skipped": zero, "mac_nonzero": zero}
    for mask in masks:
        flat = _flat(mask).astype(np.int64)
        found["events_in"] = found["events_in"] + flat.sum(1)
        found["mac_zero_skipped"] = found["mac_zero_skipped"] + flat @ direct.structural.ravel()
        found["mac_nonzero"] = found["mac_nonzero"] + flat @ direct.nonzero.ravel()
    return found | {"mac": int(direct.structural.sum()) * activity.steps}


def _needed(activity: Activity, name: str) -> Any:
    masks = activity.arriving(name)
    if masks is None:
        raise UsageError(
            f"Pooled or merged values at '{name}' cannot be counted.",
            "Which events coincide is not in the spike counts.",
            "Probe the spikes of its sources, or count with pooling='fold'.",
        )
    return masks


def _constant(net: Net, name: str, latched: frozenset[str]) -> bool:
    """Whether what arrives at a node is the same at every step."""
    return all(
        edge.lag == 0
        and not any(isinstance(net.nodes[n], nir.Delay) for n in edge.path)
        and (
            edge.source in latched
            or (isinstance(net.nodes[edge.source], WEIGHTED) and _constant(net, edge.source, latched))
        )
        for edge in net.arrivals[name]
    )


def _count_neurons(activity: Activity, name: str, program: Program) -> NodeCounts:
    net, node = activity.net, activity.net.nodes[name]
    edges = net.arrivals[name]
    neurons = int(np.prod(net.shapes[name]))
    spiking = isinstance(node, SPIKING)
    spikes = _flat(activity.counts(name)).sum(1) if spiking else 0
    subtracts = program.semantics.reset == "subtract" and not isinstance(node, nir.Threshold)
    events = tuple(e for e in edges if e.source in activity.binary)
    rows = NodeCounts(
        node=name,
        kind=type(node).__name__,
        shape=net.shapes[name],
        batch=activity.batch,
        sources=tuple(sorted({e.source for e in edges})),
        neurons=neurons,
        inputs=neurons,
        binary=bool(events),
        adds=(len(edges) - len(events) - 1) * neurons * activity.steps if len(edges) - len(events) > 1 else 0,
        spikes_out=spikes,
        resets=spikes if spiking and subtracts else 0,
        updates=neurons * activity.steps,
        updates_active=activity.active_updates(name),
    )
    if events:
        structural = sum(int(fan_out(net, e).structural.sum()) for e in events)
        rows = dataclasses.replace(rows, synapses=structural, synapses_nz=structural)
        return dataclasses.replace(rows, **_events(activity, events))
    return rows


def _count_pool(activity: Activity, name: str, pooling: str) -> NodeCounts | None:
    """Additions of a pool that is really executed: on graded values, or on events with pooling="graded"."""
    net = activity.net
    edges = net.arrivals[name]
    graded = any(e.source not in activity.binary for e in edges)
    if not graded and pooling == "fold":
        return None
    if graded:
        adds: Any = int(fan_out(net, edges[0], fold=False).structural.sum()) * activity.steps
    else:
        taps = fan_out(net, edges[0], fold=False).structural.ravel()
        adds = sum(_flat(m).astype(np.int64) @ taps for m in _needed(activity, name))
    return NodeCounts(
        node=name,
        kind=type(net.nodes[name]).__name__,
        shape=net.shapes[name],
        batch=activity.batch,
        sources=tuple(sorted({e.source for e in edges})),
        adds=adds,
    )


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)
