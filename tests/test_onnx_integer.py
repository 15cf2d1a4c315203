"""The integer ONNX graph against target `loihi`: every spike, u, v and saturation."""

from __future__ import annotations

import warnings
from typing import Any

import lava_networks
import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from test_onnx_export import session

from rsc.export.onnx import IR_VERSION, OPSET
from rsc.export.onnx_integer import IntegerNetwork
from rsc.export.onnx_scope import Scope
from rsc.export.onnx_series import Extent, Series
from rsc.export.onnx_state import Memory
from rsc.hw_targets import deploy
from rsc.hw_targets.loihi import LoihiModel
from rsc.layered import LayeredProgram
from rsc.program import Program
from rsc.results import Probe


def model_of(layered: LayeredProgram) -> onnx.ModelProto:
    """A lowered program by itself, with everything it does as outputs."""
    s, names = Scope("float64"), frozenset(layer.name for layer in layered.layers)
    fed, extent = {}, None
    for source in layered.inputs:
        name = s.declare(f"frames.{source.name}", "float32", ("T", "B", *source.shape), "input")
        extent = extent or Extent(s.op("Shape", name, start=0, end=1), s.op("Shape", name, start=1, end=2))
        fed[source.name] = Series(source.shape, False, s.cast(name, "float64"))
    assert extent is not None
    network = IntegerNetwork(s, layered, extent, fed, Memory(False), names)
    network.build()
    found = {f"spikes.{name}": value for name, value in network.rasters.items()} | network.recorded
    found |= {f"outputs.{name}": network.series[name].long for name, _ in layered.outputs}
    found |= {f"saturated.{i}": value for i, value in enumerate(network.saturations)}
    for name, value in found.items():
        s.op("Identity", value, name=name)
        s.outputs.append(helper.make_empty_tensor_value_info(name))
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(s.graph("test"), opset_imports=opset, ir_version=IR_VERSION)


def same(layered: LayeredProgram, frames: dict[str, np.ndarray]) -> tuple[int, int]:
    """Compare; how many spikes there were, and how much saturated."""
    names = [layer.name for layer in layered.layers]
    expected = LoihiModel(None, layered, torch.device("cpu"))._steps(frames, Probe.everything(names))
    made = session(model_of(layered))
    outputs = [value.name for value in made.get_outputs()]
    found: dict[str, Any] = dict(
        zip(outputs, made.run(outputs, {f"frames.{k}": v for k, v in frames.items()}), strict=True)
    )
    for name, raster in expected.spikes.rasters.items():
        np.testing.assert_array_equal(found[f"spikes.{name}"], raster, err_msg=name)
    for key, states in expected.spikes.states.items():
        np.testing.assert_array_equal(found[key], states, err_msg=key)
    for name, values in expected.outputs.items():
        np.testing.assert_array_equal(found[f"outputs.{name}"], values, err_msg=name)
    assert sum(int(v) for k, v in found.items() if k.startswith("saturated")) == expected.saturated
    return sum(int(raster.sum()) for raster in expected.spikes.rasters.values()), expected.saturated


@pytest.mark.parametrize("part", range(4))
def test_random_layers_are_equal_where_u_wraps_and_v_saturates(part: int) -> None:
    rng, spikes, saturated = np.random.default_rng(400 + part), 0, 0
    for _ in range(12):
        layered = lava_networks.random_program(rng, "integer")
        frames = lava_networks.frames(layered, rng, 12, 2)
        found = same(layered, frames)
        spikes, saturated = spikes + found[0], saturated + found[1]
    assert spikes > 1000
    assert saturated > 0


@pytest.mark.parametrize("name", sorted(lava_networks.NETWORKS))
def test_every_kind_of_layered_program_is_equal(name: str) -> None:
    rng = np.random.default_rng(3)
    layered = lava_networks.network(name, rng)
    same(layered, lava_networks.frames(layered, rng, 10, 2))


def test_a_trained_network_is_equal_with_its_encoder(program: Program, digits: Any) -> None:
    from rsc.results import Keys

    keys = Keys(0, digits.ids)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours, theirs = (
            deploy(program, on).run(digits.images, keys) for on in ("onnxruntime:integer", "loihi")
        )
    np.testing.assert_array_equal(ours.logits, theirs.logits)
    assert set(ours.spikes.counts) == set(theirs.spikes.counts)
    for name, count in theirs.spikes.counts.items():
        np.testing.assert_array_equal(ours.spikes.counts[name], count)
    assert ours.stats.saturated == theirs.stats.saturated
    assert ours.stats.arithmetic == "integer"
