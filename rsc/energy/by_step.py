"""Synaptic operations per step: energy against T, and where in time the work is done."""

from __future__ import annotations

import numpy as np

from rsc.energy.edges import SPIKING, WEIGHTED, Edge, open_net
from rsc.energy.fanout import fan_out
from rsc.energy.rasters import Activity, check_record
from rsc.errors import UsageError
from rsc.program import Program
from rsc.results import SpikeRecord


def sop_by_step(
    program: Program, record: SpikeRecord, steps: int, input_events: bool = False
) -> dict[str, np.ndarray]:
    """Weighted node fed with events -> int64 [T, B], operations at the step of delivery.

    Cumulative sums over T are the operations of a run stopped early, as far as the network is causal.

    Raises:
        UsageError: the raster of a source was not recorded.
        UnsupportedNode, InputRefused: see `count`.
    """
    net = open_net(program)
    binary = {n for n, node in net.nodes.items() if isinstance(node, SPIKING)}
    binary |= set(net.inputs) if input_events else set()
    activity = check_record(net, record, steps, program.semantics.dt, frozenset(binary))
    fed = {
        name: edges
        for name, edges in net.arrivals.items()
        if isinstance(net.nodes[name], WEIGHTED) and all(e.source in binary for e in edges)
    }
    return {name: np.stack([_edge_by_step(activity, e) for e in edges]).sum(0) for name, edges in fed.items()}


def _edge_by_step(activity: Activity, edge: Edge) -> np.ndarray:
    raster = activity.raster(edge.source)
    if raster is None:
        raise UsageError(
            f"The raster of '{edge.source}' was not recorded.",
            "Spike counts do not tell when events happened.",
            "Probe its spikes.",
        )
    fan, lag = fan_out(activity.net, edge).structural.ravel(), activity.lag(edge).ravel()
    flat = raster.reshape(activity.steps, activity.batch, -1)
    found = np.zeros((activity.steps, activity.batch), dtype=np.int64)
    for late in np.unique(lag[lag < activity.steps]):
        sent = flat[: activity.steps - late].astype(np.int64) @ np.where(lag == late, fan, 0)
        found[late:] += sent
    return found
