"""The float targets on random graphs: equal to each other, and to themselves reordered, cut and saved."""

from __future__ import annotations

import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nir
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import STEPS, frames, programs

from rsc.hw_targets import deploy
from rsc.program import Program
from rsc.results import Probe, RunResult

EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True)


def recorded(program: Program, spec: str, x: np.ndarray) -> RunResult:
    return deploy(program, spec).run_frames(x, Probe.everything(program.node_names))


def arrays(result: RunResult, names: dict[str, str] | None = None) -> dict[str, np.ndarray]:
    """Everything a run returned, under renamed nodes."""
    kinds = {"out": result.outputs, "n": result.spikes.counts, "z": result.spikes.rasters}
    found = {
        f"{kind} {(names or {}).get(k, k)}": v for kind, values in kinds.items() for k, v in values.items()
    }
    for key, value in result.spikes.states.items():
        node, state = key.rsplit(".", 1)
        found[f"{state} {(names or {}).get(node, node)}"] = value
    return found


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert set(a) == set(b)
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


@EXAMPLES
@given(st.data())
def test_torch_in_float64_equals_the_reference_bit_by_bit(data: st.DataObject) -> None:
    program = data.draw(programs())
    x = data.draw(frames(program))
    same(arrays(recorded(program, "reference", x)), arrays(recorded(program, "torch:float64", x)))


@EXAMPLES
@given(st.data())
def test_names_and_the_order_of_nodes_and_edges_do_not_matter(data: st.DataObject) -> None:
    program = data.draw(programs())
    x = data.draw(frames(program))
    names = dict(zip(program.node_names, _shuffled(program.node_names, data), strict=True))
    names |= {"input": "input", "output": "output"}
    inner = [name for name in program.node_names if name not in ("input", "output")]
    names |= dict(zip(inner, _shuffled([f"x{i}" for i in range(len(inner))], data), strict=True))
    nodes = {names[k]: program.graph.nodes[k] for k in _shuffled(list(program.graph.nodes), data)}
    edges = _shuffled([(names[a], names[b]) for a, b in program.graph.edges], data)
    other = Program(nir.NIRGraph(nodes, edges, type_check=False), program.semantics)
    for spec in ("reference", "torch:float64"):
        same(arrays(recorded(program, spec, x), names), arrays(recorded(other, spec, x)))


def _shuffled(items: Any, data: st.DataObject) -> list[Any]:
    items = list(items)
    random.Random(data.draw(st.integers(0, 99))).shuffle(items)
    return items


@EXAMPLES
@given(st.data())
def test_a_recording_in_chunks_gives_what_it_gives_whole(data: st.DataObject) -> None:
    program = data.draw(programs())
    x = data.draw(frames(program))
    cut = data.draw(st.integers(1, STEPS - 1))
    for spec in ("reference", "torch:float64"):
        model: Any = deploy(program, spec)
        whole, _ = model.run_state({"input": x})
        first, state = model.run_state({"input": x[:cut]})
        second, _ = model.run_state({"input": x[cut:]}, state)
        joined = np.concatenate([first.outputs["output"], second.outputs["output"]])
        np.testing.assert_array_equal(joined, whole.outputs["output"])
        for name, count in whole.spikes.counts.items():
            np.testing.assert_array_equal(first.spikes.counts[name] + second.spikes.counts[name], count)


@settings(EXAMPLES, max_examples=20)
@given(st.data())
def test_writing_and_reading_change_nothing(data: st.DataObject) -> None:
    program = data.draw(programs())
    x = data.draw(frames(program))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "graph.nir"
        nir.write(path, program.to_graph())
        again = Program.from_graph(nir.read(path, type_check=False))
    assert again.digest == program.digest
    same(arrays(recorded(program, "torch:float64", x)), arrays(recorded(again, "torch:float64", x)))
