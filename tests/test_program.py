"""Program: identity by content, immutability, metadata in the Input node."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
import pytest

from rsc.errors import InputRefused, MalformedFile, UsageError
from rsc.program import METADATA_KEY, EncoderSpec, Program, Semantics


def graph(weight: float = 1.0, order: int = 1) -> nir.NIRGraph:
    nodes = {
        "input": nir.Input({"input": np.array([2])}),
        "fc": nir.Affine(np.full((3, 2), weight, np.float32), np.zeros(3, np.float32)),
        "lif": nir.LIF(*(np.full(3, v) for v in (2e-3, 2.0, 0.0, 1.0))),
        "output": nir.Output({"output": np.array([3])}),
    }
    edges = [("input", "fc"), ("fc", "lif"), ("lif", "output")]
    return nir.NIRGraph(dict(list(nodes.items())[::order]), edges[::order])


def program(**changes: object) -> Program:
    fields = {
        "graph": graph(),
        "semantics": Semantics(dt=1e-3),
        "encoder": EncoderSpec("rsc2", 4, 0.5),
        "bounds": (0.0, 1.0),
        "labels": ("a", "b", "c"),
    }
    return Program(**(fields | changes))  # type: ignore[arg-type]


def test_digest_ignores_the_order_of_nodes_and_edges() -> None:
    assert program().digest == program(graph=graph(order=-1)).digest
    assert program() == program(graph=graph(order=-1))
    assert hash(program()) == hash(program(graph=graph(order=-1)))


@pytest.mark.parametrize(
    "change",
    [
        {"graph": graph(1.0000001)},
        {"semantics": Semantics(dt=1e-4)},
        {"encoder": EncoderSpec("rsc1", 4, 0.5)},
        {"bounds": (0.0, 2.0)},
        {"labels": ("a", "b", "x")},
    ],
)
def test_digest_sees_every_part(change: dict[str, object]) -> None:
    assert program().digest != program(**change).digest


def test_arrays_cannot_be_changed() -> None:
    mine: Any = graph()
    p: Any = program(graph=mine)
    with pytest.raises(ValueError, match="read-only"):
        p.graph.nodes["fc"].weight[0, 0] = 5
    mine.nodes["fc"].weight[0, 0] = 5
    assert p.graph.nodes["fc"].weight[0, 0] == 1


def test_metadata_rides_in_the_input_node_and_survives_a_file(tmp_path) -> None:
    p = program()
    nir.write(str(tmp_path / "p.nir"), p.to_graph())
    read = nir.read(str(tmp_path / "p.nir"))
    assert METADATA_KEY in read.nodes["input"].metadata
    again = Program.from_graph(read)
    assert again == p
    assert again.encoder == p.encoder
    assert again.labels == p.labels


def test_a_graph_without_metadata_needs_a_time_step() -> None:
    with pytest.raises(InputRefused, match="dt"):
        Program.from_graph(graph())
    assert Program.from_graph(graph(), semantics=Semantics(dt=1e-4)).encoder is None


def test_broken_metadata_is_named() -> None:
    bad = program().to_graph()
    bad.nodes["input"].metadata[METADATA_KEY] = '{"semantics": {"dt": -1}}'
    with pytest.raises((MalformedFile, UsageError)):
        Program.from_graph(bad)
    bad.nodes["input"].metadata[METADATA_KEY] = '{"semantics": {"dt": 1}, "surprise": 1}'
    with pytest.raises(MalformedFile, match="surprise"):
        Program.from_graph(bad)


def test_nonsense_is_refused() -> None:
    with pytest.raises(UsageError, match="dt"):
        Semantics(dt=0)
    with pytest.raises(UsageError, match="bounds"):
        program(bounds=(1.0, 0.0))
