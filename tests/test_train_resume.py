"""Runs that are stopped and resumed end bit for bit as runs that are not; faults lose nothing."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest
import torch
from safetensors import safe_open
from torch import nn
from train_tiny import CONFIG, bits, changed, images, lasting, logged, require_same, run

from rsc.errors import InputRefused, Interrupted, MalformedFile, RscError, StorageError, UsageError
from rsc.training import EpochStats, RunFolder, TrainConfig, fit
from rsc.training.checkpoint import Checkpoints, Snapshot
from rsc.training.config import (
    AugmentConfig,
    CheckpointConfig,
    OptimiserConfig,
    ScheduleConfig,
    ValidationConfig,
)
from rsc.training.losses import Attack, CrossEntropy, Tet
from rsc.training.objective import ObjectiveConfig

SGD = changed(
    optimiser=OptimiserConfig("sgd", nesterov=True, accumulate=2),
    schedule=ScheduleConfig(),
    validation=ValidationConfig(),
    augment=AugmentConfig(crop=1, flip=True, cutout=2),
    channels_last=True,
    objective=ObjectiveConfig(
        terms=(CrossEntropy(on="adversarial"), Tet(weight=0.5)), attack=Attack(steps=1, eps=0.1, step=0.1)
    ),
)


class Stop(Exception):
    """Ends a run as a crash would."""


def stopping_after(steps: int, how: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `how` happen after so many optimiser steps."""
    from rsc.training.keeper import FolderKeeper

    plain, count = FolderKeeper.after_step, 0

    def after_step(self: Any, job: Any, state: Any) -> None:
        nonlocal count
        plain(self, job, state)
        count += 1
        if count == steps:
            how()

    monkeypatch.setattr(FolderKeeper, "after_step", after_step)


def crash() -> NoReturn:
    raise Stop


@pytest.mark.parametrize(
    "config", [CONFIG, SGD], ids=["adamw, average, validation", "sgd, onecycle, augmented"]
)
@pytest.mark.parametrize("steps", [1, 2, 5, 7, 12])
def test_a_crash_in_an_epoch_changes_nothing(
    config: TrainConfig, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(config, images())
    with monkeypatch.context() as patch:
        stopping_after(steps, crash, patch)
        with pytest.raises(Stop):
            run(tmp_path / "r", config)
    require_same(tmp_path / "r", run(tmp_path / "r", config), whole)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("steps", [1, 4, 6])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(
    signum: signal.Signals, code: int, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signum)
    config = changed(checkpoint=CheckpointConfig(every_epochs=100))
    with monkeypatch.context() as patch:
        stopping_after(steps, lambda: signal.raise_signal(signum), patch)
        with pytest.raises(Interrupted, match="--resume") as ended:
            run(tmp_path / "r", config)
    assert ended.value.exit_code == code
    assert signal.getsignal(signum) is before
    (save,) = [f for f in (tmp_path / "r" / "checkpoints").iterdir() if f.name != "best.safetensors"][-1:]
    assert save.name.startswith("step-")
    require_same(tmp_path / "r", run(tmp_path / "r", config), fit(config, images()))


def test_a_signal_during_evaluation_saves_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def probe(*_: Any) -> dict[str, float]:
        raise AssertionError("evaluation went on after the signal")

    config = changed(robustness=msgspec.structs.replace(CONFIG.robustness, every=1))
    seen: list[EpochStats] = []
    with monkeypatch.context() as patch:
        stopping_after(3, lambda: signal.raise_signal(signal.SIGTERM), patch)
        with pytest.raises(Interrupted, match="epoch 1 after step 3 of 3"):
            run(tmp_path / "r", config, probe=probe, on_epoch=seen.append)
    assert not seen
    again = run(tmp_path / "r", config, probe=lambda *_: {"pgd": 0.5})
    assert [s.robustness for s in again.history] == [{"pgd": 0.5}] * 4


def test_ctrl_c_again_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("rsc.training.interrupts.INSIST_AFTER_S", 0.0)
    stopping_after(2, twice, monkeypatch)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the command line sets its own
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "r")
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_same_wish_told_twice_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launchers pass on the signals that their terminal or scheduler has sent to everyone already."""

    def both() -> None:
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(signum)

    stopping_after(2, both, monkeypatch)
    with pytest.raises(Interrupted, match="--resume") as ended:
        run(tmp_path / "r")
    assert ended.value.exit_code == 143


def test_resuming_a_finished_run_trains_no_more(tmp_path: Path) -> None:
    whole = run(tmp_path / "r")
    again = run(tmp_path / "r", on_epoch=lambda stats: pytest.fail("an epoch was trained again"))
    require_same(tmp_path / "r", again, whole)


def test_early_stop_returns_the_best_network_and_survives_a_resume(tmp_path: Path) -> None:
    config = changed(
        epochs=30,
        lr=0.2,
        optimiser=OptimiserConfig(),
        validation=ValidationConfig(0.25, draws=1, patience=3),
    )
    whole = run(tmp_path / "r", config)
    votes = [s.validation["vote"] for s in whole.history]
    best = votes.index(max(votes))
    assert len(votes) == best + 4 < 30
    assert bits(run(tmp_path / "r", config).network) == bits(whole.network)
    saved = Snapshot.from_bytes((tmp_path / "r" / "checkpoints" / "best.safetensors").read_bytes())
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, saved.tensors[f"network/{name}"])
    last = fit(
        changed(config, validation=msgspec.structs.replace(config.validation, restore="last")), images()
    )
    assert bits(last.network) != bits(whole.network)


def test_only_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    run(tmp_path / "r")
    names = sorted(f.name for f in (tmp_path / "r" / "checkpoints").iterdir())
    assert names == ["best.safetensors", "step-0000000011.safetensors", "step-0000000012.safetensors"]
    assert sorted(f.name for f in (tmp_path / "r").iterdir()) == [
        "checkpoints",
        "metrics.jsonl",
        "resolved.toml",
    ]


def test_a_checkpoint_is_safetensors_and_json(tmp_path: Path) -> None:
    run(tmp_path / "r")
    with safe_open(tmp_path / "r" / "checkpoints" / "best.safetensors", "pt") as file:
        facts = msgspec.json.decode(file.metadata()["rsc"])
        assert set(facts) == {"version", "run", "position", "history", "optimiser", "objective"}
        assert {name.split("/")[0] for name in file.keys()} == {  # noqa: SIM118
            "network",
            "average",
            "best",
            "optimiser",
            "noise",
        }


@pytest.mark.parametrize("harm", ["cut", "bit", "empty"])
def test_a_damaged_checkpoint_is_passed_over(
    harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stopping_after(7, crash, patch)
        with pytest.raises(Stop):
            run(tmp_path / "r")
    newest = Checkpoints(tmp_path / "r" / "checkpoints", 2).files()[0]
    data = bytearray(newest.read_bytes())
    data[-5] ^= 1
    newest.write_bytes({"cut": bytes(data[:-9]), "bit": bytes(data), "empty": b""}[harm])
    with pytest.warns(UserWarning, match="older"):
        resumed = run(tmp_path / "r")
    require_same(tmp_path / "r", resumed, fit(CONFIG, images()))


def test_nothing_but_damaged_checkpoints_is_an_error(tmp_path: Path) -> None:
    run(tmp_path / "r")
    for file in (tmp_path / "r" / "checkpoints").iterdir():
        file.write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.warns(UserWarning, match="checkpoint"), pytest.raises(MalformedFile, match="checkpoint"):
        run(tmp_path / "r")


def test_other_settings_or_data_are_refused_by_name(tmp_path: Path) -> None:
    run(tmp_path / "r")
    with pytest.raises(MalformedFile, match=r"config\.lr 0\.005, now 0\.1"):
        run(tmp_path / "r", changed(lr=0.1))
    with pytest.raises(MalformedFile, match=r"data\.images"):
        fit(CONFIG, images(40), run=RunFolder(tmp_path / "r", resume=True))
    run(tmp_path / "r", changed(workers=2, checkpoint=CheckpointConfig(keep=1)))  # these do not matter


def test_a_folder_in_use_is_refused_without_resume_and_unless_it_is_a_run(tmp_path: Path) -> None:
    run(tmp_path / "r")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputRefused, match="--resume"):
        run(tmp_path / "r", resume=False)
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputRefused, match="no run"):
        run(tmp_path / "other")
    with pytest.raises(InputRefused, match="no folder"):
        run(tmp_path / "other" / "thesis.tex")


def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    def second(stats: EpochStats) -> None:
        with pytest.raises(InputRefused, match="Another process"):
            run(tmp_path / "r")

    run(tmp_path / "r", on_epoch=second)


def _no_space(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _read_only(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.write_bytes", "pathlib.Path.replace"])
def test_a_full_disk_ends_the_run_and_spoils_no_save(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stopping_after(5, lambda: patch.setattr(call, _no_space), patch)
        with pytest.raises(StorageError, match="space"):
            run(tmp_path / "r")
    require_same(tmp_path / "r", run(tmp_path / "r"), fit(CONFIG, images()))
    assert not list(tmp_path.rglob(".rsc-*"))


def test_a_read_only_folder_is_told_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathlib.Path.mkdir", _read_only)
    with pytest.raises(StorageError, match="read-only"):
        run(tmp_path / "r", on_epoch=lambda stats: pytest.fail("it trained"))


def test_a_loss_that_is_not_finite_leaves_the_last_good_save(tmp_path: Path) -> None:
    data = images()

    def spoil(stats: EpochStats) -> None:
        if stats.epoch == 2:
            data.images[:] = float("nan")

    with pytest.raises(RscError, match=r"epoch 3.*loss is nan"):
        fit(changed(validation=ValidationConfig()), data, spoil, run=RunFolder(tmp_path / "r"))
    newest = Checkpoints(tmp_path / "r" / "checkpoints", 2).newest()
    assert newest is not None
    good = Snapshot.from_bytes(newest)
    assert good.facts["position"]["epoch"] == 2
    assert all(v.isfinite().all() for v in good.tensors.values() if v.is_floating_point())
    assert len(logged(tmp_path / "r")) == 2


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A last step can end at infinity under a finite loss."""
    from rsc.training.objective import Objective

    def after(self: Objective, network: nn.Module) -> None:
        self.updates += 1
        if self.updates == 6:
            next(network.parameters()).data[0] = float("inf")

    monkeypatch.setattr(Objective, "after", after)
    with pytest.raises(RscError, match="not finite"):
        run(tmp_path / "r", changed(checkpoint=CheckpointConfig(keep=10)))
    for file in (tmp_path / "r" / "checkpoints").iterdir():
        tensors = Snapshot.from_bytes(file.read_bytes()).tensors
        assert all(v.isfinite().all() for v in tensors.values() if v.is_floating_point())


def test_a_run_in_a_folder_is_the_run_in_memory(tmp_path: Path) -> None:
    require_same(tmp_path / "r", run(tmp_path / "r"), fit(CONFIG, images()))


def test_batch_statistics_and_dropout_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers that draw from the global generator are keyed by the step."""
    from rsc.networks import SpikingSequential
    from rsc.neurons import LIF

    def network() -> SpikingSequential:
        torch.manual_seed(3)
        layers = (nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), LIF(), nn.Dropout(0.3), nn.Flatten())
        return SpikingSequential(*layers, nn.Linear(64, 3))

    whole = fit(CONFIG, images(), start=network())
    with monkeypatch.context() as patch:
        stopping_after(5, crash, patch)
        with pytest.raises(Stop):
            run(tmp_path / "r", start=network())
    torch.manual_seed(99)
    require_same(tmp_path / "r", run(tmp_path / "r", start=network()), whole)


def test_the_settings_of_a_run_are_written_out_and_start_the_same_run(tmp_path: Path) -> None:
    from rsc.training import read_config

    run(tmp_path / "r")
    assert read_config(tmp_path / "r" / "resolved.toml") == CONFIG


def test_tensorboard_holds_the_same_numbers(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trained = run(tmp_path / "r", changed(tensorboard=True))
    events = accumulator.EventAccumulator(str(tmp_path / "r" / "tensorboard"))
    events.Reload()
    found = [(e.step, e.value) for e in events.Scalars("train/loss")]
    assert found == [(s.epoch, pytest.approx(s.loss)) for s in trained.history]
    assert len(events.Scalars("validation/vote")) == 4


def test_without_tensorboard_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match="pip install tensorboard"):
        run(tmp_path / "r", changed(tensorboard=True))
    assert not (tmp_path / "r").exists()  # before the data were looked at or a teacher was trained


def test_a_folder_that_cannot_be_looked_into_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputRefused, match="too long"):
        run(tmp_path / ("n" * 300))

    def forbidden(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "r").mkdir()
    monkeypatch.setattr(Path, "iterdir", forbidden)
    with pytest.raises(InputRefused, match="Permission denied"):
        run(tmp_path / "r")


def test_lines_of_lost_epochs_are_dropped(tmp_path: Path) -> None:
    """The log is what the checkpoint knows; a torn line at its end goes, too."""
    config = changed(checkpoint=CheckpointConfig(every_epochs=100), validation=ValidationConfig())

    def stop(stats: EpochStats) -> None:
        if stats.epoch == 3:
            raise Stop

    with pytest.raises(Stop):
        run(tmp_path / "r", config, on_epoch=stop)
    with open(tmp_path / "r" / "metrics.jsonl", "ab") as file:
        file.write(b'{"epoch": 4, "lo')
    seen: list[EpochStats] = []
    resumed = run(tmp_path / "r", config, on_epoch=seen.append)
    assert [s.epoch for s in seen] == [1, 2, 3, 4]
    assert logged(tmp_path / "r") == [lasting(s) for s in resumed.history]
