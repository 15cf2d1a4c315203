"""A program as layers of synapses and LIF neurons, in floating point: the step before quantisation.

Each population becomes one `Layer`, each route into it (`rsc.export.routes`) one or more `Connection`s.
Gains go into the weights, leaks and biases into one bias per neuron; a reset value becomes the zero of v.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import nir
import numpy as np

from rsc.discretise import RESETTING, SYNAPTIC, coefficients, special_rules
from rsc.errors import InputRefused, UnsupportedNode
from rsc.export.connections import connections
from rsc.export.routes import POPULATIONS, Route, routes, routes_through, written_out
from rsc.graph import Topology, topology
from rsc.layered import CONSTANT, DELAY_MAX, Connection, Layer, LayeredProgram, Source
from rsc.program import Program, Semantics
from rsc.results import Issue
from rsc.shapes import Shape, infer_shapes

READOUTS = (nir.I, nir.LI, nir.CubaLI)
KNOWN_RULES = ("zero", "mixed", "v0", "input_gain", "shift", "recurrent_bias")  # of `special_rules`
SILENT = 1e30  # a threshold that is never met


def float_layers(program: Program) -> tuple[LayeredProgram | None, list[Issue]]:
    """The layered form in floating point, or the reasons why there is none."""
    issues = _rule_issues(program.semantics)
    try:
        graph = topology(program.graph, program.semantics)
        lowering = _Lowering(program, graph, infer_shapes(graph))
    except InputRefused as error:
        return None, [*issues, Issue("error", "", f"{error.what} {error.why}".strip(), error.fix)]
    if issues:
        return None, issues
    layers = lowering.layers()
    if program.encoder is not None and program.encoder.events:
        layers = tuple(_hearing_spikes(layer, program.inputs) for layer in layers)
    if lowering.issues:
        return None, lowering.issues
    layered = LayeredProgram(
        "float",
        layers,
        tuple(Source(name, lowering.shapes[name]) for name in program.inputs),
        tuple((name, lowering.terms[name]) for name in program.outputs),
        program.digest,
    )
    issues = _timing_issues(layered)
    return (None, issues) if issues else (layered, [])


def _hearing_spikes(layer: Layer, inputs: tuple[str, ...]) -> Layer:
    """The layer with inputs that send spikes instead of integers."""
    heard = (dataclasses.replace(c, graded=c.graded and c.source not in inputs) for c in layer.connections)
    return dataclasses.replace(layer, connections=tuple(heard))


def _rule_issues(semantics: Semantics) -> list[Issue]:
    issues = special_rules(semantics, KNOWN_RULES)
    if semantics.reset == "subtract":
        text = "Neurons reset by subtraction; Loihi resets to a value."
        issues.append(Issue("error", "", text, "Train with reset='value'."))
    if semantics.comparison != ">":
        issues.append(Issue("error", "", "Neurons fire at >=; Loihi fires at >.", "Use comparison='>'."))
    return issues


def _timing_issues(layered: LayeredProgram) -> list[Issue]:
    """Loops that Loihi cannot turn in time, and synapses that would have to wait too long."""
    try:
        layered.levels()
    except UnsupportedNode as error:
        return [Issue("error", "", f"{error.what} {error.why}", error.fix)]
    issues = []
    for layer in layered.layers:
        longest = max((int(layered.waits(layer, c).max(initial=0)) for c in layer.connections), default=0)
        if longest > DELAY_MAX:
            text = f"Synapses would have to wait {longest} steps; Loihi's hold {DELAY_MAX}."
            issues.append(Issue("error", layer.name, text, "Shorten the delay, or use a larger dt."))
    return issues


class _Lowering:
    """Attributes: terms, Output node -> layers added there; issues found on the way."""

    def __init__(self, program: Program, graph: Topology, shapes: dict[str, Shape]) -> None:
        self.program, self.graph, self.shapes = program, graph, shapes
        self.semantics = program.semantics
        self.terms: dict[str, tuple[str, ...]] = {}
        self.issues: list[Issue] = []

    def layers(self) -> tuple[Layer, ...]:
        """All populations that fire or are read, and a readout for what else leads to an Output."""
        read = {name: self._terms(name) for name in self.program.outputs}
        self.terms = read
        wanted = {term for terms in read.values() for term in terms}
        made = []
        for name in self.graph.order:
            node = self.graph.nodes[name]
            if isinstance(node, READOUTS) and not self._may_be_read(name):
                continue
            if isinstance(node, POPULATIONS) or name in wanted:
                made.append(self._try(name, node))
        return tuple(layer for layer in made if layer is not None)

    def _terms(self, output: str) -> tuple[str, ...]:
        """The layers that are added at an Output."""
        for before in self.graph.predecessors[output]:
            if isinstance(self.graph.nodes[before], nir.Input):
                self._refuse(
                    output, f"It hands on the input '{before}'.", "Put a weighted node between them."
                )
            if (before, output) in self.graph.delayed:
                self._refuse(output, f"It hears '{before}' one step late.", "Read it in the step itself.")
        return self.graph.predecessors[output]

    def _may_be_read(self, name: str) -> bool:
        """Whether a population without threshold leads to Outputs alone; what leads nowhere is left out."""
        inside = [n for n in self.graph.successors[name] if n not in self.program.outputs]
        if inside:
            kind = type(self.graph.nodes[name]).__name__
            text = f"{kind} hands its membrane on to {', '.join(inside)}; on Loihi only spikes travel."
            self._refuse(name, text, "Let it end at an Output, or give it a threshold.")
        return not inside and bool(self.graph.successors[name])

    def _refuse(self, node: str, what: str, fix: str) -> None:
        self.issues.append(Issue("error", node, what, fix))

    def _try(self, name: str, node: Any) -> Layer | None:
        try:
            return self._population(name, node) if isinstance(node, POPULATIONS) else self._readout(name)
        except UnsupportedNode as error:
            self._refuse(name, f"{error.what} {error.why}".strip(), error.fix)
            return None

    def _population(self, name: str, node: Any) -> Layer:
        shape = self.shapes[name]
        rule = _Rule(node, self.semantics, shape)
        found, bias = self._synapses(name, routes(name, self.graph), shape, rule.gain, rule.forgets)
        return Layer(
            name,
            shape,
            found,
            du=rule.du,
            dv=rule.dv,
            vth=rule.vth,
            bias_mant=np.broadcast_to(bias + rule.bias, shape).copy(),
            v_init=rule.v_init,
            offset=rule.offset,
            readout="state" if isinstance(node, READOUTS) else "",
        )

    def _readout(self, name: str) -> Layer:
        """An accumulator in place of a node without state that leads to an Output."""
        shape, ways = self.shapes[name], routes_through(name, self.graph)
        found, bias = self._synapses(name, ways, shape, np.ones(()), True)
        bias = np.broadcast_to(bias, shape).copy()
        return Layer(name, shape, found, du=1.0, dv=0.0, vth=SILENT, bias_mant=bias, readout="sum")

    def _synapses(
        self, name: str, ways: list[Route], shape: Shape, gain: np.ndarray, forgets: bool
    ) -> tuple[tuple[Connection, ...], np.ndarray]:
        """Connections of a layer, and what of them is a bias because it is there at every step."""
        found: list[Connection] = []
        bias = np.zeros(shape)
        for route in ways:
            if isinstance(self.graph.nodes.get(route.source), READOUTS):
                continue  # told where it leads on
            if route.source != CONSTANT:
                found += connections(route, self.graph, self.shapes, shape, gain, self.semantics)
                continue
            for k, matrix in written_out(route, self.graph, self.shapes, self.semantics).items():
                column = matrix * np.broadcast_to(gain, shape).reshape(-1, 1)
                if k == 0 and forgets:
                    bias = bias + column.reshape(shape)
                else:
                    delay = np.array(k, np.int32)
                    found.append(Connection(CONSTANT, "dense", column, (1,), delay=delay))
        if not found and not np.any(bias):
            raise UnsupportedNode("Nothing feeds it.", "", "Connect it to the input, or remove it.")
        return tuple(found), bias


class _Rule:
    """The numbers of a population's neurons: v' = (1 - dv) v' + gain * current + bias, v = v' + offset."""

    def __init__(self, node: Any, semantics: Semantics, shape: Shape) -> None:
        self.shape, zero = shape, np.zeros(())
        if isinstance(node, nir.Threshold):
            self.gain, self.forgets, self.du, self.dv = np.ones(()), True, 1.0, 1.0
            limit = np.asarray(node.threshold, np.float64)
            high = np.abs(limit).max(initial=0.0)  # thresholds below 0 are raised to it, and v with them
            self.bias = high - limit if limit.min(initial=0.0) < 0 else zero
            self.vth, self.v_init = self._each(limit + self.bias), 0.0
            self.offset = self._each(-self.bias)
            return
        k = coefficients(node, semantics)
        self.forgets = k.alpha_syn is None or k.beta_syn is None
        self.gain = k.beta if k.beta_syn is None else k.beta * k.beta_syn
        self.du = 1.0 if k.alpha_syn is None else self._each(_decay(1 - k.alpha_syn, "dt/tau_syn"))
        self.dv = self._each(_decay(1 - k.alpha, "dt/tau"))
        offset = k.v_reset if isinstance(node, RESETTING) and k.v_reset is not None else zero
        self.offset = self._each(offset)
        self.bias = k.c - (1 - k.alpha) * offset
        self.v_init = self._each((zero if k.v0 is None else k.v0) - offset)
        self.vth = SILENT if k.v_threshold is None else self._each(k.v_threshold - offset)
        assert isinstance(node, SYNAPTIC) != self.forgets

    def _each(self, values: Any) -> Any:
        """One number where all are equal, else an array of the population's shape."""
        array = np.asarray(values, np.float64)
        same = array.size and (array == array.flat[0]).all()
        return float(array.flat[0]) if same else np.broadcast_to(array, self.shape).copy()


def _decay(values: np.ndarray, what: str) -> np.ndarray:
    if values.min(initial=0) < 0 or values.max(initial=0) > 1:
        raise UnsupportedNode(
            f"{what} goes up to {values.max():g}.", "A decay on Loihi is at most 1.", "Use a smaller dt."
        )
    return values
