"""Whatever bytes a .nir file holds: a graph or an RscError, never a crash, a hang or another file's content.

`RSC_HOSTILE_FLIPS` sets the number of damaged files (default 300; the full set is 2000).
"""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest

from rsc.errors import InputRefused, MalformedFile, RscError, UnsupportedNode
from rsc.export import hdf5_child, hdf5_file
from rsc.export.build import build_graph
from rsc.export.reader import read_graph, read_program
from rsc.export.writer import write_program
from rsc.program import Program, Semantics

FLIPS = int(os.environ.get("RSC_HOSTILE_FLIPS", "300"))


def sample(path: Path, n: int = 64) -> Path:
    """A Linear and LIF file of some 30 kB."""
    rng = np.random.default_rng(0)
    lif: Any = {k: rng.uniform(0.1, 1, n) for k in ("tau", "r", "v_leak", "v_threshold", "v_reset")}
    nodes = {
        "input": nir.Input({"input": np.array([n])}),
        "fc": nir.Linear(rng.normal(size=(n, n)).astype(np.float32)),
        "lif": nir.LIF(**lif),
        "output": nir.Output({"output": np.array([n])}),
    }
    names = list(nodes)
    nir.write(path, nir.NIRGraph(nodes, list(itertools.pairwise(names))))
    return path


def edited(path: Path, change: Callable[[h5py.File], object]) -> Path:
    sample(path)
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def replaced(name: str, value: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value

    return change


def declare(shape: tuple[int, ...]) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file["node/nodes/fc/weight"]
        file.create_dataset("node/nodes/fc/weight", shape, "f8", chunks=(1000, 1000), compression="gzip")

    return change


def read_here(path: Path) -> nir.NIRGraph:
    """As `read_graph`, without the process around it, which is quicker."""
    out = io.BytesIO()
    image = path.read_bytes()
    hdf5_child.answer(image, hdf5_file.declared_limit(len(image)), out)
    return build_graph(hdf5_file.tree_of_answer(path, bytearray(out.getvalue())))


def refused(path: Path, error: type[RscError] = InputRefused, isolated: bool = True) -> RscError:
    with pytest.raises(error) as caught:
        (read_graph if isolated else read_here)(path)
    assert caught.value.what
    return caught.value


@pytest.mark.parametrize("shape", [(20_000, 20_000), (1_000_000, 1_000_000)])
def test_huge_declared_arrays_are_refused_before_they_are_read(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    path = edited(tmp_path / "a.nir", declare(shape))
    assert path.stat().st_size < 60_000
    error = refused(path)
    assert "fc/weight" in str(error)
    assert "trust" in error.fix


def test_external_storage_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(64 * 64 * 4))

    def change(file: h5py.File) -> None:
        del file["node/nodes/fc/weight"]
        external = [(str(secret), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("node/nodes/fc/weight", (64, 64), "f4", external=external)

    assert "external storage" in str(refused(edited(tmp_path / "a.nir", change)))


def test_virtual_data_sets_are_refused(tmp_path: Path) -> None:
    other = sample(tmp_path / "other.nir")

    def change(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((64, 64), "f4")
        layout[:] = h5py.VirtualSource(other, "node/nodes/fc/weight", (64, 64))
        del file["node/nodes/fc/weight"]
        file.create_virtual_dataset("node/nodes/fc/weight", layout)

    assert "virtual" in str(refused(edited(tmp_path / "a.nir", change)))


@pytest.mark.parametrize("where", ["node/nodes/fc", "node/nodes/fc/weight", "node/nodes"])
def test_links_to_other_files_and_places_are_refused(tmp_path: Path, where: str) -> None:
    other = sample(tmp_path / "other.nir")
    for link in (h5py.ExternalLink(str(other), where), h5py.SoftLink("/node/nodes/lif")):
        assert "link" in str(refused(edited(tmp_path / "a.nir", replaced(where, link)), isolated=False))
    assert "link" in str(refused(tmp_path / "a.nir"))


def test_groups_that_contain_themselves_are_refused(tmp_path: Path) -> None:
    def hard(file: h5py.File) -> None:
        file["node/nodes/fc/metadata"] = file["node/nodes"]

    assert "twice" in str(refused(edited(tmp_path / "a.nir", hard), isolated=False))


def test_too_many_nodes_and_too_deep_graphs_are_refused(tmp_path: Path) -> None:
    def many(file: h5py.File) -> None:
        for i in range(hdf5_child.MAX_NODES):
            file["node/nodes"].create_group(f"n{i}")  # type: ignore[union-attr]

    def deep(file: h5py.File) -> None:
        file.create_group("node" + "/nodes/g" * 17)

    assert "too large" in str(refused(edited(tmp_path / "a.nir", many), isolated=False))
    assert "deep" in str(refused(edited(tmp_path / "b.nir", deep), isolated=False))


def test_unknown_types_and_fields_are_named(tmp_path: Path) -> None:
    error = refused(edited(tmp_path / "a.nir", replaced("node/nodes/fc/type", "Lif")), UnsupportedNode)
    assert "'fc'" in str(error)
    assert "'Lif'" in str(error)
    error = refused(edited(tmp_path / "b.nir", replaced("node/nodes/fc/gain", 1.0)), MalformedFile, False)
    assert "gain" in str(error)
    error = refused(edited(tmp_path / "c.nir", replaced("node/nodes/lif/tau", None)), MalformedFile, False)
    assert "tau" in str(error)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("fc/weight", np.full((64, 64), np.nan), "finite"),
        ("lif/tau", np.full(64, -1.0), "tau"),
        ("lif/tau", np.zeros(64), "tau"),
        ("lif/tau", np.ones(63), "differ in shape"),
        ("lif/r", np.full(64, np.inf), "finite"),
        ("lif/r", "text", "not a number"),
        ("lif/r", np.ones(64, np.complex128), "complex"),
        ("fc/weight", np.ones((64, 65), np.float32), "does not fit"),
        ("fc/weight", np.ones(64, np.float32), "[out, in]"),
        ("input/shape", np.array([-64]), "positive"),
        ("input/shape", np.array([2**62, 4]), "too large"),
        ("input/metadata", 3, "no group"),
        ("lif/type", np.array([1, 2]), "no type"),
    ],
)
def test_impossible_values_are_refused_by_name(tmp_path: Path, name: str, value: object, said: str) -> None:
    error = refused(edited(tmp_path / "a.nir", replaced(f"node/nodes/{name}", value)), isolated=False)
    assert said in str(error)
    assert name.partition("/")[0] in str(error) or "/" in str(error)


@pytest.mark.parametrize(
    "edges",
    [
        [("input", "fc"), ("fc", "lif"), ("lif", "nowhere")],
        [("input", "fc"), ("fc", "lif"), ("lif", "output"), ("lif", "output")],
        [("input", "fc"), ("fc", "lif"), ("output", "lif")],
        [("a", "b", "c")],
    ],
)
def test_wrong_edges_are_refused(tmp_path: Path, edges: list[tuple[str, ...]]) -> None:
    refused(edited(tmp_path / "a.nir", replaced("node/edges", edges)), MalformedFile, False)


def test_foreign_filters_are_refused(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        del file["node/nodes/fc/weight"]
        file.create_dataset("node/nodes/fc/weight", data=np.ones((64, 64), "f4"), scaleoffset=2)

    assert "filter" in str(refused(edited(tmp_path / "a.nir", change), isolated=False))


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, 0.5, -1])
def test_truncated_files_are_malformed(tmp_path: Path, keep: float) -> None:
    body = sample(tmp_path / "a.nir").read_bytes()
    (tmp_path / "a.nir").write_bytes(body[: int(keep * len(body)) if keep == 0.5 else int(keep)])
    refused(tmp_path / "a.nir", MalformedFile)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (
        tmp_path,
        tmp_path / "absent",
        tmp_path / "pipe",
        Path("/dev/zero"),
        tmp_path / ("n" * 10_000),
    ):
        refused(path)
    with pytest.raises(InputRefused):
        read_graph("a\0b")
    (tmp_path / "text").write_text("not HDF5")
    refused(tmp_path / "text", MalformedFile)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    refused(tmp_path / "other.h5")


def test_a_hang_in_the_library_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reading process is replaced by one that never answers and ignores its alarm."""
    script = tmp_path / "hang.py"
    script.write_text("import signal, time\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\ntime.sleep(600)\n")
    monkeypatch.setattr(hdf5_child, "__file__", str(script))
    monkeypatch.setattr(hdf5_file, "SECONDS", -4)
    start = time.monotonic()
    assert "longer" in str(refused(sample(tmp_path / "a.nir"), MalformedFile))
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("import os; os.kill(os.getpid(), 11)", "signal 11"),
        (
            "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 30,) * 2)\nx = bytes(1 << 31)",
            "MemoryError",
        ),
        ("print('noise')", "broken"),
        ("pass", "broken"),
    ],
)
def test_a_crash_of_the_library_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, said: str
) -> None:
    script = tmp_path / "crash.py"
    script.write_text(body)
    monkeypatch.setattr(hdf5_child, "__file__", str(script))
    assert said in str(refused(sample(tmp_path / "a.nir"), MalformedFile))


def test_a_label_that_is_markup_stays_text(tmp_path: Path) -> None:
    graph = read_graph(sample(tmp_path / "a.nir"))
    label = "<script>alert(1)</script>"
    write_program(Program(graph, Semantics(1e-3), labels=(label, "b")), tmp_path / "b.nir")
    assert read_program(tmp_path / "b.nir").labels == (label, "b")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"semantics": {"dt": -1}}', '{"semantics": {"dt": 1}, "x": 1}', "5"]
)
def test_metadata_that_are_not_ours_are_malformed(tmp_path: Path, text: str) -> None:
    path = edited(tmp_path / "a.nir", replaced("node/nodes/input/metadata/rsc.program", text))
    with pytest.raises(MalformedFile):
        read_program(path)


def flipped(body: bytes, rng: np.random.Generator) -> bytes:
    """1 to 8 bytes replaced by random ones."""
    array = np.frombuffer(body, np.uint8).copy()
    count = int(rng.integers(1, 9))
    array[rng.integers(0, len(array), count)] = rng.integers(0, 256, count, np.uint8)
    return array.tobytes()


def test_damaged_files_end_in_a_graph_or_an_error(tmp_path: Path) -> None:
    """The reading process runs as always, but is forked per file; its answer takes the usual way."""
    body = sample(tmp_path / "a.nir").read_bytes()
    rng = np.random.default_rng(0)
    jobs = []
    for i in range(FLIPS):
        (tmp_path / f"{i}.nir").write_bytes(flipped(body, rng))
        jobs.append(f"{tmp_path}/{i}.nir\t{tmp_path}/{i}.out\n")
    limits = [str(hdf5_file.declared_limit(len(body))), str(hdf5_file.address_space(len(body))), "2"]
    command = [sys.executable, str(Path(__file__).with_name("batch.py")), hdf5_child.__file__, *limits]
    env = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    run = subprocess.run(command, input="".join(jobs), capture_output=True, text=True, env=env, timeout=280)
    assert run.returncode == 0, run.stderr
    *statuses, peak = (int(v) for v in run.stdout.split())
    assert len(statuses) == FLIPS
    assert peak < 1 << 20  # KiB
    outcomes = [outcome(tmp_path / f"{i}.nir", tmp_path / f"{i}.out", s) for i, s in enumerate(statuses)]
    assert len(outcomes) == FLIPS
    assert outcomes.count(MalformedFile) > 0
    assert outcomes.count(nir.NIRGraph) > 0


def outcome(path: Path, answer: Path, status: int) -> type:
    content = (
        bytearray(answer.read_bytes())
        if status == 0
        else hdf5_file.encode_failure(hdf5_file.describe_end(status, b""))
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return type(build_graph(hdf5_file.tree_of_answer(path, content)))
    except RscError as error:
        return type(error)
