"""Nodes of an ONNX graph while it is built: the model's own, or the body of a Scan.

Values are names, and short ones, as a small network is not to weigh less than what they take. Constants of
all bodies are initialisers of the model, once each, and seen by name; a node that is there is used again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper

TYPES: dict[str, int] = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}
Dim = int | str
# attributes that say what an operator does anyway; of lists, what every element is
_USUAL = {"start": 0, "group": 1, "strides": 1, "dilations": 1, "pads": 0}
_DRAWN = ("RandomNormalLike", "RandomUniformLike")  # two of them are two draws


class Scope:
    """One graph under construction.

    Args:
        outer: the graph around it; None for the model's own.
        real: type of real numbers in states and elementwise work, "float32" or "float64".
    """

    def __init__(self, real: str, outer: Scope | None = None) -> None:
        self.real = real
        self.model: Scope = self if outer is None else outer.model
        self.nodes: list[NodeProto] = []
        self.inputs: list[ValueInfoProto] = []
        self.outputs: list[ValueInfoProto] = []
        self._made: dict[tuple[Any, ...], str] = {}
        if outer is None:
            self.constants: dict[tuple[Any, ...], TensorProto] = {}
            self.defaults: list[TensorProto] = []
            self._count = 0

    def fresh(self) -> str:
        """A name that no other value of the model has: A to Z, AA and on; inputs and outputs have others."""
        self.model._count += 1
        name, rest = "", self.model._count
        while rest:
            rest, letter = divmod(rest - 1, 26)
            name = chr(65 + letter) + name
        return name

    def unnamed(self, dtype: str) -> str:
        """An input of a body, whose shape follows from what the Scan is given."""
        return self.declare(self.fresh(), dtype, None, "input")

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """The output of a node; a new node if it is given its name, or none like it is in this graph."""
        told = {k: v for k, v in attributes.items() if not (k in _USUAL and is_all(v, _USUAL[k]))}
        key = (kind, inputs, *((k, str(v)) for k, v in sorted(told.items())))
        if name or kind in _DRAWN or key not in self._made:
            made = self.ops(kind, inputs, [name or self.fresh()], **told)[0]
            self._made.setdefault(key, made)
        else:
            made = self._made[key]
        return made

    def ops(
        self, kind: str, inputs: Iterable[str], outputs: Sequence[str], **attributes: Any
    ) -> Sequence[str]:
        """A node with named outputs."""
        self.nodes.append(helper.make_node(kind, list(inputs), list(outputs), **attributes))
        return outputs

    def constant(self, value: Any, dtype: str) -> str:
        """A constant of any shape; equal ones are stored once."""
        array = np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value)
        raw = _encoded(array, dtype)
        key = (dtype, array.shape, raw)
        constants = self.model.constants
        if key not in constants:
            name = self.fresh()
            constants[key] = helper.make_tensor(name, TYPES[dtype], array.shape, raw, raw=True)
        return constants[key].name

    def number(self, value: Any, dtype: str = "") -> str:
        """A constant to compute with element by element; axes along which nothing changes are 1."""
        array = np.asarray(value)
        for axis in range(array.ndim):
            first = array.take([0], axis)
            array = first if is_all(array == first, True) else array
        lead = next((i for i, size in enumerate(array.shape) if size != 1), array.ndim)
        return self.constant(array.reshape(array.shape[lead:]), dtype or self.real)

    def ints(self, *values: int) -> str:
        """A vector of int64, as axes and shapes are given."""
        return self.constant(np.array(values, np.int64), "int64")

    def cast(self, x: str, dtype: str, name: str = "") -> str:
        """x in another type."""
        return self.op("Cast", x, name=name, to=TYPES[dtype])

    def times(self, x: str, k: np.ndarray) -> str:
        """k x; x itself where k is 1."""
        return x if is_all(k, 1) else self.op("Mul", x, self.number(k))

    def plus(self, x: str, k: np.ndarray) -> str:
        """x + k; x itself where k is 0."""
        return x if is_all(k, 0) else self.op("Add", x, self.number(k))

    def declare(self, name: str, dtype: str, shape: Sequence[Dim] | None, role: str) -> str:
        """State type and shape (None leaves it to inference) of a value; role "input" or "output"."""
        info = helper.make_tensor_value_info(name, TYPES[dtype], shape)
        {"input": self.inputs, "output": self.outputs}[role].append(info)
        return name

    def give(self, value: str, dtype: str) -> None:
        """Make a value an output of a body: itself, or a copy where it is an input or an output already."""
        made = {name for node in self.nodes for name in node.output}
        if value not in made or value in {info.name for info in self.outputs}:
            value = self.op("Identity", value, name=self.fresh())
        self.declare(value, dtype, None, "output")

    def optional(self, name: str, dtype: str, value: Any, shape: Sequence[Dim]) -> str:
        """A model input that need not be fed: its value then is `value`."""
        array = np.asarray(value)
        tensor = helper.make_tensor(name, TYPES[dtype], array.shape, _encoded(array, dtype), raw=True)
        self.model.defaults.append(tensor)
        return self.declare(name, dtype, shape, "input")

    def graph(self, name: str) -> GraphProto:
        """The finished graph."""
        tensors = [*self.defaults, *self.constants.values()] if self is self.model else []
        return helper.make_graph(self.nodes, name, self.inputs, self.outputs, tensors)


def scan(
    outer: Scope,
    body: Scope,
    states: Sequence[str],
    inputs: Sequence[str],
    scanned: int,
    name: str,
) -> list[str]:
    """Run `body` once per step.

    Args:
        body: its inputs are states and one step of each of `inputs`; its outputs the next states, then
            `scanned` values of the step.
        states: before the first step.
        inputs: [T, ...], at least one.

    Returns:
        last states, then the scanned values over all steps [T, ...].
    """
    outputs = [outer.fresh() for _ in range(len(states) + scanned)]
    graph = body.graph(name)
    outer.ops("Scan", [*states, *inputs], outputs, body=graph, num_scan_inputs=len(inputs))
    return outputs


def is_all(array: Any, value: float) -> bool:
    """Whether every element equals a value."""
    return bool((np.asarray(array) == value).all())


def _encoded(array: np.ndarray, dtype: str) -> bytes:
    """Little-endian bytes of an array in an ONNX type; bfloat16 rounded to nearest, ties to even."""
    if dtype != "bfloat16":
        return array.astype(np.dtype(dtype).newbyteorder("<")).tobytes()
    bits = array.astype("<f4").view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
