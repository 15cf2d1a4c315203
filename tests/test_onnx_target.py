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
from rsc.errors import GateFailed, TargetFault, UnsupportedNode, UsageError
from rsc.export.onnx import OnnxForm, to_onnx
from rsc.hw_targets import deploy, get_target
from rsc.hw_targets.onnxruntime_proof import compared, write_proven
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


@pytest.fixture(scope="module")
def bundle(packed: Packed, small_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return to_bundle(packed, small_config, "small").save(tmp_path_factory.mktemp("onnx") / "small")


def test_ten_lines_of_numpy_and_onnxruntime_classify_digits(
    bundle: Path, packed: Packed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "digits.onnx"
    words = ["export", bundle, "--to", "onnx", "--noise", "graph", "--votes", 15, "--out", path]
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 0
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
    words = ["export", bundle, "--to", "onnx", "--arithmetic", "bfloat16", "--counts", "--json"]
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in (*words, "--out", tmp_path / "m.onnx")])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["judge"], found["arithmetic"]) == ("reference", "bfloat16")
    assert all(row["spikes"] > 0 for row in found["rows"])
    outputs = [value.name for value in onnx.load(tmp_path / "m.onnx").graph.output]
    assert "counts.input" in outputs
