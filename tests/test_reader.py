# pyright: reportAttributeAccessIssue=false
"""Good files of any age load as nir.read loads them; programs survive writing and reading."""

from __future__ import annotations

import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rsc.errors import InputRefused, MalformedFile, StorageError, UsageError
from rsc.export import hdf5_file
from rsc.export.reader import read_graph, read_program
from rsc.export.writer import program_bytes, write_program
from rsc.program import EncoderSpec, Program, Semantics, walk

RECORDED = Path(__file__).resolve().parents[2] / "shared" / "conformance"
SEMANTICS = Semantics(dt=1e-3)


def chain(**nodes: nir.NIRNode) -> nir.NIRGraph:
    return nir.NIRGraph(nodes, list(pairwise(nodes)), type_check=False)


def source(*shape: int) -> nir.Input:
    return nir.Input({"input": np.array(shape)})


def sink(*shape: int) -> nir.Output:
    return nir.Output({"output": np.array(shape)})


def lif(*shape: int, **changes: float) -> nir.LIF:
    values = {"tau": 2e-3, "r": 2.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0} | changes
    fields: Any = {k: np.full(shape, v) for k, v in values.items()}
    return nir.LIF(**fields)


def grouped() -> nir.NIRGraph:
    """A grouped convolution with an oblong kernel, which NIR's own type check refuses."""
    weight = np.arange(24.0).reshape(4, 1, 3, 2)
    return chain(
        input=source(2, 8, 6),
        conv=nir.Conv2d((8, 6), weight, 1, (1, 0), 1, 2, np.zeros(4)),
        lif=lif(4, 8, 5),
        pool=nir.AvgPool2d(np.array([2, 2]), np.array([2, 1]), np.array([0, 0])),
        flat=nir.Flatten(None, 0, -1),  # type: ignore[arg-type]
        fc=nir.Affine(np.ones((3, 64)), np.zeros(3)),
        output=sink(3),
    )


def same_values(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return set(a) == set(b) and all(same_values(a[k], b[k]) for k in a)
    return bool(np.array_equal(a, b))


@pytest.mark.parametrize("name", ["01_lif/lif_norse", "02_cnn/cnn_sinabs", "03_rnn/braille_noDelay_bias_zero",
                                  "misc/two_lif_neurons", "misc/norse_test_braille"])  # fmt: skip
def test_files_of_other_tools_load_as_nir_reads_them(name: str) -> None:
    path = RECORDED / f"{name}.nir"
    if not path.exists():
        pytest.skip("recorded files of other tools are not here (shared/conformance)")
    ours, theirs = read_graph(path), nir.read(path)
    assert sorted(ours.edges) == sorted(theirs.edges)
    assert {n: type(node) for n, node in walk(ours)} == {n: type(node) for n, node in walk(theirs)}
    for key, node in walk(theirs):
        found = dict(walk(ours))[key]
        assert same_values(vars(node), vars(found)), key


def test_a_file_of_random_values_loads_only_if_trusted() -> None:
    path = RECORDED / "misc/nirviz_srnn.nir"
    if not path.exists():
        pytest.skip("recorded files of other tools are not here (shared/conformance)")
    with pytest.raises(InputRefused, match="'tau_mem' of node 'cu1' is -1"):
        read_graph(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        graph = read_graph(path, trust=True)
    assert {"cu1", "cu2"} == {str(w.message).split("'")[3] for w in caught}
    assert graph.nodes["affine1"].bias.tolist() == [0, 0]  # the file holds one False


def test_negative_thresholds_are_warned_of(tmp_path: Path) -> None:
    graph = chain(input=source(2), lif=lif(2, v_threshold=-1.0), output=sink(2))
    with pytest.warns(UserWarning, match="'lif'"):
        write_program(Program(graph, SEMANTICS), tmp_path / "a.nir")


def test_shapes_are_right_where_nir_infers_wrong_ones(tmp_path: Path) -> None:
    program = Program(grouped(), SEMANTICS)
    write_program(program, tmp_path / "a.nir")
    graph = read_graph(tmp_path / "a.nir")
    with torch.no_grad():
        x = torch.zeros(1, 2, 8, 6)
        conv = torch.nn.functional.conv2d(x, torch.zeros(4, 1, 3, 2), padding=(1, 0), groups=2)
        pool = torch.nn.functional.avg_pool2d(conv, 2, (2, 1))
    assert graph.nodes["conv"].output_type["output"].tolist() == list(conv.shape[1:])
    assert graph.nodes["pool"].output_type["output"].tolist() == list(pool.shape[1:])
    assert nir.read(tmp_path / "a.nir", type_check=False).nodes["conv"].groups == 2


def test_programs_survive_with_everything_they_carry(tmp_path: Path) -> None:
    encoder = EncoderSpec("rsc2", 4, 0.1, (0.0, 1.0), (0.5, 0.5), (0.2, 0.3))
    program = Program(grouped(), SEMANTICS, encoder, (0.0, 1.0), ("cat", "dög", "<b>"))
    write_program(program, tmp_path / "a.nir")
    found = read_program(tmp_path / "a.nir")
    assert found == program
    assert (found.encoder, found.semantics, found.bounds, found.labels) == (
        encoder, SEMANTICS, program.bounds, program.labels)  # fmt: skip
    write_program(found, tmp_path / "b.nir")
    assert read_program(tmp_path / "b.nir").digest == program.digest
    other = read_program(tmp_path / "a.nir", semantics=Semantics(dt=1e-4))
    assert other.semantics.dt == 1e-4


def test_nested_graphs_metadata_and_every_primitive_survive(tmp_path: Path) -> None:
    v: Any = np.array([1.0, 2.0])
    inner = chain(input=source(2), fc=nir.Linear(np.eye(2)), output=sink(2))
    nodes = {
        "input": source(2),
        "inner": inner,
        "scale": nir.Scale(v),
        "delay": nir.Delay(v * 1e-3),
        "i": nir.I(v),
        "threshold": nir.Threshold(v),
        "if": nir.IF(v, v),
        "li": nir.LI(v, v, v),
        "cubali": nir.CubaLI(v, v, v, v),
        "cubalif": nir.CubaLIF(v, v, v, v, v, w_in=np.array([3.0, 4.0])),
        "a.b <&>": nir.Affine(np.eye(2, dtype=np.int8), np.zeros(2)),
        "output": sink(2),
    }
    nodes["li"].metadata = {"text": "ü", "n": 3, "array": v, "deep": {"x": 1.5}, "words": ["a", "b"]}
    program = Program(chain(**nodes), SEMANTICS)
    write_program(program, tmp_path / "a.nir")
    found = read_graph(tmp_path / "a.nir")
    assert Program(found, SEMANTICS) == program
    assert same_values(found.nodes["li"].metadata, nodes["li"].metadata)
    assert found.nodes["a.b <&>"].weight.dtype == np.int8
    assert set(nir.read(tmp_path / "a.nir").nodes) == set(nodes)


def test_missing_ends_are_added_as_nir_does(tmp_path: Path) -> None:
    graph = chain(fc=nir.Linear(np.eye(2)), lif=lif(2))
    nir.write(tmp_path / "a.nir", graph)
    ours, theirs = read_graph(tmp_path / "a.nir"), nir.read(tmp_path / "a.nir")
    assert set(ours.nodes) == set(theirs.nodes) == {"fc", "lif", "input_fc", "output_lif"}
    assert sorted(ours.edges) == sorted(theirs.edges)


def test_recurrent_graphs_load(tmp_path: Path) -> None:
    nodes = {"input": source(2), "lif": lif(2), "w": nir.Linear(np.eye(2)), "output": sink(2)}
    edges = [("input", "lif"), ("lif", "w"), ("w", "lif"), ("lif", "output")]
    program = Program(nir.NIRGraph(nodes, edges), SEMANTICS)
    write_program(program, tmp_path / "a.nir")
    assert read_program(tmp_path / "a.nir") == program


@given(
    widths=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    bits=st.sampled_from([np.float32, np.float64, np.int8]),
    seed=st.integers(0, 99),
    text=st.text(max_size=5),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_chain_survives(tmp_path: Path, widths: list[int], bits: type, seed: int, text: str) -> None:
    rng = np.random.default_rng(seed)
    nodes: dict[str, nir.NIRNode] = {"input": source(widths[0])}
    for i, (n, m) in enumerate(pairwise(widths)):
        nodes[f"fc{i}"] = nir.Affine(rng.integers(-9, 9, (m, n)).astype(bits), rng.normal(size=m))
        nodes[f"lif{i}"] = lif(m, tau=rng.uniform(1e-3, 1))
    program = Program(chain(**nodes, output=sink(widths[-1])), SEMANTICS, labels=(text,))
    (tmp_path / "a.nir").write_bytes(program_bytes(program))
    found = read_program(tmp_path / "a.nir", verified=True)
    assert found.digest == program.digest
    assert Program.from_graph(nir.read(tmp_path / "a.nir")).digest == program.digest


def test_a_verified_file_is_checked_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.nir"
    path.write_bytes(program_bytes(Program(grouped(), SEMANTICS)))
    with h5py.File(path, "r+") as file:
        file["node/nodes/lif/tau"][...] = np.nan  # type: ignore[index]
    for verified in (False, True):
        with pytest.raises(InputRefused, match="'tau' of node 'lif'"):
            read_program(path, verified=verified)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(MalformedFile):
        read_program(path, verified=True)


def test_a_file_without_a_time_step_needs_one(tmp_path: Path) -> None:
    nir.write(tmp_path / "a.nir", chain(input=source(2), lif=lif(2), output=sink(2)))
    with pytest.raises(InputRefused, match="time step"):
        read_program(tmp_path / "a.nir")
    assert read_program(tmp_path / "a.nir", semantics=SEMANTICS).encoder is None


def test_names_and_metadata_that_hdf5_cannot_hold_are_refused(tmp_path: Path) -> None:
    graph = nir.NIRGraph({"in": source(2), "a/b": sink(2)}, [("in", "a/b")], type_check=False)
    with pytest.raises(UsageError, match="a/b"):
        program_bytes(Program(graph, SEMANTICS))
    graph = chain(input=source(2), output=sink(2))
    graph.nodes["output"].metadata = {"x": None}
    with pytest.raises(UsageError, match="metadata"):
        program_bytes(Program(graph, SEMANTICS))


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.nir"
    write_program(Program(grouped(), SEMANTICS), path)
    before = path.read_bytes()
    bad = chain(input=source(2), lif=lif(2, r=np.nan), output=sink(2))
    with pytest.raises(InputRefused, match="lif"):
        write_program(Program(bad, SEMANTICS), path)
    with pytest.raises(StorageError):
        write_program(Program(grouped(), SEMANTICS), tmp_path / "absent" / "a.nir")
    assert path.read_bytes() == before


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    write_program(Program(grouped(), SEMANTICS), tmp_path / "a.nir")
    code = f"""
import sys
from rsc.export.reader import read_program
read_program({str(tmp_path / "a.nir")!r})
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_uncompressed_and_big_endian_arrays_load(tmp_path: Path) -> None:
    path = tmp_path / "a.nir"
    write_program(Program(grouped(), SEMANTICS), path)
    with h5py.File(path, "r+") as file:
        del file["node/nodes/fc/weight"]
        file["node/nodes/fc/weight"] = np.full((3, 64), 0.5, ">f8")
    weight = read_graph(path).nodes["fc"].weight
    assert weight.dtype == np.dtype("=f8")
    assert (weight == 0.5).all()


def test_files_of_many_nodes_need_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = {"input": source(2), **{f"n{i}": lif(2) for i in range(500)}, "output": sink(2)}
    nir.write(tmp_path / "a.nir", chain(**nodes))
    monkeypatch.setattr(hdf5_file, "address_space", lambda size: 300 << 20)
    assert len(read_graph(tmp_path / "a.nir").nodes) == 502
    monkeypatch.setattr(hdf5_file, "address_space", lambda size: 60 << 20)
    with pytest.raises(MalformedFile):
        read_graph(tmp_path / "a.nir")


@pytest.mark.parametrize("size", [1, 32])
def test_a_batch_axis_of_any_size_is_taken_off_ports(size: int, tmp_path: Path) -> None:
    nodes = {
        "input": source(size, 2, 6, 6),
        "conv": nir.Conv2d((6, 6), np.ones((3, 2, 3, 3)), 1, 0, 1, 1, np.zeros(3)),
        "lif": lif(3, 4, 4),
        "output": sink(size, 3, 4, 4),
    }
    nir.write(tmp_path / "a.nir", chain(**nodes))
    with pytest.warns(UserWarning, match="batch axis"):
        graph = read_graph(tmp_path / "a.nir")
    assert graph.nodes["input"].input_type["input"].tolist() == [2, 6, 6]
    assert graph.nodes["output"].output_type["output"].tolist() == [3, 4, 4]


def test_programs_keep_axes_that_could_be_a_batch(tmp_path: Path) -> None:
    """Weights over the last axis, and neurons with a parameter for all channels."""
    one: Any = np.ones((1, 3))
    nodes = {
        "input": source(32, 2),
        "fc": nir.Linear(np.ones((3, 2))),
        "i": nir.I(one),
        "output": sink(32, 3),
    }
    program = Program(chain(**nodes), SEMANTICS)
    write_program(program, tmp_path / "a.nir")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_program(tmp_path / "a.nir")
    assert found == program
    assert found.graph.nodes["i"].output_type["output"].tolist() == [32, 3]


def test_one_bias_for_all_outputs_is_the_same_written_out() -> None:
    graphs = [
        chain(input=source(2), fc=nir.Affine(np.eye(2, dtype=np.int8), bias), output=sink(2))  # type: ignore[arg-type]
        for bias in (np.array(0.5), np.array([0.5, 0.5]))
    ]
    scalar, full = (Program(graph, SEMANTICS) for graph in graphs)
    assert scalar == full
    none = chain(input=source(2), fc=nir.Affine(np.eye(2), None), output=sink(2))  # type: ignore[arg-type]
    assert Program(none, SEMANTICS).graph.nodes["fc"].bias.tolist() == [0, 0]
