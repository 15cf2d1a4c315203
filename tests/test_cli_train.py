"""`rsc train` as a user meets it: a run folder that becomes a bundle, and goes on where it was stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command import call

from rsc.bundle import Bundle
from rsc.cli_train import epoch_line
from rsc.errors import InputRefused
from rsc.training import EpochStats, read_config

ROOT = Path(__file__).parent.parent
CONFIG = """
epochs = {epochs}
batch_size = 128
[network]
name = "mlp"
channels = [8]
[encoder]
steps = 2
sigma = 0.2
[validation]
fraction = 0.1
draws = 3
[robustness]
every = 2
images = 8
steps = 2
eot = 1
draws = 2
"""


def test_a_run_becomes_a_bundle_and_keeps_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.toml").write_text(CONFIG.format(epochs=2))
    out = tmp_path / "runs" / "a"
    code, text, err = call(capsys, "train", tmp_path / "c.toml", "--out", out, "--json")
    assert code == 0, err
    assert json.loads(text)["test_images"] == 500
    assert "epoch 2/2" in err
    assert "images/s" in err
    assert " left" in err
    assert Bundle.load(out).config["epochs"] == 2
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_bytes().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(set(row["validation"]) == {"per_run", "vote"} for row in rows)
    assert [sorted(row["robustness"]) for row in rows] == [[], ["clean", "fgsm", "pgd"]]
    assert rows[1]["robustness"]["pgd"] <= rows[1]["robustness"]["clean"]
    assert read_config(out / "resolved.toml") == read_config(tmp_path / "c.toml")
    assert (out / "checkpoints" / "best.safetensors").is_file()
    assert sorted(os.listdir(tmp_path / "runs")) == ["a"]

    before = {p: p.read_bytes() for p in out.rglob("*.safetensors")}
    code, _, err = call(capsys, "train", tmp_path / "c.toml", "--out", out)
    assert code == 4
    assert "--resume" in err
    code, again, err = call(capsys, "train", tmp_path / "c.toml", "--out", out, "--resume", "--json")
    assert code == 0, err
    assert json.loads(again) == json.loads(text)
    assert {p: p.read_bytes() for p in out.rglob("*.safetensors")} == before


def test_a_stopped_run_is_saved_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "long.toml").write_text(CONFIG.format(epochs=100000))
    command = [sys.executable, "-m", "rsc.cli", "train", "long.toml", "--out", "b"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        while "epoch 3/" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        err = process.stderr.read()
    assert process.returncode == 143, err
    assert "error: Terminated in epoch" in err
    assert "--resume" in err
    assert "Traceback" not in err
    assert sorted(os.listdir(tmp_path)) == ["b", "long.toml"]
    assert sorted(os.listdir(tmp_path / "b")) == ["checkpoints", "metrics.jsonl", "resolved.toml"]
    (tmp_path / "short.toml").write_text(CONFIG.format(epochs=5))
    code, _, err = call(capsys, "train", tmp_path / "short.toml", "--out", tmp_path / "b", "--resume")
    assert code == 4
    assert "config.epochs 100000, now 5" in err


def test_an_ann_is_refused_before_it_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.toml").write_text('[network]\nneuron = "relu"')
    code, _, err = call(capsys, "train", tmp_path / "c.toml", "--out", tmp_path / "b")
    assert code == 4
    assert "ANN" in err
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('[network]\nnorm = "step"\nsteps = 8', "constant"),
        ('[network]\nname = "resnet18"\nwidth = 0.05\n[qat]\ntarget = "loihi"', "fine-tuned"),
    ],
)
def test_what_could_not_be_deployed_is_refused_before_it_is_trained(
    text: str, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.toml").write_text(text)
    code, _, err = call(capsys, "train", tmp_path / "c.toml", "--out", tmp_path / "b")
    assert code == 4
    assert word in err
    assert not (tmp_path / "b").exists()


def test_a_taught_run_says_how_far_it_is_and_by_which_teacher(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsc.cli_train.LOG_EVERY_S", 0.0)
    text = CONFIG.format(epochs=1).replace("every = 2", "every = 0")
    text += '[objective]\nterms = [{kind = "distillation"}]\n[objective.teacher]\nepochs = 1\n'
    (tmp_path / "c.toml").write_text(text + f'cache = "{tmp_path / "teachers"}"\n')
    code, out, err = call(capsys, "train", tmp_path / "c.toml", "--out", tmp_path / "b", "--json")
    assert code == 0, err
    assert "teacher epoch 1/1  step 19/19  loss " in err
    assert "\nepoch 1/1  step 10/10  loss " in err
    (stored,) = (tmp_path / "teachers").iterdir()
    assert json.loads(out)["teacher_digest"] == stored.stem
    assert 0 < json.loads(out)["teacher_train_accuracy"] < 1


def test_the_data_root_can_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.toml").write_text('dataset = "mnist"')
    code, _, err = call(
        capsys, "train", tmp_path / "c.toml", "--out", tmp_path / "b", "--data-root", tmp_path / "nowhere"
    )
    assert code == InputRefused.exit_code
    assert "nowhere" in err
    assert not (tmp_path / "b").exists()


def test_an_epoch_is_one_line() -> None:
    stats = EpochStats(3, 90, 0.5, 0.75, 1234.5, 0.1, 60.0, 5220.0, {"vote": 0.7}, {"clean": 1.0, "pgd": 0.2})
    line = (
        "epoch 3/90  loss 0.5000  accuracy 0.750  validation 0.700  pgd 0.200  1234 images/s  1 h 27 min left"
    )
    assert epoch_line(stats) == line


def test_loss_terms_can_be_asked_for_in_words() -> None:
    from rsc.cli_train import _with_terms
    from rsc.training import TrainConfig

    plain = TrainConfig(label_smoothing=0.1)
    assert _with_terms(plain, 0.0, None) is plain
    terms = _with_terms(plain, 0.25, "8/255").objective.terms
    assert [(term.label, term.weight) for term in terms] == [
        ("cross_entropy/clean", 0.5),
        ("interval/clean", 0.5),
        ("spike_rate/clean", 0.25),
    ]
    assert terms[0].label_smoothing == 0.1  # type: ignore[union-attr]
