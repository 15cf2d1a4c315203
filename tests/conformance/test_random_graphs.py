"""Targets on random graphs: equal to the reference, and to themselves reordered, cut and saved.

Graphs that a third party's target refuses are passed over.
"""

from __future__ import annotations

import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nir
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import FIRING, STEPS, frames, programs
from third_party import GIVEN, deployed, exact, under_test

from rsc.errors import UnsupportedNode
from rsc.export.reader import read_program
from rsc.export.writer import write_program
from rsc.program import Program
from rsc.results import Probe, RunResult

EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True)


SPECS = under_test("reference", "torch:float64", "onnxruntime:float64")


def recorded(program: Program, spec: str, x: np.ndarray) -> RunResult | None:
    """A run with all that can be recorded, None where somebody else's target refuses the program."""
    try:
        with deployed(program, spec) as model:
            return model.run_frames(x, Probe.everything(program.node_names))
    except UnsupportedNode:
        if not GIVEN:
            raise
        return None


def arrays(result: RunResult | None, names: dict[str, str] | None = None) -> dict[str, np.ndarray]:
    """Everything a run returned, under renamed nodes."""
    if result is None:
        return {}
    kinds = {"out": result.outputs, "n": result.spikes.counts, "z": result.spikes.rasters}
    found = {
        f"{kind} {(names or {}).get(k, k)}": v for kind, values in kinds.items() for k, v in values.items()
    }
    for key, value in result.spikes.states.items():
        node, state = key.rsplit(".", 1)
        found[f"{state} {(names or {}).get(node, node)}"] = value
    return found


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray], spec: str = "reference") -> None:
    """Equal to the last bit in float64; in other arithmetics close, in what both recorded."""
    if not GIVEN:
        assert set(a) == set(b)
    for key in set(a) & set(b):
        if exact(spec):
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)
        else:
            scale = max(1.0, float(np.abs(a[key]).max()))
            np.testing.assert_allclose(a[key], b[key], rtol=0, atol=1e-4 * scale, err_msg=key)


@EXAMPLES
@given(st.data())
def test_a_target_equals_the_reference_bit_by_bit(data: st.DataObject) -> None:
    program = data.draw(programs(plain=bool(GIVEN)))
    x = data.draw(frames(program))
    expected = arrays(recorded(program, "reference", x))
    for spec in SPECS:
        if spec != "reference":
            same(expected, arrays(recorded(program, spec, x)), spec)


@pytest.mark.ours
@EXAMPLES
@given(st.data())
def test_single_precision_follows_the_reference_as_far_as_dyadic_numbers_go(data: st.DataObject) -> None:
    """A few bits each keep six steps exact in float32, too."""
    program = data.draw(programs(plain=True))
    x = data.draw(frames(program))
    same(arrays(recorded(program, "reference", x)), arrays(recorded(program, "torch:float32", x)), "torch")


@pytest.mark.ours
@EXAMPLES
@given(st.data())
def test_norse_equals_the_reference_bit_by_bit(data: st.DataObject) -> None:
    program = data.draw(programs(plain=True, kinds=FIRING, others=("linear", "affine", "scale")))
    x = data.draw(frames(program))
    same(arrays(recorded(program, "reference", x)), arrays(recorded(program, "norse", x)), "norse")


@EXAMPLES
@given(st.data())
def test_names_and_the_order_of_nodes_and_edges_do_not_matter(data: st.DataObject) -> None:
    program = data.draw(programs(plain=bool(GIVEN)))
    x = data.draw(frames(program))
    names = {"input": "input", "output": "output"}
    inner = [name for name in program.node_names if name not in names]
    names |= dict(zip(inner, _shuffled([f"x{i}" for i in range(len(inner))], data), strict=True))
    nodes = {names[k]: program.graph.nodes[k] for k in _shuffled(list(program.graph.nodes), data)}
    edges = _shuffled([(names[a], names[b]) for a, b in program.graph.edges], data)
    other = Program(nir.NIRGraph(nodes, edges, type_check=False), program.semantics)
    for spec in SPECS:
        same(arrays(recorded(program, spec, x), names), arrays(recorded(other, spec, x)), spec)


def _shuffled(items: Any, data: st.DataObject) -> list[Any]:
    items = list(items)
    random.Random(data.draw(st.integers(0, 99))).shuffle(items)
    return items


@EXAMPLES
@given(st.data())
def test_a_recording_in_chunks_gives_what_it_gives_whole(data: st.DataObject) -> None:
    program = data.draw(programs(plain=bool(GIVEN)))
    x = data.draw(frames(program))
    cut = data.draw(st.integers(1, STEPS - 1))
    for spec in SPECS:
        try:
            model: Any = deployed(program, spec)
        except UnsupportedNode:
            assert GIVEN
            continue
        if not hasattr(model, "run_state"):
            continue
        whole, _ = model.run_state({"input": x})
        first, state = model.run_state({"input": x[:cut]})
        second, _ = model.run_state({"input": x[cut:]}, state)
        joined = np.concatenate([first.outputs["output"], second.outputs["output"]])
        same({"out": whole.outputs["output"]}, {"out": joined}, spec)
        for name, count in whole.spikes.counts.items():
            np.testing.assert_array_equal(first.spikes.counts[name] + second.spikes.counts[name], count)


@settings(EXAMPLES, max_examples=20)
@given(st.data())
def test_writing_and_reading_change_nothing(data: st.DataObject) -> None:
    program = data.draw(programs(plain=bool(GIVEN)))
    x = data.draw(frames(program))
    with TemporaryDirectory() as folder:
        nir.write(Path(folder) / "plain.nir", program.to_graph())
        write_program(program, Path(folder) / "ours.nir")
        plain = Program.from_graph(nir.read(Path(folder) / "plain.nir", type_check=False))
        ours = read_program(Path(folder) / "ours.nir")
        again = Program.from_graph(nir.read(Path(folder) / "ours.nir", type_check=False))
    assert {plain.digest, ours.digest, again.digest} == {program.digest}
    for spec in SPECS:
        same(arrays(recorded(program, spec, x)), arrays(recorded(ours, spec, x)), spec)
