"""Reads ONNX files that may be hostile, before ONNX Runtime sees them.

Refused: files beyond a size, data in other files (their names can leave the folder), operators that this
package does not write (custom domains, functions, control flow but Scan), tensors whose bytes do not fit
their shape, shapes that ask for absurd amounts of memory, and graphs nested or large beyond any network.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from rsc.errors import InputRefused, MalformedFile

_NAMES = """
Abs Add And ArgMax AveragePool Cast Ceil Clip Concat ConstantOfShape Conv Div Equal Exp Expand Floor
Gather GatherElements Greater GreaterOrEqual Identity Less LessOrEqual Log MatMul Max Min Mod Mul
Not OneHot Pad RandomNormalLike RandomUniformLike Range ReduceMean ReduceSum Reshape Round Scan
Shape Sign Slice Squeeze Sub Transpose Unsqueeze Where
"""
OPERATORS = frozenset(_NAMES.split())
_SHAPED = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0}  # operator -> the input that is a shape


@dataclasses.dataclass(frozen=True)
class OnnxLimits:
    """What a file may ask for.

    Fields:
        file_bytes: of the file.
        elements: of one tensor, or of one sample at one step.
        nodes: in all graphs together.
        depth: of graphs within graphs.
        steps: T, where the file says it.
        runs: K, likewise.
    """

    file_bytes: int = 2 << 30
    elements: int = 1 << 28
    nodes: int = 100_000
    depth: int = 3
    steps: int = 1 << 20
    runs: int = 1 << 16


def read_onnx(path: str | Path, limits: OnnxLimits | None = None) -> ModelProto:
    """The model in a file, checked.

    Raises:
        MalformedFile: it is no ONNX file, or contradicts itself.
        InputRefused: it is one that is not run here.
    """
    limits, path = limits or OnnxLimits(), Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(limits.file_bytes + 1)
    except OSError as error:
        raise InputRefused(f"'{path}' cannot be read.", str(error), "Check the path.") from error
    return parse_onnx(data, str(path), limits)


def parse_onnx(data: bytes, name: str = "The model", limits: OnnxLimits | None = None) -> ModelProto:
    """The model in the bytes of a file, checked; raises as `read_onnx`."""
    limits = limits or OnnxLimits()
    if len(data) > limits.file_bytes:
        raise _refused(name, f"it has more than {limits.file_bytes >> 20} MiB")
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise MalformedFile(f"{name} is no ONNX file.", str(error)[:200], "Export it again.") from error
    _check_domains(model, name)
    graphs = list(_graphs(model.graph, name, limits.depth))
    if sum(len(graph.node) for graph in graphs) > limits.nodes:
        raise _refused(name, f"it has more than {limits.nodes} nodes")
    for graph in graphs:
        _check_tensors(graph, name, limits)
        _check_nodes(graph, name, limits)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # its errors and those of shape inference have no common class
        raise MalformedFile(
            f"{name} is no valid ONNX model.", str(error)[:300], "Export it again."
        ) from error
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for graph in _graphs(inferred.graph, name, limits.depth):
        _check_shapes(graph, name, limits)
    return model


def _check_domains(model: ModelProto, name: str) -> None:
    foreign = sorted({o.domain for o in model.opset_import} - {"", "ai.onnx"})
    if foreign or len(model.functions):
        what = f"operators of '{foreign[0]}'" if foreign else "functions of its own"
        raise _refused(name, f"it uses {what}")
    if len(model.training_info):
        raise _refused(name, "it holds training graphs")


def _graphs(graph: GraphProto, name: str, depth: int) -> Iterator[GraphProto]:
    """A graph and all inside it."""
    if depth < 1:
        raise _refused(name, "its graphs are nested too deeply")
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
            for each in inner:
                yield from _graphs(each, name, depth - 1)


def _check_tensors(graph: GraphProto, name: str, limits: OnnxLimits) -> None:
    tensors = list(graph.initializer)
    if len(graph.sparse_initializer):
        raise _refused(name, "it holds sparse tensors")
    for node in graph.node:
        for attribute in node.attribute:
            tensors += [attribute.t] if attribute.HasField("t") else list(attribute.tensors)
    for tensor in tensors:
        _check_tensor(tensor, name, limits)
    defaults = {tensor.name: tensor for tensor in graph.initializer}
    for key, most in (("steps", limits.steps), ("runs", limits.runs)):
        if key in defaults and not 1 <= _values(defaults[key], name).max(initial=1) <= most:
            raise _refused(name, f"its {key} are not within 1..{most}")
    _check_shapes(graph, name, limits)


def _check_shapes(graph: GraphProto, name: str, limits: OnnxLimits) -> None:
    for info in (*graph.input, *graph.output, *graph.value_info):
        dims = [d.dim_value for d in info.type.tensor_type.shape.dim if d.HasField("dim_value")]
        if any(d < 0 for d in dims) or math.prod(dims) > limits.elements:
            raise _refused(name, f"'{info.name}' has the shape {dims}")


def _check_tensor(tensor: TensorProto, name: str, limits: OnnxLimits) -> None:
    if tensor.data_location == TensorProto.EXTERNAL or len(tensor.external_data):
        raise _refused(name, f"the data of '{tensor.name}' lie in another file")
    dims = list(tensor.dims)
    if any(d < 0 for d in dims) or math.prod(dims) > limits.elements:
        raise _refused(name, f"'{tensor.name}' has the shape {dims}")
    if tensor.HasField("raw_data"):
        try:
            width = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        except (KeyError, TypeError) as error:
            raise _refused(name, f"'{tensor.name}' has an unknown type") from error
        if len(tensor.raw_data) != width * math.prod(dims):
            raise MalformedFile(
                f"{name} contradicts itself.",
                f"'{tensor.name}' has the shape {dims} and {len(tensor.raw_data)} bytes.",
                "Export it again.",
            )


def _check_nodes(graph: GraphProto, name: str, limits: OnnxLimits) -> None:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            raise _refused(name, f"it uses the operator '{node.domain}:{node.op_type}'")
        at = _SHAPED.get(node.op_type)
        if at is None or len(node.input) <= at or node.input[at] not in constants:
            continue
        shape = [int(d) for d in _values(constants[node.input[at]], name).ravel()]
        if math.prod(abs(d) or 1 for d in shape) > limits.elements:
            raise _refused(name, f"'{node.output[0]}' is given the shape {shape}")


def _values(tensor: TensorProto, name: str) -> np.ndarray:
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise MalformedFile(f"{name} contradicts itself.", str(error)[:200], "Export it again.") from error


def properties(model: ModelProto) -> dict[str, str]:
    """Metadata properties of a model."""
    return {entry.key: entry.value for entry in model.metadata_props}


def labels(model: ModelProto) -> tuple[str, ...]:
    """Names of the classes that the metadata give; () without any.

    Raises:
        MalformedFile: the metadata are no JSON.
    """
    text = properties(model).get("rsc.program", "{}")
    try:
        found = msgspec.json.decode(text, type=dict)
        return tuple(str(label) for label in found.get("labels", ()))
    except (msgspec.DecodeError, TypeError) as error:
        raise MalformedFile("The metadata cannot be read.", str(error)[:200], "Export it again.") from error


def _refused(name: str, why: str) -> InputRefused:
    return InputRefused(
        f"{name} is not run here: {why}.", "Only models as rsc exports them are.", "Export it with rsc."
    )
