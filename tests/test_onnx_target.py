"""Target `onnxruntime`, the proof of an exported file, and `rsc export --to onnx`."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nir
import numpy as np
import onnx
import pytest
from rule_networks import DT, chain, lif, neuron
from test_onnx_export import IMAGES, SPECS, convolutional

from rsc.cli import main
from rsc.data import load
from rsc.errors import GateFailed, TargetFault, UnsupportedNode, UsageError
from rsc.export.onnx import OnnxForm, to_onnx
from rsc.hw_targets import deploy, get_target
from rsc.hw_targets.onnxruntime_proof import ALLOWED, NodeRow, Proof, compared, write_proven
from rsc.hw_targets.onnxruntime_session import Runtime
from rsc.pipeline import Packed, to_bundle
from rsc.program import Program, Semantics
from rsc.results import Keys
from rsc.training import TrainConfig

EXAMPLE = Path(__file__).parent.parent / "examples" / "onnx_digits.py"


@pytest.mark.parametrize(
    "spec", ["onnxruntime:float61", "onnxruntime:cpu:cuda", "onnxruntime:float32:float64"]
)
def test_unknown_and_contradicting_options_are_refused(spec: str) -> None:
    with pytest.raises(UsageError, match="has no option"):
        get_target(spec)


def test_options_come_in_any_order() -> None:
    target: Any = get_target("onnxruntime:threads2:cpu:float64")
    assert (target.arithmetic, target.runtime) == ("float64", Runtime("cpu", 2))
    assert target.available() is None


def test_a_provider_that_this_build_lacks_is_named_with_a_remedy() -> None:
    missing = get_target("onnxruntime:coreml").available()
    assert missing is not None
    assert "CoreMLExecutionProvider" in missing.reason
    assert "cpu" in missing.reason


def test_numbers_beyond_half_precision_are_refused() -> None:
    large = nir.NIRGraph(
        {
            "input": nir.Input({"input": np.array([1])}),
            "w": nir.Linear(np.full((1, 1), 1e5)),
            "output": nir.Output({"output": np.array([1])}),
        },
        [("input", "w"), ("w", "output")],
    )
    program = Program(large, Semantics(DT))
    assert not [i for i in get_target("onnxruntime:bfloat16").check(program) if i.severity == "error"]
    with pytest.raises(UnsupportedNode, match="too large for float16"):
        get_target("onnxruntime:float16").compile(program)


def test_integers_refuse_what_loihi_refuses() -> None:
    program = Program(chain(lif()), Semantics(DT, comparison=">="))
    with pytest.raises(UnsupportedNode, match="fire at >="):
        get_target("onnxruntime:integer").compile(program)


def test_a_trained_network_gives_the_spikes_of_the_reference_in_every_arithmetic(
    program: Program, digits: Any
) -> None:
    keys, allowed = Keys(0, digits.ids), {"float64": 0.0, "float32": 1e-3, "float16": 0.02, "bfloat16": 0.05}
    expected = deploy(program, "reference").run(digits.images, keys)
    assert sum(count.sum() for count in expected.spikes.counts.values()) > 1000
    for arithmetic, share in allowed.items():
        found = deploy(program, f"onnxruntime:{arithmetic}").run(digits.images, keys)
        assert found.frames_digest == expected.frames_digest
        for name, count in expected.spikes.counts.items():
            wrong = np.abs(found.spikes.counts[name] - count).sum()
            assert wrong <= share * max(1, count.sum()), (arithmetic, name)


def tampered(program: Program, form: OnnxForm) -> onnx.ModelProto:
    """A model one threshold of which was changed behind its digest."""
    model = to_onnx(program, form)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    body = next(a.g for n in model.graph.node if n.op_type == "Scan" for a in n.attribute if a.name == "body")
    limit = next(node for node in body.node if node.op_type == "Greater").input[1]
    tensors[limit].raw_data = np.array(0.125, "<f4").tobytes()
    return model


def test_a_model_that_was_changed_is_not_written_and_the_first_difference_is_named(tmp_path: Path) -> None:
    program, form = convolutional(SPECS["rsc2"]), OnnxForm(feed="noise")
    with pytest.raises(GateFailed, match=r"First in 'lif' at step 0") as failed:
        write_proven(program, tampered(program, form), form, tmp_path / "model.onnx", IMAGES)
    assert failed.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_holds_is_written_as_it_was_proven(tmp_path: Path) -> None:
    program, form = convolutional(SPECS["bernoulli"]), OnnxForm("integer", "graph", votes=3)
    model = to_onnx(program, form)
    proof = write_proven(program, model, form, tmp_path / "model.onnx", IMAGES)
    assert (tmp_path / "model.onnx").read_bytes() == model.SerializeToString()
    assert proof.judge == "loihi"
    assert [row.differ for row in proof.rows] == [0, 0]
    assert all(row.spikes > 0 for row in proof.rows)
    assert proof.rows[0].neurons_steps == 5 * 3 * 3 * 4 * 36  # steps, runs, images, neurons


@pytest.mark.parametrize(
    ("arithmetic", "spikes", "differ", "holds"),
    [
        ("bfloat16", 500, 500, False),  # silent where it should fire in 0.5 % of all places
        ("bfloat16", 500, 40, True),
        ("float32", 500, 4, True),
        ("float32", 500, 5, False),
        ("float32", 0, 4, True),
        ("float32", 0, 90, False),
        ("integer", 50_000, 1, False),
    ],
)
def test_differences_are_judged_by_how_many_spikes_there_are(
    arithmetic: str, spikes: int, differ: int, holds: bool
) -> None:
    row = NodeRow("a", 100_000, spikes, differ, 0)
    assert Proof("reference", arithmetic, ALLOWED[arithmetic][0], (row,), 0.0).holds == holds


def test_a_wrong_readout_of_a_network_without_spikes_is_found() -> None:
    graph = chain(neuron(nir.LI, 1))
    program, form = Program(graph, Semantics(DT)), OnnxForm()
    frames = np.ones((6, 2, 1), np.float32)
    right = compared(program, to_onnx(program, form).SerializeToString(), "frames", "float32", None, frames)
    assert right.holds
    other = dataclasses.replace(program, semantics=Semantics(DT, integrator="exponential"))
    model = to_onnx(other, form)
    next(p for p in model.metadata_props if p.key == "rsc.digest").value = program.digest
    wrong = compared(program, model.SerializeToString(), "frames", "float32", None, frames)
    assert not wrong.holds
    assert wrong.output_error > 0.01


def test_a_model_of_another_program_is_not_proven(tmp_path: Path) -> None:
    form = OnnxForm()
    one, other = (Program(chain(lif(v_threshold=v)), Semantics(DT)) for v in (0.75, 1.5))
    with pytest.raises(TargetFault, match="another program"):
        write_proven(one, to_onnx(other, form), form, tmp_path / "m.onnx", np.ones((3, 1, 1), np.float32))


def ran(*words: object) -> int:
    """Exit code of a command line."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


@pytest.mark.parametrize("feed", ["frames", "noise"])
def test_a_file_alone_gives_the_logits_of_its_program_on_the_same_keyed_noise(
    program: Program, digits: Any, tmp_path: Path, feed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(to_onnx(program, OnnxForm(feed=feed, counts=True)), tmp_path / "m.onnx")
    n = 70  # more than one part of a batch
    words = "--data", "digits", "--n", n, "--seed", 3, "--out", tmp_path / "m.npz", "--json"
    assert ran("run", tmp_path / "m.onnx", *words) == 0
    row = json.loads(capsys.readouterr().out)
    test = load("digits", "test").head(n)
    expected = deploy(program, "onnxruntime").run(np.asarray(test.images), Keys(3, test.ids))
    with np.load(tmp_path / "m.npz") as found:
        np.testing.assert_allclose(found["logits"], expected.logits, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(found["counts.input"], expected.spikes.counts["input"])
        assert str(found["program_digest"]) == program.digest
    assert (row["n"], row["arithmetic"], row["seed"]) == (n, "float32", 3)
    hits = (expected.predictions == test.targets).sum()
    assert row["accuracy"]["value"] == pytest.approx(hits / n)


def test_a_file_that_votes_gives_the_accuracy_of_its_vote(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(to_onnx(program, OnnxForm(feed="noise", votes=5)), tmp_path / "m.onnx")
    words = "--data", "digits", "--n", 20, "--out", tmp_path / "m.npz", "--json"
    assert ran("run", tmp_path / "m.onnx", "--on", "onnxruntime:threads1", *words) == 0
    accuracy = json.loads(capsys.readouterr().out)["accuracy"]
    test = load("digits", "test").head(20)
    each = [
        deploy(program, "onnxruntime").run(np.asarray(test.images), Keys(0, test.ids, k)).predictions
        for k in range(5)
    ]
    votes = np.stack([(np.stack(each) == k).sum(0) for k in range(10)], 1)
    assert (accuracy["kind"], accuracy["draws"]) == ("vote", 5)
    assert accuracy["value"] == pytest.approx((votes.argmax(1) == test.targets).mean())
    with np.load(tmp_path / "m.npz") as found:
        np.testing.assert_array_equal(found["votes"], votes)


def test_files_that_cannot_be_run_are_refused_with_the_reason(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, model = tmp_path / "m.onnx", to_onnx(program, OnnxForm())
    path.write_bytes(model.SerializeToString())
    assert ran("run", path, "--data", "digits", "--on", "torch") == 2
    assert "runs in ONNX Runtime" in capsys.readouterr().err
    assert ran("run", path, "--data", "digits", "--on", "onnxruntime:float64") == 2
    assert "arithmetic is float32" in capsys.readouterr().err
    np.save(tmp_path / "frames.npy", np.zeros((3, 2, 1, 9, 9), np.float32))
    assert ran("run", path, "--input", tmp_path / "frames.npy") == 4
    assert "[3, 2, 1, 9, 9]" in capsys.readouterr().err
    model.graph.node[0].domain = "com.evil"
    path.write_bytes(model.SerializeToString())
    assert ran("run", path, "--data", "digits") == 4
    assert "com.evil" in capsys.readouterr().err
    del model.metadata_props[:]
    model.graph.node[0].domain = ""
    path.write_bytes(model.SerializeToString())
    assert ran("run", path, "--data", "digits") == 4
    assert "does not say what it is fed" in capsys.readouterr().err


@pytest.fixture(scope="module")
def bundle(packed: Packed, small_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return to_bundle(packed, small_config, "small").save(tmp_path_factory.mktemp("onnx") / "small")


def test_ten_lines_of_numpy_and_onnxruntime_classify_digits(
    bundle: Path, packed: Packed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "digits.onnx"
    words = ["export", bundle, "--to", "onnx", "--noise", "graph", "--votes", 15, "--out", path]
    assert ran(*words) == 0
    assert "proven against reference" in capsys.readouterr().out
    test = packed.test.head(200)
    np.savez(tmp_path / "digits.npz", images=np.asarray(test.images), targets=np.asarray(test.targets))
    lines = [line for line in EXAMPLE.read_text().split('"""')[2].splitlines() if line]
    assert len(lines) <= 10
    assert [line for line in lines if "import" in line] == [
        "import sys",
        "import numpy as np",
        "import onnxruntime",
    ]
    run = [sys.executable, str(EXAMPLE), str(path), str(tmp_path / "digits.npz")]
    alone = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        run, cwd=tmp_path, env=alone, capture_output=True, text=True, timeout=60, check=True
    )
    accuracy = float(done.stdout.split("accuracy ")[1])
    vote = packed.clean.vote.value  # a test of two proportions at three standard errors
    assert accuracy > vote - 3 * (2 * vote * (1 - vote) / 200) ** 0.5 - 0.01


def test_the_command_line_says_what_it_proved_as_json(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "export", bundle, "--to", "onnx", "--arithmetic", "bfloat16", "--counts", "--json"
    assert ran(*words, "--out", tmp_path / "m.onnx") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["judge"], found["arithmetic"]) == ("reference", "bfloat16")
    assert all(row["spikes"] > 0 for row in found["rows"])
    outputs = [value.name for value in onnx.load(tmp_path / "m.onnx").graph.output]
    assert "counts.input" in outputs
