"""kill -9 at any instant loses nothing: what was saved is whole, and the resumed run ends as if unharmed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from train_nursery import Nursery, nursery
from train_tiny import changed, images, lasting, logged, require_same, run

from rsc.training import Trained, fit
from rsc.training.checkpoint import Snapshot
from rsc.training.config import CheckpointConfig

SMALL = changed(epochs=3, checkpoint=CheckpointConfig(every_steps=1, keep=2))


@pytest.fixture(scope="module")
def children() -> Iterator[Nursery]:
    with nursery() as made:
        yield made


@pytest.fixture(scope="module")
def whole() -> Trained:
    return fit(SMALL, images())


def require_whole(out: Path, whole: Trained) -> None:
    """All saves under their final names are readable, and every line of the log but the last is true."""
    for file in out.glob("checkpoints/*.safetensors"):
        Snapshot.from_bytes(file.read_bytes(), str(file))
    lines = (out / "metrics.jsonl").read_bytes() if (out / "metrics.jsonl").exists() else b""
    assert lines.count(b"\n") <= SMALL.epochs
    if lines.endswith(b"\n"):
        assert logged(out) == [lasting(s) for s in whole.history][: lines.count(b"\n")]


def require_recovered(out: Path, whole: Trained) -> None:
    require_same(out, run(out, SMALL), whole)
    assert not list(out.rglob(".rsc-*"))
    # One more than is kept, where the kill came between the last save and the removal of the oldest: a
    # finished run that is resumed saves nothing, and what is whole is not removed before something newer is.
    assert len(list(out.glob("checkpoints/step-*"))) <= 3


@pytest.mark.parametrize("offset", [0, 1, 2])
def test_killed_at_calls_of_the_file_system(
    offset: int, children: Nursery, whole: Trained, tmp_path: Path
) -> None:
    """Each child goes on where the last was killed, and dies at another call of its own saves."""
    killed = 0
    for call in range(1 + offset, 48, 3):
        (status,) = children.grow(tmp_path / "r", SMALL, kill_at_call=call)
        assert status in (0, -signal.SIGKILL)
        killed += status != 0
        require_whole(tmp_path / "r", whole)
    assert killed >= 12
    require_recovered(tmp_path / "r", whole)


def test_killed_in_the_middle_of_writing_a_file(children: Nursery, whole: Trained, tmp_path: Path) -> None:
    for number in range(1, 7):
        assert children.grow(tmp_path / "r", SMALL, tear_write=number) == [-signal.SIGKILL]
        require_whole(tmp_path / "r", whole)
    require_recovered(tmp_path / "r", whole)


def test_killed_at_random_times(children: Nursery, whole: Trained, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for folder in range(4):
        for _ in range(4):
            (status,) = children.grow(
                tmp_path / str(folder), SMALL, kill_after_s=float(rng.uniform(0.005, 0.15))
            )
            assert status in (0, -signal.SIGKILL)
            require_whole(tmp_path / str(folder), whole)
        require_recovered(tmp_path / str(folder), whole)


@pytest.mark.parametrize("limit", [100, 3000, 7000])
def test_a_limit_on_the_size_of_files_is_an_error_and_spoils_nothing(
    limit: int, children: Nursery, whole: Trained, tmp_path: Path
) -> None:
    """As a full disk: the system refuses the rest of a file."""
    assert children.grow(tmp_path / "r", SMALL, file_limit=limit) == [5]
    require_whole(tmp_path / "r", whole)
    require_recovered(tmp_path / "r", whole)
