"""The command line as a user meets it: verbs, JSON, exit codes, one clear error each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command import call

from rsc.bundle import Bundle
from rsc.pipeline import Packed, to_bundle
from rsc.training import TrainConfig

REPOSITORY = Path(__file__).parent.parent
TINY = """
epochs = {epochs}
batch_size = 128
[network]
channels = [4, 8]
[encoder]
steps = 4
sigma = 0.2
"""


@pytest.fixture(scope="session")
def bundle(packed: Packed, small_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return to_bundle(packed, small_config, "small").save(tmp_path_factory.mktemp("bundles") / "small")


def test_help_is_light() -> None:
    code = (
        "import sys\n"
        "from rsc.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'numpy', 'nir', 'scipy', 'matplotlib'} & set(sys.modules), 'heavy import'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for verb in (
        "demo",
        "train",
        "export",
        "run",
        "parity",
        "energy",
        "attack",
        "certify",
        "report",
        "targets",
    ):
        assert verb in done.stdout


def test_train_writes_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.toml").write_text(TINY.format(epochs=1))
    code, out, _ = call(capsys, "train", tmp_path / "tiny.toml", "--out", tmp_path / "b", "--json")
    assert code == 0
    assert json.loads(out)["clean_accuracy_per_run"]["n"] == 500
    assert Bundle.load(tmp_path / "b").config["encoder"]["steps"] == 4


def test_run_reports_accuracy_and_saves_arrays(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out_file = tmp_path / "o.npz"
    code, out, _ = call(
        capsys, "run", bundle, "--on", "reference", "--n", 8, "--probe", "lif1", "--out", out_file, "--json"
    )
    row = json.loads(out)
    assert code == 0
    assert row["n"] == 8
    assert row["arithmetic"] == "float64"
    with np.load(out_file) as saved:
        assert saved["output"].shape == (4, 8, 10)
        assert saved["spikes/lif1"].shape == (4, 8, 4, 8, 8)
        assert saved["v/lif1"].shape == (4, 8, 4, 8, 8)
        np.testing.assert_allclose(saved["logits"], saved["output"].mean(0))


def test_input_replaces_the_data_set(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "f.npy", np.random.default_rng(0).random((6, 3, 1, 8, 8), np.float32))
    code, out, _ = call(capsys, "run", bundle, "--on", "torch", "--input", tmp_path / "f.npy", "--json")
    row = json.loads(out)
    assert code == 0
    assert row["n"] == 3
    assert row["accuracy"] is None


def test_parity_has_the_key_exact(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(
        capsys, "parity", bundle, "--on", "reference", "--on", "torch:float64", "--n", 4, "--json"
    )
    value = json.loads(out)
    assert code == 0
    assert value["exact"] is True
    assert {(n["node"], n["signal"]) for n in value["pairs"][0]["nodes"]} >= {("lif1", "s"), ("lif1", "v")}


def test_parity_fails_where_targets_differ(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("parity", bundle, "--on", "reference", "--on", "loihi", "--n", 8)
    code, _, err = call(capsys, *arguments)
    assert code == 1
    assert "differ" in err
    code, _, _ = call(capsys, *arguments, "--max-mismatch", 0.2)
    assert code == 0


def test_energy_has_integers_per_layer(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "energy", bundle, "--on", "loihi", "--n", 5, "--json")
    report = json.loads(out)
    layers = {layer["node"]: layer for layer in report["layers"]}
    assert code == 0
    assert layers["conv1"]["mac"] == 5 * 4 * (8 * 8 * 9 - 4 * 8 * 3 + 4) * 4  # border-exact taps, T = 4
    assert layers["conv2"]["sop"] > 0
    assert isinstance(layers["conv2"]["sop"], int)
    assert {p["profile"] for p in report["priced"]} == {"h45-int8", "loihi1-davies2018"}


def test_attack_and_certify_give_values(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(
        capsys, "attack", bundle, "--on", "torch", "--on", "loihi", "--eps", "0,8/255", "--n", 6,
        "--steps", 2, "--draws", 2, "--json",
    )  # fmt: skip
    reports = json.loads(out)["robustness"]
    assert code == 0
    assert [r["target"] for r in reports] == ["torch", "loihi"]
    assert {row["eps_text"] for row in reports[0]["attacks"]} == {"8/255"}
    code, out, _ = call(capsys, "certify", bundle, "--n", 3, "--draws", 50, "--json")
    assert code == 0
    assert json.loads(out)["rule"] == "rsc2: sigma/sqrt(T)*Phi^-1(pA)"


def test_export_forms(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for form, name in (("nir", "p.nir"), ("loihi", "p.npz")):
        code, _, _ = call(capsys, "export", bundle, "--to", form, "--out", tmp_path / name)
        assert code == 0
        assert (tmp_path / name).stat().st_size > 1000
    code, out, _ = call(capsys, "run", tmp_path / "p.nir", "--data", "digits", "--n", 4, "--json")
    assert code == 0
    assert json.loads(out)["n"] == 4


def test_targets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "targets", "--json")
    rows = {row["spec"]: row for row in json.loads(out)}
    assert code == 0
    assert set(rows) == {"reference", "torch", "norse", "onnxruntime", "loihi", "lava"}
    assert all(row["available"] or (row["reason"] and row["fix"]) for row in rows.values())


BAD = {
    "no bundle": (("run", "nowhere"), 4, "no file or bundle"),
    "unknown target": (("run", "BUNDLE", "--on", "torhc"), 2, "Did you mean 'torch'"),
    "unknown option of a target": (("run", "BUNDLE", "--on", "loihi:fast"), 2, "fast"),
    "no GPU": (("run", "BUNDLE", "--on", "torch:cuda"), 3, "CUDA"),
    "one target for parity": (("parity", "BUNDLE", "--on", "torch"), 2, "Two"),
    "no such node": (("run", "BUNDLE", "--probe", "lif9", "--n", "2"), 2, "lif9"),
    "no images": (("run", "BUNDLE", "--n", "0"), 2, "n >= 1"),
    "wrong frames": (("run", "BUNDLE", "--input", "WRONG"), 4, "shape"),
    "frames that are text": (("run", "BUNDLE", "--input", "TEXT"), 4, "np.save"),
    "negative sigma": (("train", "SIGMA", "--out", "x"), 2, "sigma"),
    "no steps": (("train", "STEPS", "--out", "x"), 2, "steps"),
    "misspelt key": (("train", "TYPO", "--out", "x"), 4, "Did you mean 'epochs'"),
    "no config": (("train", "nowhere.toml", "--out", "x"), 4, "cannot be read"),
    "missing data": (("train", "MNIST", "--out", "x"), 4, "--data-root"),
    "bad eps": (("attack", "BUNDLE", "--eps", "many"), 2, "eps"),
    "no report": (("report", "nowhere"), 4, "nowhere"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_input_gets_one_clear_error(
    case: str,
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("wrong.npy", np.zeros((2, 2, 3, 3), np.float32))
    Path("text.npy").write_text("hello")
    for name, text in {
        "sigma": "[encoder]\nsigma = -1.0",
        "steps": "[encoder]\nsteps = 0",
        "typo": "epcohs = 3",
        "mnist": 'dataset = "mnist"',
    }.items():
        Path(f"{name}.toml").write_text(text)
    places = {"BUNDLE": bundle, "WRONG": "wrong.npy", "TEXT": "text.npy", "SIGMA": "sigma.toml"}
    places |= {"STEPS": "steps.toml", "TYPO": "typo.toml", "MNIST": "mnist.toml"}
    arguments, expected, word = BAD[case]
    code, out, err = call(capsys, *(places.get(a, a) for a in arguments))
    assert code == expected, err
    assert word in err
    assert err.count("error: ") == 1
    assert "Traceback" not in err + out
    assert not Path("x").exists()


def test_usage_errors_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "run")
    assert code == 2
    assert err


@pytest.mark.parametrize(("stop", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("delay", [0.1, 3.0])
def test_stopping_training_leaves_nothing_but_the_run(
    tmp_path: Path, stop: signal.Signals, expected: int, delay: float
) -> None:
    (tmp_path / "long.toml").write_text(TINY.format(epochs=100000))
    process = subprocess.Popen(
        [sys.executable, "-m", "rsc.cli", "train", "long.toml", "--out", "b"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert process.stderr is not None
    assert "training" in process.stderr.readline()
    time.sleep(delay)
    process.send_signal(stop)  # often in the middle of an import
    _, err = process.communicate(timeout=60)
    assert process.returncode == expected, err
    assert "error: " in err
    assert "Traceback" not in err
    assert set(os.listdir(tmp_path)) <= {"b", "long.toml"}
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_a_full_disk_is_told(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    code, _, err = call(capsys, "export", bundle, "--out", tmp_path / "p.nir")
    assert code == 5
    assert "space" in err
    assert os.listdir(tmp_path) == []


def test_a_program_for_another_shape_is_refused(
    bundle: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    np.save(tmp_path / "f.npy", np.zeros((4, 2, 1, 28, 28), np.float32))
    code, _, err = call(capsys, "run", bundle, "--input", tmp_path / "f.npy")
    assert code == 4
    assert "(1, 8, 8)" in err


def test_lint_speaks_for_targets(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "lint", bundle, "--for", "loihi", "--for", "snntorch", "--json")
    findings = json.loads(out)["findings"]
    assert code in (0, 1)
    assert {f["target"] for f in findings} >= {"loihi"}
    code, out, _ = call(capsys, "lint", bundle, "--for", "norse")
    assert code == 0
    assert "error" in out


def test_verbs_are_listed_without_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys)
    assert code == 2
    assert "demo" in out + err
