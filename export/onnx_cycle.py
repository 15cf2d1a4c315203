"""A cycle of a NIR graph in ONNX: one Scan whose body runs all nodes of the component for one step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nir
import numpy as np

from rsc.discretise import NEURONS, SPIKING
from rsc.export.onnx_neurons import step_neuron
from rsc.export.onnx_scope import Scope, scan
from rsc.export.onnx_series import Series, full

if TYPE_CHECKING:
    from rsc.export.onnx_network import Network


class Cycle:
    """One strongly connected component, as `rsc.hw_targets.reference` steps it.

    Args:
        network: the graph that it is a part of; its series, rasters and states are added to.
        names: nodes in the order of a step.
    """

    def __init__(self, network: Network, names: tuple[str, ...]) -> None:
        self.net, self.names, self.inside = network, names, set(names)
        self.s, self.body = network.s, Scope(network.s.real, network.s)
        self.nodes = {name: network.graph.nodes[name] for name in names}
        self.states: list[tuple[str, str]] = []  # (kind, node), in the order of the Scan's inputs
        self.now: dict[tuple[str, str], str] = {}  # their values inside the body
        self.values: dict[str, str] = {}  # node -> its output in this step
        self.spikes: dict[str, str] = {}  # spiking node -> its output before it became a number

    def build(self) -> None:
        """Write the Scan."""
        self._begin()
        outer = self._outer()
        late = [name for name in self.names if self._is_late(name)]
        after: dict[tuple[str, str], str] = {}
        for name in late:
            self.values[name] = self._past(name, self.now["line", name])
        for name in self.names:
            if name not in late:
                self._step(name, self._arriving(name, outer), after)
        for name in late:
            after["line", name] = self._shifted(name, self._arriving(name, outer))
        for kind, name in self.states:
            if kind == "held":
                after[kind, name] = self.values[name]
        self._finish(outer, after)

    def _begin(self) -> None:
        """Declare the states in front of the body."""
        net, memory = self.net, self.net.memory
        for name in self.names:
            node, shape = self.nodes[name], net.shapes[name]
            if isinstance(node, NEURONS):
                kinds = memory.start_neuron(self.s, name, net.coefficients(name), shape, net.extent)
                self.states += [(kind, name) for kind in kinds]
            elif isinstance(node, nir.Delay) and (longest := self._longest(name)):
                memory.start(self.s, "line", name, shape, net.extent, longest)
                self.states.append(("line", name))
            if any(source == name for source, target in net.graph.delayed if target in self.inside):
                self.states.append(("held", name))
        for kind, name in self.states:
            self.now[kind, name] = self.body.unnamed(self.s.real)

    def _outer(self) -> dict[tuple[str, str], tuple[str, str]]:
        """Edges from outside: edge -> (values over all steps, those of one step in the body)."""
        net, found = self.net, {}
        seen: dict[str, tuple[str, str]] = {}
        for source, target in net.graph.edges:
            if target not in self.inside or source in self.inside:
                continue
            values = full(self.s, net.heard(source, target), net.extent)
            if values not in seen:
                seen[values] = values, self.body.unnamed(self.s.real)
            found[source, target] = seen[values]
        if not found:  # a Scan needs something to tell it how many steps there are
            clock = self.s.op("Expand", self.s.number(0.0), net.extent.steps)
            found["", ""] = clock, self.body.unnamed(self.s.real)
        return found

    def _arriving(self, name: str, outer: dict[tuple[str, str], tuple[str, str]]) -> str:
        """The sum of what arrives in this step [B, ...]."""
        net, body = self.net, self.body
        parts = []
        for source in net.graph.predecessors[name]:
            if source not in self.inside:
                parts.append(outer[source, name][1])
            elif (source, name) in net.graph.delayed:
                parts.append(self.now["held", source])
            else:
                parts.append(self.values[source])
        total = parts[0]  # a node of a cycle hears at least its neighbour
        for part in parts[1:]:
            total = body.op("Add", total, part)
        return total

    def _step(self, name: str, x: str, after: dict[tuple[str, str], str]) -> None:
        """One node for one step."""
        net, body, node = self.net, self.body, self.nodes[name]
        if isinstance(node, NEURONS):
            k = net.coefficients(name)
            kinds = [kind for kind in ("v", "i") if (kind, name) in self.now]
            drive = body.times(x, k.beta if k.beta_syn is None else k.beta_syn)
            out, states = step_neuron(body, drive, [self.now[kind, name] for kind in kinds], k, net.rules)
            after.update({(kind, name): value for kind, value in zip(kinds, states, strict=True)})
        elif isinstance(node, nir.Delay):
            out = x
            if ("line", name) in self.now:
                past = self._with(name, x)
                out = self._past(name, past)
                after["line", name] = self._tail(past)
        else:
            out = net.local(body, name, x, net.arriving_shapes[name])
        self.values[name] = out
        if isinstance(node, SPIKING):
            self.spikes[name] = out
            if net.counts_as_bool(name):
                self.values[name] = body.cast(out, self.s.real)

    def _finish(
        self, outer: dict[tuple[str, str], tuple[str, str]], after: dict[tuple[str, str], str]
    ) -> None:
        """Declare what leaves the body, write the Scan and hand out what it gives."""
        net, body, real = self.net, self.body, self.s.real
        heard = [name for name in self.names if name not in self.spikes and self._is_heard(name)]
        emitted = [(name, self.spikes[name], net.counts_as_bool(name)) for name in self.spikes]
        emitted += [(name, self.values[name], False) for name in heard]
        recorded = [(kind, n) for kind, n in self.states if n in net.states and kind in ("v", "i")]
        for kind, name in self.states:
            body.give(after[kind, name], real)
        for _, value, binary in emitted:
            body.give(value, "bool" if binary else real)
        for key in recorded:
            body.give(after[key], real)
        starts = [net.memory.begin[key] for key in self.states]
        fed = dict.fromkeys(values for values, _ in outer.values())
        found = scan(self.s, body, starts, list(fed), len(emitted) + len(recorded), self.names[0])
        for (kind, name), value in zip(self.states, found, strict=False):
            net.memory.finish(self.s, kind, name, value)
        rest = found[len(self.states) :]
        for (name, _, _), value in zip(emitted, rest, strict=False):
            plain = Series(net.shapes[name], False, value)
            net.series[name] = net.emit(name, value) if name in self.spikes else plain
        for (kind, name), value in zip(recorded, rest[len(emitted) :], strict=True):
            net.recorded[f"{name}.{kind}"] = value

    def _is_heard(self, name: str) -> bool:
        """Whether something outside of the cycle asks for the values of a node."""
        leaves = not self.inside.issuperset(self.net.graph.successors[name])
        return leaves or name in self.net.program.outputs

    def _longest(self, name: str) -> int:
        return int(self.net.delays(name).max(initial=0))

    def _is_late(self, name: str) -> bool:
        """Whether a node delays all its elements, so that its output is known before its input."""
        return isinstance(self.nodes[name], nir.Delay) and bool((self.net.delays(name) >= 1).all())

    def _with(self, name: str, x: str) -> str:
        """The past inputs of a Delay node and the present one, [delay + 1, B, ...]."""
        body = self.body
        return body.op("Concat", self.now["line", name], body.op("Unsqueeze", x, body.ints(0)), axis=0)

    def _tail(self, past: str) -> str:
        body = self.body
        return body.op("Slice", past, body.ints(1), body.ints(np.iinfo(np.int64).max), body.ints(0))

    def _shifted(self, name: str, x: str) -> str:
        return self._tail(self._with(name, x))

    def _past(self, name: str, past: str) -> str:
        """x(t - d) per element of past inputs [delay (+ 1), B, ...], oldest first."""
        body, delays = self.body, self.net.delays(name)
        longest, shape = self._longest(name), self.net.shapes[name]
        if (delays == longest).all():
            return body.op("Gather", past, body.constant(0, "int64"), axis=0)
        lag = body.constant((longest - delays)[None, None], "int64")
        size = self.net.extent.shape(body, *shape, steps=False)
        index = body.op("Expand", lag, body.op("Concat", body.ints(1), size, axis=0))
        return body.op("Squeeze", body.op("GatherElements", past, index, axis=0), body.ints(0))
