"""A program as layers of synapses and LIF neurons, in floating point: the step before quantisation.

Between two event sources a NIR graph may hold pooling, Flatten and one weighted node; they become
one `Connection`. Gains (R dt/tau) go into the weights, leaks and biases into one bias per neuron.
"""

from __future__ import annotations

import dataclasses
import math

import nir
import numpy as np

from rsc.discretise import special_rules
from rsc.layered import Connection, Layer, LayeredProgram
from rsc.program import Program
from rsc.results import Issue
from rsc.shapes import window

NEURONS = (nir.LIF, nir.IF)
WEIGHTED = (nir.Affine, nir.Linear, nir.Conv2d)
POOLS = (nir.AvgPool2d, nir.SumPool2d)


class _Refused(Exception):
    """A node that cannot be lowered; becomes an Issue."""

    def __init__(self, node: str, what: str, fix: str) -> None:
        self.issue = Issue("error", node, what, fix)


def _cycle(node: str) -> _Refused:
    return _Refused(node, "The graph has a cycle.", "Recurrent programs run on reference, torch and norse.")


def float_layers(program: Program) -> tuple[LayeredProgram | None, list[Issue]]:
    """The layered form in floating point, or the reasons why there is none."""
    lowering = _Lowering(program)
    try:
        issues = lowering.global_issues()
        layers = () if issues else lowering.layers()
    except _Refused as refusal:
        issues, layers = [refusal.issue], ()
    if issues:
        return None, issues
    return (
        LayeredProgram(
            arithmetic="float",
            layers=layers,
            input_name=program.inputs[0],
            input_shape=program.input_shape,
            output=lowering.output,
            source_digest=program.digest,
        ),
        [],
    )


@dataclasses.dataclass
class _Path:
    """Stateless nodes between a source and a neuron, in the order of the flow."""

    source: str
    nodes: tuple[str, ...]


class _Lowering:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.nodes = program.graph.nodes
        self.before: dict[str, list[str]] = {name: [] for name in self.nodes}
        for a, b in sorted((str(a), str(b)) for a, b in program.graph.edges):
            self.before.setdefault(b, []).append(a)
        self.output = ""

    def global_issues(self) -> list[Issue]:
        semantics = self.program.semantics
        issues = special_rules(semantics, known=("zero",))
        if any(isinstance(n, nir.NIRGraph) for n in self.nodes.values()):
            issues.append(Issue("error", "", "The graph is nested.", "Flatten it before lowering."))
        if semantics.reset == "subtract":
            issues.append(
                Issue(
                    "error",
                    "",
                    "Neurons reset by subtraction; Loihi resets to 0.",
                    "Train with reset='value'.",
                )
            )
        if semantics.comparison != ">":
            issues.append(Issue("error", "", "Neurons fire at >=; Loihi fires at >.", "Use comparison='>'."))
        if len(self.program.inputs) != 1 or len(self.program.outputs) != 1:
            issues.append(Issue("error", "", "The graph has several inputs or outputs.", "Use one of each."))
        return issues

    def layers(self) -> tuple[Layer, ...]:
        """All layers that the output needs, sources first."""
        done: dict[str, Layer] = {}
        (last,) = self._single(self.before[self.program.outputs[0]], self.program.outputs[0])
        self.output = last
        self._visit(last, done, ())
        return tuple(done.values())

    def _visit(self, name: str, done: dict[str, Layer], trail: tuple[str, ...]) -> None:
        if name in done or name in self.program.inputs:
            return
        if name in trail:
            raise _cycle(name)
        node = self.nodes[name]
        paths = self._paths(name) if isinstance(node, NEURONS) else self._readout_paths(name)
        for path in paths:
            self._visit(path.source, done, (*trail, name))
        done[name] = self._layer(name, paths)

    def _single(self, names: list[str], of: str) -> list[str]:
        if len(names) != 1:
            raise _Refused(of, f"{len(names)} edges lead into it.", "Use exactly one.")
        return names

    def _readout_paths(self, name: str) -> list[_Path]:
        if not isinstance(self.nodes[name], WEIGHTED):
            kind = type(self.nodes[name]).__name__
            raise _Refused(
                name,
                f"A {kind} cannot be the output.",
                "End with Affine, Linear, Conv2d, LIF or IF.",
            )
        return [_Path(p.source, (*p.nodes, name)) for p in self._paths(name)]

    def _paths(self, name: str, trail: tuple[str, ...] = ()) -> list[_Path]:
        """Every stateless path from a source into `name`, without `name` itself; `trail` leads on from it."""
        found = []
        for before in self.before[name]:
            node = self.nodes[before]
            if before in trail:
                raise _cycle(before)
            if isinstance(node, (*NEURONS, nir.Input)):
                found.append(_Path(before, ()))
            elif isinstance(node, (*WEIGHTED, *POOLS, nir.Flatten)):
                found += [_Path(p.source, (*p.nodes, before)) for p in self._paths(before, (*trail, before))]
            else:
                raise _Refused(
                    before,
                    f"{type(node).__name__} has no Loihi form here.",
                    "Use LIF, IF, Affine, Linear, Conv2d, pooling and Flatten.",
                )
        return found

    def _layer(self, name: str, paths: list[_Path]) -> Layer:
        if not paths:
            raise _Refused(name, "Nothing feeds it.", "Connect it to the input.")
        connections = [self._connection(name, path) for path in paths]
        shapes = {shape for _, shape in connections}
        node = self.nodes[name]
        shape = (
            tuple(int(d) for d in np.shape(node.v_threshold)) if isinstance(node, NEURONS) else shapes.pop()
        )
        if shapes - {shape}:
            raise _Refused(
                name,
                f"It has shape {shape} and is fed {sorted(shapes)}.",
                "Put Flatten before the weighted node, not after it.",
            )
        bias = sum(
            (self._bias(w, shape) for w in sorted({p.nodes[-1] for p in paths})),
            np.zeros(shape),
        )
        if not isinstance(node, NEURONS):
            plain = tuple(c for c, _ in connections)
            return Layer(name, shape, plain, du=1.0, dv=0.0, vth=1e30, bias_mant=bias, readout=True)
        leak, gain, offset = self._coefficients(name, node)
        scaled = tuple(
            dataclasses.replace(c, weight=c.weight * self._per_output(name, gain, c)) for c, _ in connections
        )
        return Layer(
            name,
            shape,
            scaled,
            du=1.0,
            dv=leak,
            vth=self._uniform(name, "v_threshold", node.v_threshold),
            bias_mant=bias * gain + offset,
        )

    def _coefficients(self, name: str, node: nir.LIF | nir.IF) -> tuple[float, np.ndarray, np.ndarray]:
        """(leak, gain, constant) of v' = (1 - leak) v + gain I + constant."""
        dt = self.program.semantics.dt
        if np.any(np.asarray(node.v_reset) != 0):
            raise _Refused(
                name,
                "It resets to a value other than 0; Loihi resets to 0.",
                "Shift v, v_leak and v_threshold.",
            )
        r = np.asarray(node.r, np.float64)
        if isinstance(node, nir.IF):
            return 0.0, r * dt, np.zeros(r.shape)
        ratio = dt / np.asarray(node.tau, np.float64)
        if self.program.semantics.integrator == "exponential":
            ratio = -np.expm1(-ratio)
        return self._uniform(name, "dt/tau", ratio), r * ratio, np.asarray(node.v_leak, np.float64) * ratio

    def _uniform(self, name: str, what: str, values: np.ndarray) -> float:
        values = np.asarray(values, np.float64)
        if values.size == 0 or np.any(values != values.flat[0]):
            raise _Refused(
                name,
                f"{what} varies between {values.min():g} and {values.max():g}; a layer has one.",
                "Use one value per layer or split the layer.",
            )
        return float(values.flat[0])

    def _per_output(self, name: str, gain: np.ndarray, connection: Connection) -> np.ndarray:
        """Gains shaped to multiply the weights: per neuron (dense) or per channel (conv)."""
        if connection.kind == "dense":
            return gain.reshape(-1, 1)
        per_channel = gain.reshape(len(gain), -1)
        if np.any(per_channel != per_channel[:, :1]):
            raise _Refused(
                name, "R dt/tau varies inside a channel of a convolution.", "Use one value per channel."
            )
        return per_channel[:, :1].reshape(-1, 1, 1, 1)

    def _bias(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        bias = getattr(self.nodes[name], "bias", None)
        if bias is None:
            return np.zeros(shape)
        bias = np.asarray(bias, np.float64)
        column = bias.reshape(-1, 1, 1) if len(shape) == 3 and bias.ndim == 1 else bias
        return np.broadcast_to(column, shape).copy()

    def _connection(self, into: str, path: _Path) -> tuple[Connection, tuple[int, ...]]:
        """The path as one connection, and the shape it delivers."""
        source_shape = self._shape_of(path.source)
        weighted = [n for n in path.nodes if isinstance(self.nodes[n], WEIGHTED)]
        if len(weighted) != 1 or path.nodes[-1] != weighted[0]:
            raise _Refused(
                into,
                f"From {path.source} it is fed through {', '.join(path.nodes) or 'no node'}: "
                f"{len(weighted)} weighted nodes.",
                "Use exactly one, after pooling and Flatten.",
            )
        shape, pool, factor, flat = source_shape, None, 1.0, False
        for name in path.nodes[:-1]:
            node = self.nodes[name]
            if isinstance(node, POOLS):
                if pool is not None or flat:
                    raise _Refused(name, "Two poolings in a row, or pooling after Flatten.", "Merge them.")
                pool, shape = self._pool(name, node, shape)
                factor = 1 / math.prod(pool[0]) if isinstance(node, nir.AvgPool2d) else 1.0
            else:
                shape, flat = (math.prod(shape),), True
        graded = path.source in self.program.inputs
        if isinstance(self.nodes[weighted[0]], nir.Conv2d):
            connection, out = self._conv(weighted[0], path.source, source_shape, shape, graded)
        else:
            connection, out = self._dense(weighted[0], path.source, source_shape, shape, graded)
        return dataclasses.replace(connection, weight=connection.weight * factor, pool=pool), out

    def _shape_of(self, source: str) -> tuple[int, ...]:
        if source in self.program.inputs:
            return self.program.input_shape
        return tuple(int(d) for d in np.shape(self.nodes[source].v_threshold))

    def _pool(self, name: str, node: nir.AvgPool2d | nir.SumPool2d, shape: tuple[int, ...]):
        view = window(node)
        if any(any(p) for p in view.padding) or len(shape) != 3:
            raise _Refused(name, f"Pooling of {shape} with padding {view.padding}.", "Pad (C, H, W) by 0.")
        return (_pair(view.kernel), _pair(view.stride)), (shape[0], *view.output(shape[1:]))

    def _conv(
        self, name: str, source: str, source_shape: tuple[int, ...], shape: tuple[int, ...], graded: bool
    ):
        node = self.nodes[name]
        if len(shape) != 3:
            raise _Refused(name, f"A Conv2d is fed the shape {shape}.", "Feed it (C, H, W).")
        view = window(node)
        if any(before != after for before, after in view.padding):
            raise _Refused(name, "Padding 'same' is not symmetric here.", "Use an odd kernel.")
        weight = np.asarray(node.weight, np.float64)
        connection = Connection(
            source,
            "conv",
            weight,
            source_shape,
            stride=_pair(view.stride),
            padding=_pair([before for before, _ in view.padding]),
            dilation=_pair(view.dilation),
            groups=int(node.groups),
            graded=graded,
        )
        return connection, (weight.shape[0], *view.output(shape[1:]))

    def _dense(
        self, name: str, source: str, source_shape: tuple[int, ...], shape: tuple[int, ...], graded: bool
    ):
        weight = np.asarray(self.nodes[name].weight, np.float64)
        if weight.ndim != 2 or len(shape) != 1 or weight.shape[1] != shape[0]:
            raise _Refused(
                name, f"Weights {weight.shape} are fed the shape {shape}.", "Put a Flatten before the node."
            )
        return Connection(source, "dense", weight, source_shape, graded=graded), (weight.shape[0],)


def _pair(value: object) -> tuple[int, int]:
    array = np.broadcast_to(np.asarray(value, np.int64), (2,))
    return int(array[0]), int(array[1])
