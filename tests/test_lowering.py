"""The layered form in floating point does what the program does: every spike, membrane and output."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent / "conformance"))

import lava_listing
from loihi_lava import REFUSED
from random_graphs import FIRING, programs
from random_graphs import frames as drawn_frames
from table import CASES

from rsc.export.loihi import lower
from rsc.export.synapses import float_layers
from rsc.hw_targets import deploy
from rsc.layered import LayeredProgram
from rsc.program import Program
from rsc.results import Probe


def outputs(layered: LayeredProgram, traces: Mapping[str, lava_listing.Trace]) -> dict[str, np.ndarray]:
    """Values [T, B, ...] of every Output, from the traces of a floating-point run."""
    layers = layered.by_name
    found: dict[str, Any] = {}
    for output, terms in layered.outputs:
        for name in terms:
            layer, trace = layers[name], traces[name]
            value = trace.s.astype(float)
            if layer.readout == "state":
                value = trace.v + layer.offset
            elif layer.readout == "sum":
                value = np.diff(trace.v, axis=0, prepend=0.0)
            found[output] = found.get(output, 0) + value
    return found


def check(program: Program, x: Any) -> None:
    """Against the reference: every spike, membrane and output."""
    layered = lower(program, "float")
    named = x if isinstance(x, Mapping) else {program.inputs[0]: x}
    traces = lava_listing.run(layered, lava_listing.payloads(layered, named))
    with deploy(program, "reference") as model:
        expected = model.run_frames(named, Probe.everything(program.node_names))
    assert {layer.name for layer in layered.layers} >= set(expected.spikes.rasters) - set(program.inputs)
    for layer in layered.layers:
        if layer.name in expected.spikes.rasters:
            np.testing.assert_array_equal(traces[layer.name].s, expected.spikes.rasters[layer.name])
        v = expected.spikes.states.get(f"{layer.name}.v")
        if v is not None:
            np.testing.assert_allclose(
                traces[layer.name].v + layer.offset, v, atol=1e-9 * max(1, np.abs(v).max())
            )
    for name, value in outputs(layered, traces).items():
        scale = max(1.0, float(np.abs(expected.outputs[name]).max()))
        np.testing.assert_allclose(value, expected.outputs[name], atol=1e-9 * scale)


@pytest.mark.parametrize("name", [name for name in CASES if name not in REFUSED])
def test_the_layered_form_is_the_program(name: str) -> None:
    case = CASES[name]
    check(Program(case.graph, case.semantics), case.frames)


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_loihi_form_is_said(name: str) -> None:
    case = CASES[name]
    layered, issues = float_layers(Program(case.graph, case.semantics))
    assert layered is None
    assert any(REFUSED[name].said in issue.what for issue in issues), issues
    assert all(issue.fix for issue in issues)


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much]
)
@given(st.data())
def test_random_graphs(data: st.DataObject) -> None:
    """Not those that a rule of Lava's neurons forbids, nor loops that it cannot turn in time."""
    program = data.draw(programs(plain=data.draw(st.booleans()), kinds=FIRING))
    layered, issues = float_layers(program)
    if layered is None:
        assert all(issue.what and issue.fix for issue in issues)
        assume(False)
    check(program, data.draw(drawn_frames(program)))
