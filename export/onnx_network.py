"""The graph of a program as ONNX, layer by layer over all steps; only cycles go step by step.

Stateless nodes see all steps at once, neurons are a Scan over the steps, a cycle is one Scan of its nodes.
What does not change in time (direct coding, RSC-I) is computed once, up to the first neuron.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nir
import numpy as np

from rsc.discretise import NEURONS, SPIKING, Coefficients, coefficients, delay_steps
from rsc.export import onnx_layers as layers
from rsc.export.onnx_cycle import Cycle
from rsc.export.onnx_neurons import counts_many, fires, step_neuron
from rsc.export.onnx_scope import Scope, scan
from rsc.export.onnx_series import Extent, Series, folded, full, long
from rsc.export.onnx_state import Memory
from rsc.graph import topology
from rsc.program import Program
from rsc.shapes import Shape, infer_shapes, input_shapes


class Network:
    """A program on its way into a graph.

    Args:
        s: the model's graph.
        program: that a float target accepts (`check_program`).
        weights: type that weights are held in; neurons compute in `s.real`.
        extent: of the run.
        frames: Input node -> its frames.
        memory: where states come from and go to.
        states: neuron nodes whose states of every step are kept.

    Fields:
        series: node -> values over all steps.
        rasters: spiking node -> its spikes [T, B, ...], bool, or real where several may leave at once.
        recorded: "node.v" and "node.i" -> [T, B, ...].
    """

    def __init__(
        self,
        s: Scope,
        program: Program,
        weights: str,
        extent: Extent,
        frames: Mapping[str, Series],
        memory: Memory,
        states: frozenset[str] = frozenset(),
    ) -> None:
        self.s, self.program, self.weights = s, program, weights
        self.extent, self.frames, self.memory, self.states = extent, frames, memory, states
        self.rules = program.semantics
        self.graph = topology(program.graph, program.semantics)
        self.shapes = infer_shapes(self.graph)
        self.arriving_shapes = input_shapes(self.graph, self.shapes)
        self.series: dict[str, Series] = {}
        self.rasters: dict[str, str] = {}
        self.recorded: dict[str, str] = {}
        self.readouts: frozenset[str] = frozenset()  # every spike is one here, and nothing saturates
        self.saturations: list[str] = []

    def build(self) -> None:
        """All nodes, in the order of the data flow."""
        held = {source for source, _ in self.graph.delayed}
        for name in sorted(held):
            self.memory.start(self.s, "held", name, self.shapes[name], self.extent)
        for part in self.graph.components:
            if self.graph.is_recurrent(part):
                Cycle(self, part).build()
            else:
                (name,) = part
                self.series[name] = self._node(name)
            for name in sorted(held.intersection(part)):
                if self.memory.is_open("held", name):
                    self.memory.finish(self.s, "held", name, self._last(name))

    def coefficients(self, name: str) -> Coefficients:
        """Of a neuron node."""
        return coefficients(self.graph.nodes[name], self.rules)

    def delays(self, name: str) -> np.ndarray:
        """Steps of each element of a Delay node."""
        return np.broadcast_to(delay_steps(self.graph.nodes[name], self.rules.dt), self.shapes[name])

    def heard(self, source: str, target: str) -> Series:
        """What goes over an edge: the values of this step, or those of the step before."""
        series = self.series[source]
        if (source, target) not in self.graph.delayed:
            return series
        before = self.s.op("Unsqueeze", self.memory.begin["held", source], self.s.ints(0))
        values = full(self.s, series, self.extent)
        early = self.s.op("Slice", values, self.s.ints(0), self.s.ints(-1), self.s.ints(0))
        return Series(series.shape, False, self.s.op("Concat", before, early, axis=0))

    def emit(self, name: str, spikes: str) -> Series:
        """Spikes of a node as numbers, from bool or numbers [T, B, ...]."""
        self.rasters[name] = spikes
        values = self.s.cast(spikes, self.s.real) if self.counts_as_bool(name) else spikes
        return Series(self.shapes[name], False, values)

    def counts_as_bool(self, name: str) -> bool:
        """Whether a spiking node sends at most one spike in a step."""
        return isinstance(self.graph.nodes[name], nir.Threshold) or not counts_many(self.rules)

    def local(self, s: Scope, name: str, x: str, shape: Shape) -> str:
        """A stateless node on a folded batch [N, ...] in any scope."""
        node = self.graph.nodes[name]
        if isinstance(node, nir.Affine | nir.Linear):
            return layers.affine(s, node, x, self.weights)
        if isinstance(node, nir.Scale):
            return layers.scale(s, node, x)
        if isinstance(node, nir.Threshold):
            return fires(s, x, s.number(node.threshold), self.rules)
        if isinstance(node, nir.Conv1d | nir.Conv2d):
            return layers.convolution(s, node, x, shape, self.weights)[0]
        if isinstance(node, nir.Input | nir.Output):
            return x
        return layers.FOLDED[type(node)](s, node, x, shape)[0]

    def _node(self, name: str) -> Series:
        node = self.graph.nodes[name]
        x = self.frames[name] if name in self.frames else self._arriving(name)
        if isinstance(node, NEURONS):
            return self._population(name, x)
        if isinstance(node, nir.Delay):
            return self._line(name, x)
        if isinstance(node, nir.Input | nir.Output):
            return x
        if isinstance(node, nir.Threshold):
            return self._threshold(name, x)
        if isinstance(node, nir.Flatten):
            return Series(self.shapes[name], x.static, other=x.long or x.folded or x.other)
        if isinstance(node, nir.Affine | nir.Linear | nir.Scale):
            y = self.local(self.s, name, long(self.s, x, self.extent), x.shape)
            return Series(self.shapes[name], x.static, y)
        y = self.local(self.s, name, folded(self.s, x), x.shape)
        return Series(self.shapes[name], x.static, folded=y)

    def _arriving(self, name: str) -> Series:
        """The sum over the incoming edges; zeros where nothing feeds the node."""
        parts = [self.heard(source, name) for source in self.graph.predecessors[name]]
        if not parts:
            shape = self.arriving_shapes[name]
            blank = self.s.op("Expand", self.s.number(0.0), self.extent.shape(self.s, *shape))
            return Series(shape, False, blank)
        total = parts[0]
        for part in parts[1:]:
            a, b = (long(self.s, p, self.extent) for p in (total, part))
            total = Series(total.shape, total.static and part.static, self.s.op("Add", a, b))
        return total

    def _threshold(self, name: str, x: Series) -> Series:
        over = self.local(self.s, name, long(self.s, x, self.extent), x.shape)
        found = Series(self.shapes[name], x.static, self.s.cast(over, self.s.real))
        self.rasters[name] = full(self.s, Series(x.shape, x.static, over), self.extent)
        return found

    def _population(self, name: str, x: Series) -> Series:
        k, s = self.coefficients(name), self.s
        shape, extent = self.shapes[name], self.extent
        entry = k.beta if k.beta_syn is None else k.beta_syn
        drive = Series(shape, x.static, s.times(long(s, x, extent), entry))
        drives = full(s, drive, extent)
        kinds = self.memory.start_neuron(s, name, k, shape, extent, drives)
        body = Scope(s.real, s)
        ends = [body.unnamed(s.real) for _ in kinds]
        now = body.unnamed(s.real)
        out, after = step_neuron(body, now, ends, k, self.rules)
        kept = after if name in self.states else []
        fired = k.v_threshold is not None
        type_out = "bool" if fired and self.counts_as_bool(name) else s.real
        for value, dtype in [*((v, s.real) for v in after), (out, type_out), *((v, s.real) for v in kept)]:
            body.give(value, dtype)
        starts = [self.memory.begin[kind, name] for kind in kinds]
        found = scan(s, body, starts, [drives], 1 + len(kept), name)
        for kind, value in zip(kinds, found, strict=False):
            self.memory.finish(s, kind, name, value)
        values, states = found[len(kinds)], found[len(kinds) + 1 :]
        self.recorded |= {f"{name}.{kind}": value for kind, value in zip(kinds, states, strict=False)}
        return self.emit(name, values) if fired else Series(shape, False, values)

    def _line(self, name: str, x: Series) -> Series:
        """x(t - d) per element, d in whole steps."""
        s, delays = self.s, self.delays(name)
        longest, values = int(delays.max(initial=0)), full(self.s, x, self.extent)
        if longest == 0:
            return x
        line = self.memory.start(s, "line", name, self.shapes[name], self.extent, longest)
        past = s.op("Concat", line, values, axis=0)
        self.memory.finish(s, "line", name, s.op("Slice", past, self.extent.steps, s.ints(_END), s.ints(0)))
        if (delays == longest).all():
            return Series(x.shape, False, s.op("Slice", past, s.ints(0), self.extent.steps, s.ints(0)))
        lag = s.constant(longest - delays, "int64")
        clock = s.op(
            "Range", s.constant(0, "int64"), s.op("Squeeze", self.extent.steps), s.constant(1, "int64")
        )
        time = s.op("Reshape", clock, s.ints(-1, *[1] * (1 + len(x.shape))))
        index = s.op("Expand", s.op("Add", time, lag), self.extent.shape(s, *x.shape))
        return Series(x.shape, False, s.op("GatherElements", past, index, axis=0))

    def _last(self, name: str) -> str:
        """Values [B, ...] of the last step."""
        values = full(self.s, self.series[name], self.extent)
        return self.s.op("Gather", values, self.s.constant(-1, "int64"), axis=0)


def spiking(graph: Mapping[str, Any]) -> list[str]:
    """Nodes that send spikes."""
    return [name for name, node in graph.items() if isinstance(node, SPIKING)]


_END = np.iinfo(np.int64).max
