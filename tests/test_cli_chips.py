"""Chips on the command line: calibration, placement, limits, files for lava-dl."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
from test_cli import call

from rsc.export.loihi import lower
from rsc.export.netx_reader import read_netx
from rsc.export.reader import read_program
from rsc.layered import LayeredProgram
from rsc.program import Semantics

Capture = pytest.CaptureFixture[str]
RNG = np.random.default_rng(61)
DT = ("--dt", 1e-3)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """net.nir, 12-8-3, and frames.npy, spikes for it."""
    monkeypatch.chdir(tmp_path)

    def lif(n: int) -> nir.LIF:
        one: Any = np.ones(n)
        return nir.LIF(4e-3 * one, 4 * one, 0 * one, one, 0 * one)

    nodes: dict[str, Any] = {
        "input": nir.Input({"input": np.array([12])}),
        "a": nir.Affine(RNG.normal(size=(8, 12)), RNG.normal(size=8) / 9),
        "n": lif(8),
        "b": nir.Linear(RNG.normal(size=(3, 8))),
        "m": lif(3),
        "output": nir.Output({"output": np.array([3])}),
    }
    nir.write("net.nir", nir.NIRGraph(nodes, list(pairwise(nodes))))
    np.save("frames.npy", (RNG.random((20, 4, 12)) < 0.3).astype(np.float32))
    return tmp_path


@pytest.mark.parametrize("mode", ["max", "percentile", "mse", "agreement"])
def test_calibration_is_told_and_kept(mode: str, folder: Path, capsys: Capture) -> None:
    given = ("net.nir", *DT, "--input", "frames.npy", "--calibrate", mode, "--bits", 5)
    code, out, err = call(capsys, "export", *given, "--to", "loihi", "--out", "net.npz", "--json")
    assert code == 0, err
    rows = json.loads(out)
    assert [row["layer"] for row in rows] == ["n", "m"]
    assert all(row["scale"] > 0 and row["saturations"] == 0 for row in rows)
    code, out, err = call(capsys, "export", *given, "--out", "told.nir")
    assert code == 0, err
    assert "spikes differ" in out
    told = read_program("told.nir")
    assert told.quantiser is not None
    assert told.quantiser.bits == 5
    assert lower(told).digest == LayeredProgram.load("net.npz").digest
    assert all(not (c.weight % 16).any() for layer in lower(told).layers for c in layer.connections)


def test_placement_limits_and_traffic(folder: Path, capsys: Capture) -> None:
    given = ("place", "net.nir", *DT, "--input", "frames.npy", "--traffic")
    code, out, err = call(capsys, *given, "--chip", "loihi2", "--out", "cores.svg")
    assert code == 0, err
    assert "Loihi 2: 1 core on 1 chip" in out
    assert "messages in 4 samples" in out
    assert ElementTree.parse("cores.svg").getroot().tag.endswith("svg")
    code, out, err = call(capsys, *given, "--chip", "loihi1")
    assert code == 1  # the input node of a NIR graph may carry any number
    assert "spikes of Loihi 1 carry none" in err
    code, out, _ = call(capsys, "lint", "net.nir", *DT, "--for", "loihi1", "loihi2", "--json")
    assert code == 1
    found = {(f["target"], f["severity"]) for f in json.loads(out)["findings"] if f["node"] == "input"}
    assert ("loihi1", "error") in found
    assert ("loihi2", "error") not in found


def test_files_for_lava_dl(folder: Path, capsys: Capture) -> None:
    code, _, err = call(capsys, "export", "net.nir", *DT, "--to", "netx", "--out", "net.net")
    assert code == 0, err
    assert "Biases are rounded" in err
    ours = lower(read_program("net.nir", semantics=Semantics(1e-3)))
    for mine, read in zip(ours.layers, read_netx("net.net").layers, strict=True):
        assert (mine.name, mine.vth, mine.dv) == (read.name, read.vth, read.dv)
        np.testing.assert_array_equal(mine.connections[0].weight, read.connections[0].weight)
