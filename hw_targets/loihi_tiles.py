"""The integer Loihi model in tiles of some samples and some steps, whose sums and states stay in caches.

For programs in which nothing comes late: no synapse has a delay, and no layers hear one another. Each layer
carries its state from tile to tile; only what is probed or said is kept.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from rsc.hw_targets.loihi_drive import Activity, Drive, restored, stored, stored_shape
from rsc.hw_targets.loihi_lif import SMALL_SUM, LifTrace, Neurons
from rsc.hw_targets.loihi_record import Part, count_spikes, said
from rsc.hw_targets.loihi_scan import Scan, ScanState
from rsc.hw_targets.loihi_synapses import Synapses
from rsc.layered import CONSTANT, Layer, LayeredProgram, Source
from rsc.results import Probe

TILE_BYTES = 1 << 22  # the widest layer's sums, in float32; measured best of 2^20 to 2^23 on a CPU
FEWEST_STEPS = 4


def is_prompt(layered: LayeredProgram) -> bool:
    """Whether nothing comes late, so that tiles of time may follow one another."""
    delayed = any(c.delay.any() for layer in layered.layers for c in layer.connections)
    return not delayed and not any(layered.is_recurrent(group) for group in layered.groups())


class Tiles:
    """A program on a device.

    Args:
        synapses: layer -> (source, connection).
    """

    def __init__(
        self,
        layered: LayeredProgram,
        synapses: Mapping[str, list[tuple[str, Synapses]]],
        device: torch.device,
    ) -> None:
        self.layered, self.device = layered, device
        self.order = [layer for (layer,) in layered.groups()]
        self.channels_last = _channels_last(layered)
        self.populations = [
            _Population(layer, synapses[layer.name], self.channels_last, device) for layer in self.order
        ]

    def tile(self, steps: int, batch: int) -> tuple[int, int]:
        """(samples, steps) of a tile: few samples for many steps would make every call short."""
        widths = [math.prod(x.shape) for x in (*self.layered.layers, *self.layered.inputs)]
        site = 4 * max(widths)
        limit = TILE_BYTES if self.device.type == "cpu" else 1 << 30
        most = max(1, limit // (site * min(steps, FEWEST_STEPS)))
        samples = math.ceil(batch / math.ceil(batch / most))
        return samples, max(1, min(steps, limit // (site * samples)))

    def run(self, frames: Mapping[str, np.ndarray], probe: Probe) -> list[Part]:
        """Frames of all inputs [T, B, ...] -> results of chunks of the batch, in order."""
        steps, batch = next(iter(frames.values())).shape[:2]
        samples, span = self.tile(steps, batch)
        return [
            self._chunk({name: f[:, i : i + samples] for name, f in frames.items()}, span, probe)
            for i in range(0, batch, samples)
        ]

    def _chunk(self, frames: Mapping[str, np.ndarray], span: int, probe: Probe) -> Part:
        steps, batch = next(iter(frames.values())).shape[:2]
        spoken = {name for _, names in self.layered.outputs for name in names}
        payloads = [
            _Payloads(source, frames[source.name], source.name in self.channels_last, self.device)
            for source in self.layered.inputs
        ]
        logs = [_Log(p.layer, spoken, probe) for p in self.populations]
        states = [p.scan.initial(batch) for p in self.populations]
        for start in range(0, steps, span):
            activity = {p.source.name: p.tile(start, start + span) for p in payloads}
            for i, population in enumerate(self.populations):
                trace, states[i] = population.run(
                    activity, states[i], min(span, steps - start), logs[i].states
                )
                activity[population.layer.name] = Activity(trace.spikes, 0, 1)
                logs[i].add(trace)
        part = Part(sum(p.clipped for p in payloads))
        heard = {log.layer.name: log.close(part, probe) for log in logs}
        for name, layers in self.layered.outputs:
            part.outputs[name] = sum((heard[layer] for layer in layers[1:]), heard[layers[0]])
        return part


class _Population:
    """A layer and what arrives at it."""

    def __init__(
        self,
        layer: Layer,
        synapses: list[tuple[str, Synapses]],
        channels_last: frozenset[str],
        device: torch.device,
    ) -> None:
        self.layer = layer
        self.shape = stored_shape(layer.shape)
        self.scan = Scan(Neurons.of(_stored_layer(layer), device), self.shape)
        drives = [(source, Drive(s, source in channels_last)) for source, s in synapses]
        self.drives = [(source, drive) for source, drive in drives if source != CONSTANT]
        constants = [drive.constant() for source, drive in drives if source == CONSTANT]
        self.constant: Tensor | None = sum(constants[1:], constants[0]) if constants else None
        low, high = torch.aminmax(self.constant) if self.constant is not None else (0, 0)
        self.constant_span = int(low), int(high)
        self.device = device

    def run(
        self, activity: Mapping[str, Activity], state: ScanState, steps: int, record: bool
    ) -> tuple[LifTrace, ScanState]:
        """Run some steps from a state."""
        sources = [(self._heard(activity[name], drive), drive) for name, drive in self.drives]
        spans = [drive.span(s.least, s.most) for s, drive in sources] + [self.constant_span]
        low, high = sum(s[0] for s in spans), sum(s[1] for s in spans)
        several = len(sources) + (self.constant is not None) > 1
        exact = all(drive.fits(s.least, s.most) for s, drive in sources)
        if not exact or not sources or (several and max(-low, high) >= 1 << 24):
            return self._run_integers(sources, state, steps, record)
        x = _total([drive.sums(s) for s, drive in sources])
        if self.constant is not None:
            x += 64 * self.constant
        x = x.unflatten(0, (steps, -1))
        if not self.scan.settles(low, high, steps, state):
            low, high = (float(bound) / 64 for bound in torch.aminmax(x))
        return self.scan.run(x, low, high, state, record)

    def _run_integers(
        self, sources: list[tuple[Activity, Drive]], state: ScanState, steps: int, record: bool
    ) -> tuple[LifTrace, ScanState]:
        """`run` of what may not fit float32, or has no source but the constant."""
        a = torch.zeros((steps, len(state.v), *self.shape), dtype=torch.int32, device=self.device)
        for source, drive in sources:
            a += drive.integers(source)
        if self.constant is not None:
            a += self.constant
        low, high = (int(bound) for bound in torch.aminmax(a))
        if max(-low, high) >= SMALL_SUM:
            return self.scan.run_integers(a, max(-low, high), state, record)
        return self.scan.run(a.float().mul_(64), low, high, state, record)

    def _heard(self, source: Activity, drive: Drive) -> Activity:
        return source if drive.connection.graded else source.binary()


class _Payloads:
    """What an input sends.

    Args:
        frames: [T, B, ...].
    """

    def __init__(self, source: Source, frames: np.ndarray, channels_last: bool, device: torch.device) -> None:
        self.source, self.device, self.channels_last = source, device, channels_last
        self.frames, self.clipped = frames, 0
        self._rounded: Tensor | None = None

    def tile(self, start: int, stop: int) -> Activity:
        """Steps start..stop."""
        if self._rounded is None and self.source.scale == 1 and self.frames.dtype == np.float32:
            whole = self._bytes(torch.from_numpy(self.frames[start:stop]).to(self.device))
            if whole is not None:
                return whole
        if self._rounded is None:
            rounded, self.clipped = self.source.rounded(self.frames)
            self._rounded = torch.from_numpy(rounded).to(self.device)
        values = self._rounded[start:stop]
        least, most = (float(x) for x in torch.aminmax(values))
        if max(-least, most) < 1 << 24:
            values = values.float()
        return Activity(self._placed(values), least, most)

    def _bytes(self, frames: Tensor) -> Activity | None:
        """Frames of whole numbers in 0..127 that need no clipping; None for others."""
        narrow = frames.to(torch.int8)
        least, most = torch.aminmax(narrow.float().sub_(frames))  # five times as quick as torch.equal
        if float(least) != 0 or float(most) != 0:
            return None
        narrow = narrow.view(torch.uint8)
        most = int(narrow.max())
        return Activity(self._placed(narrow), 0, most) if most <= min(self.source.maximum, 127) else None

    def _placed(self, values: Tensor) -> Tensor:
        return stored(values, 2) if self.channels_last else values.contiguous()


class _Log:
    """What is kept of a layer, tile by tile."""

    def __init__(self, layer: Layer, spoken: set[str], probe: Probe) -> None:
        self.layer = layer
        self.spoken = layer.name in spoken
        self.states = layer.name in probe.states or (self.spoken and bool(layer.readout))
        self.whole = self.states or self.spoken or layer.name in probe.spikes
        self.counted = probe.counts and not layer.readout
        self.traces: list[LifTrace] = []
        self.count: Tensor | None = None
        self.saturated = 0

    def add(self, trace: LifTrace) -> None:
        """The next tile."""
        self.saturated += trace.saturated
        if self.whole:
            self.traces.append(trace)
        if self.counted:
            count = count_spikes(trace.spikes)
            self.count = count if self.count is None else self.count.add_(count)

    def close(self, part: Part, probe: Probe) -> np.ndarray:
        """Hand over what is probed; what the layer says [T, B, ...], if an output hears it."""
        if self.count is not None:
            part.count(self.layer, restored(self.count, 1))
        if not self.whole:
            part.saturated += self.saturated
            return np.empty(0)
        u = [restored(t.u) for t in self.traces if t.u is not None]
        v = [restored(t.v) for t in self.traces if t.v is not None]
        spikes = torch.cat([restored(t.spikes) for t in self.traces])
        trace = LifTrace(spikes, torch.cat(u) if u else None, torch.cat(v) if v else None, self.saturated)
        part.keep(self.layer, trace, dataclasses.replace(probe, counts=False))
        return said(self.layer, trace) if self.spoken else np.empty(0)


def _total(sums: list[Tensor]) -> Tensor:
    total = sums[0]
    for more in sums[1:]:
        total += more
    return total


def _channels_last(layered: LayeredProgram) -> frozenset[str]:
    """Layers of images, and inputs of images that a convolution or a pooling reads."""
    names = {layer.name for layer in layered.layers if len(layer.shape) == 3}
    images = {source.name for source in layered.inputs if len(source.shape) == 3}
    for layer in layered.layers:
        names |= {c.source for c in layer.connections if c.source in images and (c.kind == "conv" or c.pool)}
    return frozenset(names)


def _stored_layer(layer: Layer) -> Layer:
    """The layer with its arrays in the layout of its sums."""
    if len(layer.shape) != 3:
        return layer
    fields = ("du", "dv", "vth", "bias_mant", "v_init")
    moved = {name: _stored_array(getattr(layer, name), layer.shape) for name in fields}
    return dataclasses.replace(layer, **moved)


def _stored_array(value: object, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(value)
    if array.size == 1:
        return array.reshape(())
    return np.ascontiguousarray(np.moveaxis(np.broadcast_to(array, shape), 0, -1))
