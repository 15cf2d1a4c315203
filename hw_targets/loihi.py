"""The integer Loihi model: batched, bit-exact with Lava's fixed-point processes, in torch on CPU or CUDA.

Synaptic sums run in float32 while they are provably below 2^24 (then every sum is exact in any
order), else in float64. Results are layer-major: step t of a layer belongs to input frame t.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rsc.errors import UsageError
from rsc.export import loihi as lowering
from rsc.hw_targets.base import DeployedModel, StepsResult, refuse_errors
from rsc.hw_targets.loihi_lif import LifTrace, lif_fixed
from rsc.layered import Connection, Layer, LayeredProgram
from rsc.program import Program
from rsc.results import Issue, Probe, SpikeRecord, Unavailable

_CHUNK_VALUES = 1 << 25  # values of the widest layer held at a time


class LoihiTarget:
    """Batched integer simulation; options: "cpu" (default) or "cuda"."""

    name = "loihi"

    def __init__(self, *options: str) -> None:
        unknown = [o for o in options if o not in ("cpu", "cuda")]
        if unknown:
            raise UsageError(
                f"Target 'loihi' has no option '{unknown[0]}'.", "Options: cpu, cuda.", "Choose one."
            )
        self.device = torch.device(options[-1] if options else "cpu")

    def available(self) -> Unavailable | None:
        """CUDA needs a GPU that torch can see."""
        if self.device.type == "cuda" and not torch.cuda.is_available():
            return Unavailable("torch sees no CUDA device.", "Use 'loihi' on the CPU.")
        return None

    def check(self, program: Program) -> list[Issue]:
        """What cannot be represented on Loihi, and what is changed."""
        return lowering.check(program)

    def compile(self, program: Program) -> DeployedModel:
        """Quantise and load."""
        refuse_errors(self.name, [i for i in self.check(program) if i.severity == "error"])
        return LoihiModel(program, lowering.lower(program, "integer"), self.device)


class LoihiModel(DeployedModel):
    """A quantised program on a torch device."""

    target = "loihi"
    arithmetic = "integer"
    version = f"torch {torch.__version__}"

    def __init__(self, program: Program, layered: LayeredProgram, device: torch.device) -> None:
        self.program, self.layered, self.device = program, layered, device
        self._weights = {
            (layer.name, i): torch.from_numpy(np.ascontiguousarray(c.weight)).to(device, self._dtype(c))
            for layer in layered.layers
            for i, c in enumerate(layer.connections)
        }

    def _bound(self, connection: Connection) -> int:
        """Proven bound of |sum| and of all its partial sums."""
        most = self.layered.input_max if connection.graded else 1
        if connection.pool:
            most *= math.prod(connection.pool[0])
        rows = np.abs(connection.weight.reshape(len(connection.weight), -1).astype(np.int64)).sum(1)
        return int(rows.max(initial=0)) * most

    def _dtype(self, connection: Connection) -> torch.dtype:
        """float32 if no partial sum can reach 2^24, else float64 (exact below 2^53)."""
        return torch.float32 if self._bound(connection) < 1 << 24 else torch.float64

    @torch.inference_mode()
    def _steps(self, frames: Mapping[str, np.ndarray], probe: Probe) -> StepsResult:
        values = frames[self.layered.input_name]
        widest = max(
            math.prod(s) for s in (self.layered.input_shape, *(la.shape for la in self.layered.layers))
        )
        size = max(1, _CHUNK_VALUES // (widest * len(values)))
        parts = [self._chunk(values[:, i : i + size], probe) for i in range(0, values.shape[1], size)]
        return _join(parts, self.program.outputs[0])

    def _chunk(self, values: np.ndarray, probe: Probe) -> _Part:
        payload = self.layered.payload(values)
        clipped = int((np.abs(values) * self.layered.input_scale > self.layered.input_max + 0.5).sum())
        activity = {self.layered.input_name: torch.from_numpy(payload).to(self.device)}
        part = _Part(saturated=clipped)
        for layer in self.layered.layers:
            sums = self._sums(layer, activity)
            bias = torch.from_numpy(np.asarray(layer.bias_mant)).to(self.device) << layer.bias_exp
            record = layer.name in probe.states or layer.readout
            trace = lif_fixed(
                sums, du=int(layer.du), dv=int(layer.dv), vth=int(layer.vth), bias=bias, record=record
            )
            activity[layer.name] = trace.spikes
            part.keep(layer, trace, probe)
            if layer.name == self.layered.output:
                part.output = _output(layer, trace)
        return part

    def _sums(self, layer: Layer, activity: Mapping[str, Tensor]) -> Tensor:
        """Synaptic sums int32 [T, B, ...] of a layer, all connections added."""
        total: Tensor | None = None
        for i, connection in enumerate(layer.connections):
            weight = self._weights[layer.name, i]
            x = activity[connection.source]
            steps = x.shape[:2]
            wraps = self._bound(connection) >= 1 << 23
            a = _synapses(connection, weight, x.flatten(0, 1).to(weight.dtype), wraps).unflatten(0, steps)
            total = a if total is None else total + a
        if total is None:
            raise UsageError(
                f"Layer '{layer.name}' has no connections.", "Nothing feeds it.", "Lower it again."
            )
        return total.reshape(*total.shape[:2], *layer.shape)


def _synapses(connection: Connection, weight: Tensor, x: Tensor, wraps: bool) -> Tensor:
    """Weighted sums of a source [N, ...] as Lava computes them, int32 [N, ...]; floats here hold integers."""
    if connection.pool:
        kernel, stride = connection.pool
        x = F.avg_pool2d(x, kernel, stride, divisor_override=1)
    if connection.kind == "dense":
        sums = F.linear(x.flatten(1), weight)
        shift = connection.weight_exp
        if shift == 0 and not wraps:
            return sums.int()
        sums = sums.long()
        return (sums << shift if shift > 0 else sums >> -shift).int()
    sums = F.conv2d(
        x, weight, None, connection.stride, connection.padding, connection.dilation, connection.groups
    )
    if not wraps:
        return sums.int()
    return (torch.remainder(sums.long() + (1 << 23), 1 << 24) - (1 << 23)).int()


def _output(layer: Layer, trace: LifTrace) -> np.ndarray:
    """What the output layer says per step: increments of the accumulator in float units, or spikes."""
    if not layer.readout or trace.v is None:
        return trace.spikes.cpu().numpy().astype(np.float64)
    v = trace.v.cpu().numpy().astype(np.float64)
    return np.diff(v, axis=0, prepend=0.0) / (64 * layer.scale)


@dataclasses.dataclass
class _Part:
    """Results of one chunk of the batch."""

    saturated: int
    output: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    counts: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    rasters: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    states: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def keep(self, layer: Layer, trace: LifTrace, probe: Probe) -> None:
        self.saturated += trace.saturated
        if probe.counts and not layer.readout:
            self.counts[layer.name] = trace.spikes.sum(0, dtype=torch.int64).cpu().numpy()
        if layer.name in probe.spikes:
            self.rasters[layer.name] = trace.spikes.cpu().numpy()
        if layer.name in probe.states and trace.u is not None and trace.v is not None:
            self.states[f"{layer.name}.u"] = trace.u.cpu().numpy().astype(np.int64)
            self.states[f"{layer.name}.v"] = trace.v.cpu().numpy().astype(np.int64)


def _join(parts: list[_Part], output: str) -> StepsResult:
    """Chunks side by side along the batch axis (0 of counts, 1 of everything over time)."""
    first = parts[0]
    spikes = SpikeRecord(
        counts={k: np.concatenate([p.counts[k] for p in parts]) for k in first.counts},
        rasters={k: np.concatenate([p.rasters[k] for p in parts], 1) for k in first.rasters},
        states={k: np.concatenate([p.states[k] for p in parts], 1) for k in first.states},
    )
    outputs = {output: np.concatenate([p.output for p in parts], 1)}
    return StepsResult(outputs, spikes, sum(p.saturated for p in parts))
