"""Several ranks train the network that one rank trains, one writes, and none hangs when another dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from train_nursery import Nursery, nursery
from train_tiny import changed, images, lasting, logged, run

from rsc.bundle import Bundle
from rsc.errors import UsageError
from rsc.training import EncoderConfig, TrainConfig, Trained, fit
from rsc.training.checkpoint import Checkpoints, Snapshot
from rsc.training.config import AugmentConfig, OptimiserConfig, ValidationConfig
from rsc.training.losses import Attack, CrossEntropy, Tet
from rsc.training.objective import ObjectiveConfig
from rsc.training.order import part, require_even

ROOT = Path(__file__).parent.parent
RANKS = changed(
    epochs=3,
    encoder=EncoderConfig("rsc2", 2, 0.2),
    augment=AugmentConfig(crop=1, flip=True),
    validation=ValidationConfig(0.25, draws=2),
    objective=ObjectiveConfig(
        terms=(CrossEntropy(on="adversarial"), Tet(weight=0.5)), attack=Attack(steps=1, eps=0.1, step=0.1)
    ),
    timeout_s=30.0,
)


@pytest.fixture(scope="module")
def children() -> Iterator[Nursery]:
    with nursery() as made:
        yield made


def require_close(out: Path, config: TrainConfig, whole: Trained) -> None:
    """The log and the weights of a finished run in `out` are those of `whole`, up to the order of sums."""
    rows = logged(out)
    assert len(rows) == len(whole.history)
    for row, stats in zip(rows, whole.history, strict=True):
        expected = lasting(stats)
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        for key in ("accuracy", "validation", "lr", "epoch", "terms"):
            assert row[key] == pytest.approx(expected[key])
    newest = Checkpoints(out / "checkpoints", 2).newest()
    assert newest is not None
    saved = Snapshot.from_bytes(newest).tensors
    kind = "best" if config.validation.fraction else "network"
    for name, value in whole.network.state_dict().items():
        np.testing.assert_allclose(saved[f"{kind}/{name}"].numpy(), value.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("ranks", "passes"), [(2, 1), (2, 2)])
def test_two_ranks_have_the_loss_curve_of_one(
    ranks: int, passes: int, children: Nursery, tmp_path: Path
) -> None:
    config = changed(RANKS, optimiser=OptimiserConfig(accumulate=passes, decay="weights", clip_norm=1.0))
    assert children.grow(tmp_path / "r", config, ranks=ranks) == [0] * ranks
    require_close(
        tmp_path / "r",
        config,
        fit(changed(config, optimiser=OptimiserConfig(decay="weights", clip_norm=1.0)), images()),
    )


def test_a_last_batch_that_leaves_a_rank_nothing(children: Nursery, tmp_path: Path) -> None:
    config = changed(RANKS, validation=ValidationConfig(), optimiser=OptimiserConfig("sgd"))
    assert children.grow(tmp_path / "r", config, ranks=2, images=33) == [0, 0]
    require_close(tmp_path / "r", config, fit(config, images(33)))


def test_passes_of_a_batch_add_up_to_the_batch() -> None:
    one = fit(RANKS, images())
    four = fit(
        changed(RANKS, optimiser=OptimiserConfig(ema=0.9, decay="weights", clip_norm=1.0, accumulate=4)),
        images(),
    )
    reference = fit(
        changed(RANKS, optimiser=OptimiserConfig(ema=0.9, decay="weights", clip_norm=1.0)), images()
    )
    assert [s.loss for s in reference.history] == [s.loss for s in one.history]
    assert [s.loss for s in four.history] == pytest.approx([s.loss for s in one.history], rel=1e-5)


def test_a_signal_to_one_rank_stops_all_after_the_same_step(children: Nursery, tmp_path: Path) -> None:
    signalled = (1, 4, signal.SIGTERM)
    assert children.grow(tmp_path / "r", RANKS, ranks=2, signal_at_step=signalled) == [143, 143]
    assert children.grow(tmp_path / "r", RANKS, ranks=2) == [0, 0]
    require_close(tmp_path / "r", RANKS, fit(RANKS, images()))


def test_a_run_of_two_ranks_goes_on_with_one(children: Nursery, tmp_path: Path) -> None:
    assert children.grow(tmp_path / "r", RANKS, ranks=2, signal_at_step=(0, 5, signal.SIGINT)) == [130, 130]
    run(tmp_path / "r", RANKS)
    require_close(tmp_path / "r", RANKS, fit(RANKS, images()))


@pytest.mark.parametrize("dying", [0, 1])
def test_when_a_rank_dies_the_others_end(dying: int, children: Nursery, tmp_path: Path) -> None:
    began = time.monotonic()
    statuses = children.grow(
        tmp_path / "r", RANKS, ranks=2, signal_at_step=(dying, 4, signal.SIGKILL), limit_s=25
    )
    assert statuses[dying] == -signal.SIGKILL
    assert statuses[1 - dying] == 5
    assert time.monotonic() - began < 25
    assert children.grow(tmp_path / "r", RANKS, ranks=2) == [0, 0]
    require_close(tmp_path / "r", RANKS, fit(RANKS, images()))


def test_when_a_rank_hangs_the_others_end_after_the_time_out(children: Nursery, tmp_path: Path) -> None:
    config = changed(RANKS, timeout_s=2.0)
    statuses = children.grow(
        tmp_path / "r", config, ranks=2, signal_at_step=(1, 4, signal.SIGSTOP), limit_s=25
    )
    assert statuses == [5, -signal.SIGKILL]


def test_a_batch_must_be_shared_evenly() -> None:
    with pytest.raises(UsageError, match="multiple of 6"):
        require_even(8, 3, 2)
    require_even(12, 3, 2)
    for n in (0, 1, 5, 12):
        rows = [i for k in range(6) for i in range(*part(n, k, 6).indices(n))]
        assert rows == list(range(n))


def test_torchrun_trains_and_one_bundle_is_written(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        "epochs = 1\nbatch_size = 128\ntimeout_s = 60.0\n"
        '[network]\nname = "mlp"\nchannels = [16]\n[encoder]\nsteps = 2\nsigma = 0.2\n'
        '[qat]\ntarget = "loihi"\nepochs = 1\n'  # by rank 0 alone, which must not wait for the other
    )
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29471"]
    verb = ["-m", "rsc.cli", "train", "c.toml", "--out", "b", "--json"]
    done = subprocess.run(
        [sys.executable, *command, *verb],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["test_images"] == 500  # one result: the other rank says nothing
    assert Bundle.load(tmp_path / "b").config["epochs"] == 1
    assert len((tmp_path / "b" / "metrics.jsonl").read_bytes().splitlines()) == 1
