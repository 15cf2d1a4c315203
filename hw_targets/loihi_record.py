"""What a run of the integer Loihi model keeps, of parts of the batch and of the recording."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from rsc.hw_targets.base import StepsResult
from rsc.hw_targets.loihi_lif import LifTrace
from rsc.layered import Layer
from rsc.results import Probe, SpikeRecord


@dataclasses.dataclass
class Part:
    """Results of one chunk of the batch."""

    saturated: int = 0
    outputs: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    counts: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    rasters: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    states: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def keep(self, layer: Layer, trace: LifTrace, probe: Probe) -> None:
        """Take what is probed of a layer's whole recording."""
        self.saturated += trace.saturated
        if probe.counts and not layer.readout:
            self.count(layer, count_spikes(trace.spikes))
        if layer.name in probe.spikes:
            self.rasters[layer.name] = trace.spikes.cpu().numpy()
        if layer.name in probe.states and trace.u is not None and trace.v is not None:
            self.states[f"{layer.name}.u"] = trace.u.cpu().numpy().astype(np.int64)
            self.states[f"{layer.name}.v"] = trace.v.cpu().numpy().astype(np.int64)

    def count(self, layer: Layer, spikes: Tensor) -> None:
        """Take the spikes [B, ...] of a layer."""
        self.counts[layer.name] = spikes.cpu().numpy().astype(np.int64)


def count_spikes(spikes: Tensor) -> Tensor:
    """Sum over the steps of bool [T, ...], int32; ten times quicker than in int64."""
    return spikes.view(torch.uint8).sum(0, dtype=torch.int32)


def said(layer: Layer, trace: LifTrace) -> np.ndarray:
    """What a layer says per step, float64: spikes, what an accumulator gains, or the state of a readout."""
    if not layer.readout or trace.v is None:
        return trace.spikes.cpu().numpy().astype(np.float64)
    v = trace.v.cpu().numpy().astype(np.float64)
    unit = 64 * layer.scale
    if layer.readout == "state":
        return v / unit + layer.offset
    before = np.broadcast_to(np.asarray(layer.v_init, np.float64), v[:1].shape)
    return np.diff(v, axis=0, prepend=before) / unit


def join(parts: list[Part]) -> StepsResult:
    """Chunks side by side along the batch axis (0 of counts, 1 of everything over time)."""
    first = parts[0]
    spikes = SpikeRecord(
        counts={k: np.concatenate([p.counts[k] for p in parts]) for k in first.counts},
        rasters={k: np.concatenate([p.rasters[k] for p in parts], 1) for k in first.rasters},
        states={k: np.concatenate([p.states[k] for p in parts], 1) for k in first.states},
    )
    outputs = {k: np.concatenate([p.outputs[k] for p in parts], 1) for k in first.outputs}
    return StepsResult(outputs, spikes, sum(p.saturated for p in parts))
