"""Batches in a given order: the same with any number of threads, faults raised once, nothing left running."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rsc.data import Dataset, LazyImages, batches
from rsc.errors import Interrupted, MalformedFile, RscError, UsageError

N = 40


def made(
    slow: bool = False, fail: dict[int, Exception] | None = None, reads: list[int] | None = None
) -> Dataset:
    """Sample k is full of k; earlier samples take longer, so that threads would overtake each other."""

    def read(k: int) -> np.ndarray:
        if reads is not None:
            reads.append(k)
        if slow:
            time.sleep(0.002 * (N - k) / N)
        if fail and k in fail:
            raise fail[k]
        return np.full((1, 2, 2), k, np.float32)

    order = np.arange(N)
    return Dataset(
        "made", "train", LazyImages(read, (1, 2, 2), order), order % 3, order + 100, (0, N), ("a",)
    )


def indices() -> list[np.ndarray]:
    draw = np.random.Generator(np.random.PCG64(3))
    return [draw.integers(0, N, n) for n in (5, 1, 0, 7, 3, 5, 5, 2, 9)]


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("rsc-data")]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_come_in_the_given_order_with_any_number_of_workers(workers: int) -> None:
    found = list(batches(made(slow=True), indices(), workers))
    assert len(found) == len(indices())
    for batch, index in zip(found, indices(), strict=True):
        expected = np.broadcast_to(index[:, None, None, None], (len(index), 1, 2, 2))
        assert np.array_equal(batch.images, expected)
        assert np.array_equal(batch.targets, index % 3)
        assert np.array_equal(batch.ids, index + 100)
    assert threads() == []


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_image_files_give_the_same_bytes_with_any_number_of_workers(workers: int, tmp_path: Path) -> None:
    from PIL import Image

    from rsc.data import load

    draw = np.random.Generator(np.random.PCG64(0))
    for k in range(12):
        path = tmp_path / "imagenet" / "val" / f"n{k % 2}" / f"{k}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    data = load("imagenet", "test", tmp_path, size=16)
    order = [np.array(k) for k in ([11, 3, 3], [0], [5, 7, 9, 1], [2, 11])]
    one_by_one = [np.stack([data.images[int(k)] for k in index]) for index in order]
    for batch, expected in zip(batches(data, order, workers), one_by_one, strict=True):
        assert batch.images.tobytes() == expected.tobytes()


def test_arrays_in_memory_work_as_well() -> None:
    images = np.arange(12, dtype=np.float32).reshape(3, 1, 2, 2)
    data = Dataset("made", "train", images, np.arange(3), np.arange(3), (0, 12), ("a",))
    (batch,) = batches(data, [[2, 0]], 2)
    assert np.array_equal(batch.images, images[[2, 0]])


@pytest.mark.parametrize("workers", [1, 3])
def test_work_runs_ahead_by_no_more_than_the_workers(workers: int) -> None:
    """The consumer holds one batch; w others may be ready or on their way."""
    drawn = 0

    def counted() -> Iterator[list[int]]:
        nonlocal drawn
        for k in range(N):
            drawn += 1
            yield [k]

    reads: list[int] = []
    for taken, _ in enumerate(batches(made(reads=reads), counted(), workers), 1):
        time.sleep(0.002)
        assert drawn <= taken + workers
        assert len(reads) <= taken + workers
    assert sorted(reads) == list(range(N))


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize(
    ("raised", "kind", "word"),
    [
        (MalformedFile("'x.png' is no intact file."), MalformedFile, "x.png"),
        (MemoryError("no room"), RscError, "Batch 2 of 'made' could not be read. MemoryError: no room"),
        (ZeroDivisionError("oh"), RscError, "Batch 2 .* ZeroDivisionError"),
    ],
)
def test_a_fault_is_raised_once_after_the_batches_before_it(workers: int, raised, kind, word: str) -> None:
    iterator = batches(made(fail={21: raised}), [[1], [2], [20, 21], [3], [4]], workers)
    assert [next(iterator).ids[0], next(iterator).ids[0]] == [101, 102]
    with pytest.raises(kind, match=word):
        next(iterator)
    assert list(iterator) == []
    assert threads() == []


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_fault_of_the_index_arrays_comes_in_its_turn(workers: int) -> None:
    def broken() -> Iterator[list[int]]:
        yield [1]
        yield [2]
        raise LookupError("no more")

    iterator = batches(made(slow=True), broken(), workers)
    assert [next(iterator).ids[0], next(iterator).ids[0]] == [101, 102]
    with pytest.raises(LookupError, match="no more"):
        next(iterator)
    assert threads() == []


def test_an_interruption_does_not_wait_for_its_turn() -> None:
    def interrupted() -> Iterator[list[int]]:
        yield [1]
        raise Interrupted("Interrupted.")

    with pytest.raises(Interrupted):
        next(batches(made(), interrupted(), 3))
    assert threads() == []


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("index", [[0, N], [-1], [[1]], [0.5], [True], "a"])
def test_wrong_indices_are_named_with_their_batch(workers: int, index: object) -> None:
    iterator = batches(made(), [[0], index], workers)
    next(iterator)
    with pytest.raises(UsageError, match="atch 1"):
        next(iterator)


@pytest.mark.parametrize("workers", [-1, 1.5, "2"])
def test_impossible_numbers_of_workers_are_refused_at_once(workers) -> None:
    with pytest.raises(UsageError, match="workers"):
        batches(made(), [[0]], workers)


@pytest.mark.parametrize("how", ["close", "drop", "break", "unused"])
def test_stopping_early_leaves_nothing_running_and_skips_the_rest(how: str) -> None:
    reads: list[int] = []
    iterator = batches(made(slow=True, reads=reads), [[k] for k in range(N)], 3)
    if how == "break":
        for _ in iterator:
            break
    elif how != "unused":
        next(iterator)
    if how == "close":
        iterator.close()  # type: ignore[attr-defined]
    del iterator
    gc.collect()
    assert threads() == []
    assert len(reads) <= 5
