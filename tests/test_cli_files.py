"""NIR files that never saw this package, on the command line: time steps, units, rules, several inputs."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
from test_cli import call

from rsc.export.writer import write_program
from rsc.program import Program, Semantics

DT = 5e-4
Capture = pytest.CaptureFixture[str]
FRAMES = ((np.random.default_rng(0).random((30, 2, 3)) < 0.3) * 3.5).astype(np.float32)


def lif(n: int = 3, **changes: Any) -> nir.LIF:
    values = {"tau": 10 * DT, "r": 10.0, "v_leak": 0.0, "v_threshold": 1.7, "v_reset": 0.0} | changes
    fields: Any = {key: np.full(n, value) for key, value in values.items()}
    return nir.LIF(**fields)


def chain(*nodes: Any) -> nir.NIRGraph:
    named: dict[str, Any] = {"input": nir.Input({"input": np.array([3])})}
    named |= {f"n{i}": node for i, node in enumerate(nodes)}
    named["output"] = nir.Output({"output": np.array([3])})
    return nir.NIRGraph(named, list(pairwise(named)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("frames.npy", FRAMES)
    nir.write("net.nir", chain(nir.Affine(np.eye(3), np.zeros(3)), lif()))
    return tmp_path


def ran(capsys: Capture, *arguments: object) -> tuple[dict[str, np.ndarray], str]:
    """What `rsc run` saved, and its stderr."""
    code, _, err = call(capsys, "run", *arguments, "--out", "out.npz")
    assert code == 0, err
    with np.load("out.npz") as saved:
        return dict(saved), err


def by_hand(frames: np.ndarray, alpha: float = 0.9, subtract: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Spikes and membranes of neurons with an input gain of 1 and a threshold of 1.7."""
    v, spikes, states = np.zeros(frames.shape[1:]), [], []
    for x in frames.astype(float):
        v = alpha * v + x
        spikes.append(v > 1.7)
        v = np.where(spikes[-1], v - 1.7 if subtract else 0, v)
        states.append(v)
    return np.stack(spikes), np.stack(states)


def test_a_foreign_file_runs_and_saves_what_is_asked_for(folder: Path, capsys: Capture) -> None:
    saved, err = ran(capsys, "net.nir", "--input", "frames.npy", "--dt", DT, "--probe", "n1")
    spikes, v = by_hand(FRAMES)
    assert err == ""
    np.testing.assert_array_equal(saved["output"], spikes)
    np.testing.assert_array_equal(saved["spikes/n1"], spikes)
    np.testing.assert_allclose(saved["v/n1"], v, atol=1e-12)
    np.testing.assert_array_equal(saved["counts/n1"], spikes.sum(0))


def test_without_a_time_step_it_explains(folder: Path, capsys: Capture) -> None:
    code, _, err = call(capsys, "run", "net.nir", "--input", "frames.npy")
    assert code == 4
    assert "says nothing about its time step" in err
    assert "--dt" in err


@pytest.mark.parametrize(("unit", "factor"), [("ms", 1e3), ("steps", 1 / DT), ("norse", DT)])
def test_a_file_in_another_unit_of_time(unit: str, factor: float, folder: Path, capsys: Capture) -> None:
    nir.write("other.nir", chain(nir.Affine(np.eye(3), np.zeros(3)), lif(tau=10 * DT * factor)))
    _, err = ran(capsys, "other.nir", "--input", "frames.npy", "--dt", DT)
    assert err.startswith("warning: n1: tau is ")
    assert f"--time-unit {unit}" in err
    saved, err = ran(capsys, "other.nir", "--input", "frames.npy", "--dt", DT, "--time-unit", unit)
    assert err == ""
    np.testing.assert_array_equal(saved["output"], by_hand(FRAMES)[0])


def test_rules_of_a_simulator(folder: Path, capsys: Capture) -> None:
    arguments = (
        "net.nir",
        "--input",
        "frames.npy",
        "--dt",
        DT,
        "--semantics",
        "rockpool",
        "--on",
        "torch:float64",
    )
    saved, _ = ran(capsys, *arguments)
    assert saved["output"].max() > 1  # several spikes per step
    code, _, err = call(capsys, "run", *arguments[:-3], "sntorch")
    assert code == 2
    assert "Did you mean 'snntorch'" in err


def test_another_time_step_keeps_the_rules_that_a_file_declares(folder: Path, capsys: Capture) -> None:
    program = Program(chain(lif(r=5.0)), Semantics(DT / 2, reset="subtract"))
    write_program(program, "ours.nir")
    saved, _ = ran(capsys, "ours.nir", "--input", "frames.npy", "--dt", 2 * DT)
    np.testing.assert_array_equal(saved["output"], by_hand(FRAMES, 0.8, subtract=True)[0])
    code, out, _ = call(capsys, "lint", "ours.nir", "--dt", 2 * DT, "--for", "norse-file", "--json")
    assert code == 0
    assert "reset-rule" in {finding["rule"] for finding in json.loads(out)["findings"]}


def test_several_inputs_and_outputs(folder: Path, capsys: Capture) -> None:
    nodes: dict[str, Any] = {name: nir.Input({"input": np.array([3])}) for name in ("left", "right")}
    nodes |= {name: nir.Output({"output": np.array([3])}) for name in ("sum", "same")} | {"n": lif()}
    edges = [("left", "n"), ("right", "n"), ("n", "sum"), ("right", "same")]
    nir.write("ports.nir", nir.NIRGraph(nodes, edges))
    np.savez("ports.npz", left=FRAMES, right=FRAMES[:, ::-1])
    saved, _ = ran(capsys, "ports.nir", "--input", "ports.npz", "--dt", DT)
    np.testing.assert_array_equal(saved["output/sum"], by_hand(FRAMES + FRAMES[:, ::-1])[0])
    np.testing.assert_array_equal(saved["output/same"], FRAMES[:, ::-1])
    code, out, _ = call(
        *(capsys, "parity", "ports.nir", "--input", "ports.npz", "--dt", DT, "--json"),
        *("--on", "reference", "--on", "torch:float64"),
    )
    assert code == 0
    assert json.loads(out)["exact"] is True
    code, _, err = call(capsys, "run", "ports.nir", "--input", "frames.npy", "--dt", DT)
    assert code == 4
    assert "One array was given for several inputs" in err


def test_trust_lifts_the_limits(folder: Path, capsys: Capture) -> None:
    nir.write("odd.nir", chain(lif(tau=-0.01)))
    code, _, err = call(capsys, "export", "odd.nir", "--dt", DT)
    assert code == 4
    assert "positive" in err
    code, _, err = call(capsys, "export", "odd.nir", "--dt", DT, "--trust", "--out", "again.nir")
    assert code == 4  # read with a warning, but nothing is written that could not be read
    assert "warning: 'tau' of node 'n0' is -0.01" in err
    assert not Path("again.nir").exists()


def test_export_writes_seconds_and_semantics(folder: Path, capsys: Capture) -> None:
    nir.write("steps.nir", chain(lif(tau=10.0)))
    code, _, _ = call(
        *(
            capsys,
            "export",
            "steps.nir",
            "--dt",
            DT,
            "--time-unit",
            "steps",
            "--semantics",
            "snntorch-subtract",
        ),
        *("--out", "told.nir"),
    )
    assert code == 0
    node: Any = nir.read("told.nir").nodes["n0"]
    np.testing.assert_allclose(node.tau, 10 * DT)
    saved, err = ran(capsys, "told.nir", "--input", "frames.npy")
    assert err == ""
    v, due, expected = np.zeros(FRAMES.shape[1:]), np.zeros(FRAMES.shape[1:]), []
    for x in FRAMES.astype(float):
        v = 0.9 * v + x - 1.7 * due
        due = (v > 1.7).astype(float)
        expected.append(due)
    np.testing.assert_array_equal(saved["output"], np.stack(expected))


def test_the_commands_of_the_documentation_run(folder: Path, capsys: Capture) -> None:
    text = (Path(__file__).resolve().parents[1] / "docs" / "nir.md").read_text()
    commands = [line.split()[1:] for line in text.splitlines() if line.startswith("    rsc ")]
    nir.write(
        "net.nir",
        nir.NIRGraph(
            {
                "input": nir.Input({"input": np.array([3])}),
                "lif1": lif(tau=10 * 1e-4),
                "output": nir.Output({"output": np.array([3])}),
            },
            [("input", "lif1"), ("lif1", "output")],
        ),
    )
    assert len(commands) > 3
    for words in commands:
        code, _, err = call(capsys, *words)
        assert code == 0, (words, err)
    assert {"output", "spikes/lif1", "v/lif1", "counts/lif1"} <= set(np.load("out.npz"))


def test_an_edge_of_a_cycle_can_be_named(folder: Path, capsys: Capture) -> None:
    nodes: dict[str, Any] = {
        "input": nir.Input({"input": np.array([3])}),
        "n": lif(),
        "w": nir.Affine(np.eye(3), 2 * np.ones(3)),
        "output": nir.Output({"output": np.array([3])}),
    }
    edges = [("input", "n"), ("n", "w"), ("w", "n"), ("n", "output")]
    nir.write("loop.nir", nir.NIRGraph(nodes, edges))
    zeros = np.zeros((2, 1, 3), np.float32)
    np.save("zeros.npy", zeros)
    first = {}
    for edge in ("w:n", "n:w"):
        saved, _ = ran(capsys, "loop.nir", "--input", "zeros.npy", "--dt", DT, "--delay", edge)
        first[edge] = saved["output"][0].any()
    assert first == {"w:n": False, "n:w": True}  # the bias is there at once if its input is what waits
    code, _, err = call(capsys, "run", "loop.nir", "--input", "zeros.npy", "--dt", DT, "--delay", "n:x")
    assert code == 4
    assert "n -> x" in err or "'x'" in err
