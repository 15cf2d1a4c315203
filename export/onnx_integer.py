"""The integer Loihi form of a program as ONNX, equal to target `loihi` in every spike, u and v.

Synaptic sums are whole numbers held in float32 while they and all their parts stay below 2^24, so that every
order of adding is exact, else in float64: products that every provider has. Neurons step in int64:

    u = wrap24(decay(u, du + 1) + (a << 6)),   v = clip(decay(v, dv) + u + bias),   fires at v > vth << 6
    decay(x, d) = trunc(x (4096 - d) / 4096)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rsc.errors import UsageError
from rsc.export.onnx_integer_ops import bias_of, by_delay, forgets, step_lif, synaptic_sums
from rsc.export.onnx_scope import Scope, scan
from rsc.export.onnx_series import Extent, Series, folded, full
from rsc.export.onnx_state import Memory
from rsc.layered import CONSTANT, Connection, Layer, LayeredProgram

SMALL_SUM = 1 << 17  # sums below it keep u << 6 inside 24 bits


class IntegerNetwork:
    """A lowered program on its way into a graph.

    Args:
        s: the model's graph; real numbers are float64.
        frames: Input node -> frames.
        states: layers whose u and v of every step are kept.

    Fields: as of `rsc.export.onnx_network.Network`, by layer, with "layer.u" and "layer.v" in int64; and
        readouts: layers that are not meant to fire.
        saturations: per layer how often v left 24 bits, int64 [].
    """

    def __init__(
        self,
        s: Scope,
        layered: LayeredProgram,
        extent: Extent,
        frames: Mapping[str, Series],
        memory: Memory,
        states: frozenset[str] = frozenset(),
    ) -> None:
        if memory.open_ended:
            raise UsageError(
                "An integer model was asked for its states.",
                "What is under way in its synapses is not among them.",
                "Run the whole sequence at once, or use a float arithmetic.",
            )
        self.s, self.layered, self.extent = s, layered, extent
        self.frames, self.memory, self.states = frames, memory, states
        self.shapes = {layer.name: layer.shape for layer in layered.layers}
        self.series: dict[str, Series] = {}
        self.rasters: dict[str, str] = {}
        self.recorded: dict[str, str] = {}
        self.readouts = frozenset(layer.name for layer in layered.layers if layer.readout)
        self.saturations: list[str] = []
        self._sent: dict[str, Series] = {}  # source -> float32 values over all steps

    def build(self) -> None:
        """All layers, sources first, then the Output nodes."""
        for source in self.layered.inputs:
            self._sent[source.name] = self._payload(source, self.frames[source.name])
        one = self.s.op("Expand", self.s.number(1.0, "float32"), self.s.ints(1, 1, 1))
        self._sent[CONSTANT] = Series((1,), True, one)
        for group in self.layered.groups():
            Group(self, group).build()
        for name, layers in self.layered.outputs:
            total = self.series[layers[0]].long
            for layer in layers[1:]:
                total = self.s.op("Add", total, self.series[layer].long)
            self.series[name] = Series(self.series[layers[0]].shape, False, total)

    def _payload(self, source: Any, frames: Series) -> Series:
        """Whole numbers round(scale frame), clipped."""
        s, x = self.s, frames.long or frames.folded
        scaled = x if source.scale == 1 else s.op("Mul", x, s.number(source.scale))
        rounded = s.op("Round", scaled)
        ends = s.number(-float(source.maximum)), s.number(float(source.maximum))
        whole = s.cast(s.op("Clip", rounded, *ends), "float32")
        clipped = s.op("Not", s.op("Equal", s.cast(whole, "float64"), rounded))
        if frames.static:
            clipped = full(s, Series(frames.shape, True, clipped), self.extent)
        self.saturations.append(s.op("ReduceSum", s.cast(clipped, "int64"), keepdims=0))
        return Series(frames.shape, frames.static, whole)

    def arriving(self, layer: Layer, outside: Sequence[Connection]) -> str:
        """Synaptic sums int32 [T, B, ...] over connections from outside of the layer's group."""
        s, total = self.s, ""
        for c in outside:
            sent = self._sent[c.source]
            for k, weight in by_delay(c):
                sums = synaptic_sums(s, c, weight, folded(s, sent), layer.shape, self.reach(c))
                part = Series(layer.shape, sent.static, folded=sums)
                late = self._late(part, k) if k else self._stretched(part, c)
                total = s.op("Add", total, late) if total else late
        if not total:
            return s.op("Expand", s.constant(0, "int32"), self.extent.shape(s, *layer.shape))
        return s.op("Expand", total, self.extent.shape(s, *layer.shape))

    def reach(self, c: Connection) -> int:
        """Proven bound of a connection's sums and all their parts, before the shift by weight_exp."""
        most = self.layered.sources[c.source].maximum if c.source in self.layered.sources else 1
        most = (most if c.graded else 1) * (math.prod(c.pool[0]) if c.pool else 1)
        rows = np.abs(c.weight.reshape(len(c.weight), -1).astype(np.int64)).sum(1)
        return int(rows.max(initial=0)) * most

    def hand_out(self, layer: Layer, spikes: str, v: str) -> None:
        """Note what a layer does, bool and int64 [T, B, ...]; v is needed of readouts alone."""
        s = self.s
        self.rasters[layer.name] = spikes
        self._sent[layer.name] = Series(layer.shape, False, s.cast(spikes, "float32"))
        if not layer.readout:
            said = s.cast(spikes, "float64")
        else:
            real, unit = s.cast(v, "float64"), s.number(64 * layer.scale)
            if layer.readout == "state":
                said = s.plus(s.op("Div", real, unit), np.asarray(layer.offset, np.float64))
            else:
                start = s.op("Expand", s.number(layer.v_init), self._one_step(layer))
                before = s.op("Slice", real, s.ints(0), s.ints(-1), s.ints(0))
                said = s.op("Div", s.op("Sub", real, s.op("Concat", start, before, axis=0)), unit)
        self.series[layer.name] = Series(layer.shape, False, said)

    def _one_step(self, layer: Layer) -> str:
        s = self.s
        return s.op("Concat", s.ints(1), self.extent.batch, s.ints(*layer.shape), axis=0)

    def _stretched(self, part: Series, c: Connection) -> str:
        """[T, B, ...] of sums, or [1, B, ...] of those that do not change."""
        s = self.s
        if part.static:
            batch = 1 if c.source == CONSTANT else -1
            return s.op("Reshape", part.folded, s.ints(1, batch, *part.shape))
        return s.op("Reshape", part.folded, self.extent.shape(s, *part.shape))

    def _late(self, part: Series, k: int) -> str:
        """Sums k steps later, 0 before."""
        s = self.s
        if part.static:
            long = s.op("Reshape", part.folded, s.ints(1, -1, *part.shape))
            values = s.op("Expand", long, self.extent.shape(s, *part.shape))
        else:
            values = s.op("Reshape", part.folded, self.extent.shape(s, *part.shape))
        size = s.op("Concat", s.ints(k), self.extent.batch, s.ints(*part.shape), axis=0)
        none = s.op("Expand", s.constant(0, "int32"), size)
        joined = s.op("Concat", none, values, axis=0)
        return s.op("Slice", joined, s.ints(0), self.extent.steps, s.ints(0))


class Group:
    """Layers that hear one another, or a single one: one Scan."""

    def __init__(self, net: IntegerNetwork, layers: tuple[Layer, ...]) -> None:
        self.net, self.layers = net, layers
        self.names = {layer.name for layer in layers}
        self.s, self.body = net.s, Scope(net.s.real, net.s)
        self.states: list[tuple[str, str]] = []
        self.now: dict[tuple[str, str], str] = {}

    def build(self) -> None:
        """Write the Scan."""
        net, body, s = self.net, self.body, self.s
        fed, after, emitted = [], {}, []
        self._begin()
        spikes: dict[str, str] = {}
        for layer in self.layers:
            outside = [c for c in layer.connections if c.source not in self.names]
            small = self._is_small(layer)
            fed.append(s.cast(net.arriving(layer, outside), "int64"))
            a = body.unnamed("int64")
            for c in layer.connections:
                if c.source in self.names:
                    for k, weight in by_delay(c):
                        a = body.op("Add", a, self._inner(c, weight, k, layer, spikes))
            states = self.now.get(("u", layer.name), ""), self.now["v", layer.name]
            fired, u, v, beyond = step_lif(body, layer, a, *states, small)
            after |= {("u", layer.name): u, ("v", layer.name): v}
            spikes[layer.name] = body.cast(fired, "float32") if self._hears(layer.name) >= 0 else ""
            keep = layer.name in net.states
            emitted.append((layer, fired, beyond, v if keep or layer.readout else "", u if keep else ""))
        self._advance(spikes, after)
        self._finish(fed, after, emitted)

    def _begin(self) -> None:
        for layer in self.layers:
            self._start("v", layer, "int64", value=np.asarray(layer.v_init))
            if not forgets(layer, self._is_small(layer)):
                self._start("u", layer, "int64")
            longest = self._hears(layer.name)
            if longest > 0:
                self._start("line", layer, "float32", longest=longest)

    def _start(
        self, kind: str, layer: Layer, dtype: str, value: np.ndarray | None = None, longest: int | None = None
    ) -> None:
        memory, key = self.net.memory, (kind, layer.name)
        memory.start(self.s, *key, layer.shape, self.net.extent, longest, value, dtype)
        self.states.append(key)
        self.now[key] = self.body.unnamed(dtype)

    def _is_small(self, layer: Layer) -> bool:
        """Whether |a| < 2^17 is proven, so that u neither wraps nor leaves 24 bits by more than one wrap."""
        total = 0
        for c in layer.connections:
            shift = c.weight_exp if c.kind == "dense" else 0
            bound = self.net.reach(c)
            total += (bound << shift if shift > 0 else bound >> -shift) + np.unique(c.delay).size
        bias = int(np.abs(bias_of(layer)).max(initial=0))
        return total < SMALL_SUM and max(bias, int(np.abs(layer.v_init).max())) < 1 << 28

    def _hears(self, name: str) -> int:
        """Longest delay in steps at which layers of the group hear a layer; -1 if none does."""
        connections = [c for layer in self.layers for c in layer.connections if c.source == name]
        return max((int(c.delay.max()) for c in connections), default=-1)

    def _inner(
        self, c: Connection, weight: np.ndarray, k: int, layer: Layer, spikes: Mapping[str, str]
    ) -> str:
        """Sums of spikes k steps ago, int64 [B, ...]."""
        body = self.body
        x = spikes[c.source] if k == 0 else self._ago(c.source, k)
        sums = synaptic_sums(body, c, weight, x, layer.shape, self.net.reach(c))
        return body.cast(sums, "int64")

    def _ago(self, name: str, k: int) -> str:
        return self.body.op("Gather", self.now["line", name], self.body.constant(-k, "int64"), axis=0)

    def _advance(self, spikes: Mapping[str, str], after: dict[tuple[str, str], str]) -> None:
        """The lines of spikes under way, a step later."""
        body = self.body
        for kind, name in self.states:
            if kind == "line":
                latest = body.op("Unsqueeze", spikes[name], body.ints(0))
                joined = body.op("Concat", self.now[kind, name], latest, axis=0)
                end = body.ints(np.iinfo(np.int64).max)
                after[kind, name] = body.op("Slice", joined, body.ints(1), end, body.ints(0))

    def _finish(
        self,
        fed: list[str],
        after: Mapping[tuple[str, str], str],
        emitted: list[tuple[Layer, str, str, str, str]],
    ) -> None:
        net, body, s = self.net, self.body, self.s
        for kind, name in self.states:
            body.give(after[kind, name], "float32" if kind == "line" else "int64")
        wanted: list[tuple[str, Layer]] = []
        for layer, fired, beyond, v, u in emitted:
            for kind, value in (("spikes", fired), ("beyond", beyond), ("v", v), ("u", u)):
                if value:
                    body.give(value, "int64" if kind in ("u", "v") else "bool")
                    wanted.append((kind, layer))
        starts = [net.memory.begin[key] for key in self.states]
        found = scan(s, body, starts, fed, len(wanted), self.layers[0].name)
        given = {
            (k, layer.name): value
            for (k, layer), value in zip(wanted, found[len(self.states) :], strict=True)
        }
        for layer in self.layers:
            name = layer.name
            net.hand_out(layer, given["spikes", name], given.get(("v", name), ""))
            net.saturations.append(s.op("ReduceSum", s.cast(given["beyond", name], "int64"), keepdims=0))
            if name in net.states:
                net.recorded |= {f"{name}.v": given["v", name], f"{name}.u": given["u", name]}
