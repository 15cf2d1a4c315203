"""ONNX files that lie, reach out or ask for the world are refused before ONNX Runtime sees them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper
from rule_networks import DT, chain, lif
from test_onnx_export import SPECS, convolutional

from rsc.errors import InputRefused, MalformedFile
from rsc.export.onnx import OnnxForm, to_onnx
from rsc.export.onnx_reader import OPERATORS, OnnxLimits, parse_onnx, read_onnx
from rsc.program import Program, Semantics


@pytest.fixture
def model() -> ModelProto:
    return to_onnx(convolutional(SPECS["rsc2"]), OnnxForm(feed="graph", votes=3, counts=True))


def test_every_model_of_ours_is_read_as_it_was_written(tmp_path: Path) -> None:
    for arithmetic in ("float32", "float64", "float16", "bfloat16", "integer"):
        written = to_onnx(convolutional(SPECS["bernoulli"]), OnnxForm(arithmetic, "noise", 2, counts=True))  # type: ignore[arg-type]
        onnx.save(written, tmp_path / "model.onnx")
        assert read_onnx(tmp_path / "model.onnx") == written


def external(model: ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"


def half_external(model: ModelProto) -> None:
    entry = model.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def external_inside(model: ModelProto) -> None:
    step = next(node for node in model.graph.node if node.op_type == "Scan")
    body = next(attribute.g for attribute in step.attribute if attribute.name == "body")
    tensor = body.initializer.add()
    tensor.name, tensor.data_type, tensor.data_location = "inner", TensorProto.FLOAT, TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "secret"


def custom(model: ModelProto) -> None:
    model.graph.node[0].domain = "com.evil"


def custom_domain(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.evil", 1))


def other_operator(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Loop", ["a", "b"], ["c"]))


def function(model: ModelProto) -> None:
    model.functions.add().name = "f"


def vast_tensor(model: ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [1 << 40, 1 << 40]


def negative_tensor(model: ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [-4]


def vast_expansion(model: ModelProto) -> None:
    shape = helper.make_tensor("vast", TensorProto.INT64, [2], [1 << 30, 1 << 30])
    model.graph.initializer.append(shape)
    node = next(node for node in model.graph.node if node.op_type == "ConstantOfShape")
    node.input[0] = "vast"


def vast_input(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1 << 50


def vast_padding(model: ModelProto) -> None:
    ends = helper.make_tensor("vast", TensorProto.INT64, [8], [0, 0, 0, 0, 0, 0, 1 << 30, 1 << 30])
    model.graph.initializer.append(ends)
    place, node = next((i, n) for i, n in enumerate(model.graph.node) if n.op_type == "Conv")
    padding = helper.make_node("Pad", [node.input[0], "vast"], ["padded"])
    node.input[0] = "padded"
    model.graph.node.insert(place, padding)


def endless(model: ModelProto) -> None:
    steps = next(tensor for tensor in model.graph.initializer if tensor.name == "steps")
    steps.raw_data = np.array([1 << 40], "<i8").tobytes()


def nested(model: ModelProto) -> None:
    graph = model.graph
    for _ in range(12):
        inner = helper.make_graph([], "g", [], [])
        graph.node.append(helper.make_node("Scan", [], ["x"], body=inner, num_scan_inputs=1))
        graph = graph.node[-1].attribute[0].g if graph.node[-1].attribute[0].HasField("g") else graph


REFUSED: dict[str, tuple[Callable[[ModelProto], None], str]] = {
    "data in another file": (external, "another file"),
    "data here and in another file": (half_external, "another file"),
    "data in another file inside a Scan": (external_inside, "another file"),
    "an operator of another domain": (custom, "com.evil"),
    "another domain": (custom_domain, "com.evil"),
    "an operator that we do not write": (other_operator, "Loop"),
    "functions": (function, "functions"),
    "a tensor beyond memory": (vast_tensor, "shape"),
    "a negative shape": (negative_tensor, "shape"),
    "an expansion beyond memory": (vast_expansion, "shape"),
    "an input beyond memory": (vast_input, "shape"),
    "a padding beyond memory": (vast_padding, "shape"),
    "steps without end": (endless, "steps"),
    "graphs in graphs": (nested, "nested"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_models_are_refused_with_the_reason(name: str, model: ModelProto) -> None:
    change, said = REFUSED[name]
    change(model)
    with pytest.raises(InputRefused, match=said):
        parse_onnx(model.SerializeToString())


def test_bytes_that_do_not_fit_the_shape_are_malformed(model: ModelProto) -> None:
    tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    tensor.raw_data = tensor.raw_data[:-4]
    with pytest.raises(MalformedFile, match="contradicts"):
        parse_onnx(model.SerializeToString())


def test_a_graph_that_contradicts_itself_is_malformed(model: ModelProto) -> None:
    model.graph.node[-1].input[0] = "nowhere"
    with pytest.raises(MalformedFile, match="no valid ONNX"):
        parse_onnx(model.SerializeToString())


@pytest.mark.parametrize("data", [b"\x00", b"not a model", b"\x89HDF\r\n" * 100, b""])
def test_what_is_no_onnx_is_malformed(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(MalformedFile):
        read_onnx(tmp_path / "model.onnx")


def test_truncated_and_damaged_files_never_crash_the_reader() -> None:
    data = to_onnx(Program(chain(lif()), Semantics(DT))).SerializeToString()
    rng = np.random.default_rng(0)
    for _ in range(150):
        broken = bytearray(data[: rng.integers(1, len(data) + 1)])
        for at in rng.integers(0, len(broken), 3):
            broken[at] = rng.integers(0, 256)
        with contextlib.suppress(InputRefused):
            parse_onnx(bytes(broken))


def test_large_files_and_missing_ones_are_refused(tmp_path: Path, model: ModelProto) -> None:
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(InputRefused, match="more than"):
        read_onnx(tmp_path / "model.onnx", OnnxLimits(file_bytes=1000))
    with pytest.raises(InputRefused, match="cannot be read"):
        read_onnx(tmp_path / "absent.onnx")


def test_no_operator_outside_of_the_list_is_ever_written() -> None:
    assert "Loop" not in OPERATORS
    assert "If" not in OPERATORS
