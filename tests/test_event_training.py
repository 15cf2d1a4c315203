"""Event frames are trained, kept, deployed and measured without an encoder; what needs images says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import command
import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from event_files import write_dvs_gesture, write_n_mnist
from train_tiny import bits, lasting

from rsc.bundle import Bundle
from rsc.cli import main
from rsc.data import Dataset, load
from rsc.data.frames import bin_events
from rsc.errors import UsageError
from rsc.hw_targets import deploy
from rsc.networks import NetworkSpec, build
from rsc.pipeline import pack, to_bundle
from rsc.results import Probe
from rsc.training import EncoderConfig, RunFolder, TrainConfig, fit, read_config
from rsc.training.augment import augment
from rsc.training.config import (
    AugmentConfig,
    CheckpointConfig,
    OptimiserConfig,
    ProbeConfig,
    QatConfig,
    ScheduleConfig,
    ValidationConfig,
)
from rsc.training.distributed import World
from rsc.training.job import make_job
from rsc.training.losses import (
    AnyTerm,
    Attack,
    CrossEntropy,
    Distillation,
    GradientSparsity,
    Interval,
    PreSynaptic,
    SpikeRate,
    Tet,
    Trades,
)
from rsc.training.objective import ObjectiveConfig
from rsc.training.order import held_out

STEPS, SIZE = 4, 8
PLAIN = EncoderConfig("frames", STEPS, 0.0, normalise=False)
CONFIG = TrainConfig(
    dataset="n-mnist",
    network=NetworkSpec("mlp", (16,)),
    encoder=PLAIN,
    size=SIZE,
    epochs=2,
    batch_size=16,
    threads=1,
)
TOML = """
dataset = "n-mnist"
size = 8
epochs = 20
batch_size = 10
lr = 1e-2
[network]
name = "convnet"
channels = [6, 8]
[encoder]
kind = "frames"
steps = 4
sigma = 0.0
normalise = false
[augment]
crop = 1
[validation]
fraction = 0.2
"""


def changed(**changes: object) -> TrainConfig:
    return msgspec.structs.replace(CONFIG, **changes)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_n_mnist(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def train(root: Path) -> Dataset:
    return load("n-mnist", "train", root, steps=STEPS, size=SIZE)


def over_time(data: Dataset) -> torch.Tensor:
    """All samples as frames [T, N, 2, H, W]."""
    return torch.from_numpy(np.stack(list(data.images), 1))


def test_the_first_loss_is_the_cross_entropy_of_the_counts_as_they_are(train: Dataset) -> None:
    found = fit(changed(epochs=1, batch_size=len(train)), train)
    torch.manual_seed(0)
    fresh = build(CONFIG.network, (2, SIZE, SIZE), 10)
    order = np.random.Generator(np.random.PCG64([0, 0])).permutation(len(train))
    logits = fresh(over_time(train)).mean(0)
    expected = F.cross_entropy(logits[order], torch.from_numpy(train.targets[order]))
    assert found.history[0].loss == pytest.approx(expected.item(), rel=1e-6)
    assert found.encoder is None


def test_it_learns_where_the_events_are(train: Dataset, root: Path) -> None:
    config = changed(epochs=12, lr=1e-2)
    splits = train, load("n-mnist", "test", root, steps=STEPS, size=SIZE)
    packed = pack(fit(config, train), config, "events", splits)
    assert packed.clean.per_run.value > 0.9
    assert packed.clean.per_run.value == packed.clean.vote.value, "one run, no noise"
    with torch.no_grad():
        answer = packed.trained.network(over_time(splits[1])).mean(0).argmax(1).numpy()
    assert packed.clean.per_run.value == pytest.approx((answer == splits[1].targets).mean())


def test_validation_is_the_accuracy_on_the_held_out_frames(train: Dataset) -> None:
    config = changed(validation=ValidationConfig(0.25, restore="last"))
    found = fit(config, train)
    _, rest = held_out(len(train), 0.25, 0)
    with torch.no_grad():
        answer = found.network(over_time(train)[:, rest]).mean(0).argmax(1).numpy()
    accuracy = float((answer == train.targets[rest]).mean())
    assert found.history[-1].validation == pytest.approx({"per_run": accuracy, "vote": accuracy})


@pytest.mark.parametrize("steps", [1, 4, 6])
def test_a_crash_in_an_epoch_changes_nothing(
    train: Dataset, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rsc.training.keeper import FolderKeeper

    config = changed(
        network=NetworkSpec("convnet", (4,)),
        augment=AugmentConfig(crop=1, flip=True, cutout=2),
        optimiser=OptimiserConfig(ema=0.9),
        schedule=ScheduleConfig("cosine", warmup=0.5),
        validation=ValidationConfig(0.2),
        checkpoint=CheckpointConfig(every_steps=1),
        workers=1,
    )
    whole = fit(config, train)
    plain, count = FolderKeeper.after_step, 0

    def after_step(self: FolderKeeper, *given: object) -> None:
        nonlocal count
        plain(self, *given)  # type: ignore[arg-type]
        count += 1
        if count == steps:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FolderKeeper, "after_step", after_step)
        with pytest.raises(KeyboardInterrupt):
            fit(config, train, run=RunFolder(tmp_path / "r"))
    resumed = fit(config, train, run=RunFolder(tmp_path / "r", resume=True))
    assert bits(resumed.network) == bits(whole.network)
    assert [lasting(s) for s in resumed.history] == [lasting(s) for s in whole.history]


def test_passes_of_a_batch_add_up_to_the_whole(train: Dataset) -> None:
    config = changed(epochs=1, optimiser=OptimiserConfig("sgd", accumulate=2))
    parts = fit(config, train)
    whole = fit(msgspec.structs.replace(config, optimiser=OptimiserConfig("sgd")), train)
    for a, b in zip(parts.network.parameters(), whole.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_all_frames_of_a_sample_are_augmented_alike() -> None:
    x = np.random.default_rng(0).poisson(1.0, (5, 3, 2, 6, 6)).astype(np.float32)
    change, ids = AugmentConfig(crop=2, flip=True, cutout=3), np.arange(5) + 7
    together = augment(change, x, ids, 1, 2, 0.0)
    for t in range(3):
        np.testing.assert_array_equal(together[:, t], augment(change, x[:, t], ids, 1, 2, 0.0))
    assert not np.array_equal(together, x)


@pytest.mark.parametrize(
    "terms",
    [
        (Tet(),),
        (PreSynaptic(),),
        (CrossEntropy(), SpikeRate()),
        (CrossEntropy(), SpikeRate(weighting="neuron")),
    ],
    ids=["tet", "pre_synaptic output", "fan_out", "neuron"],
)
def test_losses_of_outputs_and_spikes_need_no_images(train: Dataset, terms: tuple) -> None:
    network = NetworkSpec("convnet", (4,), readout="membrane")
    found = fit(changed(epochs=1, network=network, objective=ObjectiveConfig(terms=terms)), train)
    assert np.isfinite(found.history[0].loss)


ATTACKED = Attack(steps=1)


def goal(*terms: AnyTerm, **how: Any) -> dict[str, Any]:
    return {"objective": ObjectiveConfig(terms=terms, **how)}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"encoder": EncoderConfig("frames", 4, 0.3, normalise=False)}, "given sigma = 0.3"),
        ({"encoder": EncoderConfig("frames", 4)}, "sigma = 0.5, normalise = true"),
        ({"encoder": EncoderConfig("frames", 4, 0.0, (0.0, 1.0), False)}, r"clip = \(0.0, 1.0\)"),
        ({"encoder": EncoderConfig("frames", 0, 0.0, normalise=False)}, "at least one frame"),
        ({"robustness": ProbeConfig(1), "validation": ValidationConfig(0.1)}, r"\[robustness\]"),
        (goal(CrossEntropy(on="adversarial"), attack=ATTACKED), "adversarial"),
        (goal(CrossEntropy(), Trades(), attack=ATTACKED), "trades/adversarial"),
        (goal(CrossEntropy(on="noisy"), noise_sigma=0.1), "cross_entropy/noisy"),
        (goal(CrossEntropy(), GradientSparsity()), "gradient_sparsity"),
        (goal(CrossEntropy(), Interval()), "interval/clean.*bounds the pixels"),
        (goal(CrossEntropy(), Distillation()), "distillation.*ANN"),
        (goal(PreSynaptic(reading="currents")), "pre_synaptic.*ANN"),
    ],
)
def test_what_needs_images_is_refused_in_words(changes: dict, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        changed(**changes)


def test_sets_and_encoders_that_do_not_fit_are_told_apart(train: Dataset) -> None:
    with pytest.raises(UsageError, match=r"'n-mnist' holds event frames.*kind = 'frames'"):
        make_job(changed(encoder=EncoderConfig()), train, World())
    with pytest.raises(UsageError, match="'digits' holds images"):
        make_job(CONFIG, load("digits", "train"), World())
    with pytest.raises(UsageError, match=r"have 4 frames.*steps is 5"):
        make_job(changed(encoder=EncoderConfig("frames", 5, 0.0, normalise=False)), train, World())


def test_gestures_are_trained_from_their_files(tmp_path: Path) -> None:
    data = load("dvs-gesture", "train", write_dvs_gesture(tmp_path), steps=STEPS, size=16)
    config = changed(dataset="dvs-gesture", size=16, network=NetworkSpec("convnet", (4,)), epochs=8, lr=1e-2)
    assert fit(config, data).history[-1].accuracy > 0.6


def test_the_program_does_what_the_network_does_and_is_complete_without_an_encoder(train: Dataset) -> None:
    config = changed(network=NetworkSpec("convnet", (4,), norm="step", steps=STEPS, neuron="if"))
    with pytest.raises(Exception, match="step"):
        pack(fit(config, train.head(32)), config, "x", (train, train))
    config = changed(network=NetworkSpec("convnet", (4, 8)))
    packed = pack(fit(config, train), config, "x", (train, train.head(8)))
    program = to_bundle(packed, config, "x").program
    assert (program.encoder, program.bounds, program.input_shape) == (None, None, (2, SIZE, SIZE))
    frames = over_time(train)[:, :8]
    with deploy(program, "reference") as model, torch.no_grad():
        logits = model.run_frames(frames.numpy(), Probe()).logits
        np.testing.assert_allclose(
            logits, packed.trained.network(frames).mean(0).numpy(), rtol=1e-4, atol=1e-5
        )


def test_fine_tuning_on_integers_feeds_the_counts(train: Dataset) -> None:
    terms = (CrossEntropy(), SpikeRate(weight=1e-3))  # fan-out maps of a network that rounds its input
    config = changed(
        network=NetworkSpec("convnet", (4,)),
        qat=QatConfig("loihi", epochs=1),
        epochs=4,
        objective=ObjectiveConfig(terms=terms),
    )
    packed = pack(fit(config, train), config, "x", (train, train))
    assert packed.program is not None
    assert packed.program.encoder is None
    assert packed.integers[0].disagreement is not None
    assert packed.integers[0].disagreement < 0.02
    with deploy(packed.program, "loihi") as model:
        result = model.run_frames(over_time(train).numpy())
    assert (result.predictions == train.targets).mean() == pytest.approx(packed.clean.per_run.value, abs=0.1)


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: object) -> tuple[int, str, str]:
        code, out, err = command.call(capsys, *arguments)
        return code, out, " ".join(err.split())

    return run


@pytest.fixture(scope="module")
def bundle(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `rsc train` leaves of the recipe above."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "c.toml").write_text(TOML)
    with pytest.raises(SystemExit) as ended:
        main(["train", str(folder / "c.toml"), "--out", str(folder / "out"), "--data-root", str(root)])
    assert not ended.value.code
    return folder / "out"


def test_the_card_holds_the_clean_accuracy(bundle: Path) -> None:
    found = Bundle.load(bundle)
    assert found.metrics["test_images"] == 30
    assert found.metrics["clean_accuracy_per_run"]["value"] > 0.8
    assert "clean_accuracy_per_run" in (bundle / "README.md").read_text()
    assert "encoder: none" in (bundle / "README.md").read_text()
    again = read_config(bundle / "resolved.toml")
    assert (again.size, again.encoder) == (8, EncoderConfig("frames", 4, 0.0, normalise=False))


@pytest.mark.parametrize("more", [(), ("--data", "n-mnist")], ids=["of the bundle", "by name"])
def test_a_run_feeds_the_frames_that_it_was_trained_on(
    bundle: Path, root: Path, call: Call, more: tuple[str, ...]
) -> None:
    code, text, err = call("run", bundle, "--data-root", root, "--on", "torch", "--json", *more)
    assert code == 0, err
    row = json.loads(text)
    expected = Bundle.load(bundle).metrics["clean_accuracy_per_run"]["value"]
    assert (row["n"], row["accuracy"]["value"]) == (30, pytest.approx(expected))
    assert row.get("seed") is None, "nothing was drawn"


def test_frames_are_compared_and_counted_without_an_encoder(bundle: Path, root: Path, call: Call) -> None:
    code, text, err = call(
        "parity",
        bundle,
        "--data-root",
        root,
        "--on",
        "reference",
        "--on",
        "torch:float64",
        "--n",
        4,
        "--json",
    )
    assert code == 0, err
    assert '"exact":true' in text.replace(" ", "")
    code, text, err = call("energy", bundle, "--data-root", root, "--n", 4, "--json")
    assert code == 0, err
    assert '"kind":"none"' in text.replace(" ", "")


@pytest.mark.parametrize("to", ["onnx", "loihi"])
def test_it_is_exported_on_its_own_frames(
    bundle: Path, root: Path, to: str, call: Call, tmp_path: Path
) -> None:
    out = tmp_path / f"made.{to}"
    more = ["--calibrate", "mse"] if to == "loihi" else []
    code, _, err = call("export", bundle, "--to", to, "--out", out, "--data-root", root, *more)
    assert code == 0, err
    assert out.stat().st_size > 0


def test_given_frames_run_as_those_of_the_set(bundle: Path, root: Path, call: Call, tmp_path: Path) -> None:
    frames = over_time(load("n-mnist", "test", root, steps=STEPS, size=SIZE))
    np.save(tmp_path / "frames.npy", frames.numpy())
    nir, made = tmp_path / "a.nir", tmp_path / "made.npz"
    assert call("export", bundle, "--to", "nir", "--out", nir)[0] == 0
    code, _, err = call("run", nir, "--input", tmp_path / "frames.npy", "--on", "reference", "--out", made)
    assert code == 0, err
    network = build(NetworkSpec("convnet", (6, 8)), (2, SIZE, SIZE), 10).eval()
    network.load_state_dict({k: torch.from_numpy(v) for k, v in Bundle.load(bundle).state.items()})
    with torch.no_grad():
        expected = network(frames).mean(0).numpy()
    np.testing.assert_allclose(np.load(made)["logits"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("verb", ["attack", "certify", "verify"])
def test_figures_of_perturbed_images_are_refused_in_words(
    bundle: Path, root: Path, verb: str, call: Call, tmp_path: Path
) -> None:
    more = {"attack": ["--eps", "8/255"], "certify": [], "verify": ["--eps", "1/255"]}[verb]
    code, _, err = call(verb, bundle, "--data-root", root, "--n", 2, *more)
    assert code == 2, err
    assert "'n-mnist' holds event frames. Attacks, certificates and proofs are about images" in err
    code, _, err = call(verb, bundle, "--data", "digits", "--n", 2, *more)
    assert (code, "This program has no encoder." in err) == (2, True)


def test_the_samples_are_those_of_the_files(root: Path) -> None:
    from event_files import blob

    test = load("n-mnist", "test", root, steps=STEPS, size=SIZE)
    expected = bin_events(blob(3, 120, 34, 300_000, 3003), STEPS, 34, SIZE)
    np.testing.assert_array_equal(test.images[10], expected)
