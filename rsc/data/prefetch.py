"""Batches in a given order, read ahead by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from rsc.data.dataset import Dataset
from rsc.errors import Interrupted, RscError, UsageError


class Batch(NamedTuple):
    """Samples [B, ...], their targets and their identities [B]."""

    images: np.ndarray
    targets: np.ndarray
    ids: np.ndarray


def batches(data: Dataset, index_arrays: Iterable[Any], workers: int = 0) -> Iterator[Batch]:
    """The batches of `data` at each of the index arrays, in their order.

    The values do not depend on `workers`. With w workers at most w + 1 batches are in memory beside those
    that the caller keeps, and index arrays are taken up to w ahead. The threads end when the iterator is
    exhausted, fails, is closed or is dropped.

    Args:
        index_arrays: integers 0..N-1 [B] each; taken from this iterable as they are needed.
        workers: threads that read ahead; 0 reads in the caller's thread.

    Raises:
        UsageError: workers < 0; or, in its turn, an index outside the set.
        RscError: in its turn: a batch could not be read. The iterator ends with it.
    """
    if not isinstance(workers, int) or workers < 0:
        raise UsageError(f"{workers!r} workers were asked for.", "They are threads.", "Use 0 or more.")
    numbered = enumerate(index_arrays)
    return _ahead(data, numbered, workers) if workers else (_batch(data, k, index) for k, index in numbered)


def _ahead(data: Dataset, numbered: Iterator[tuple[int, Any]], workers: int) -> Iterator[Batch]:
    pending: deque[Future[Batch]] = deque()
    pool = ThreadPoolExecutor(workers, "rsc-data")
    try:
        with_more = _fill(pending, pool, data, numbered, workers)
        while pending:
            batch = pending.popleft().result()
            with_more = with_more and _fill(pending, pool, data, numbered, workers)
            yield batch
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _fill(
    pending: deque[Future[Batch]],
    pool: ThreadPoolExecutor,
    data: Dataset,
    numbered: Iterator[tuple[int, Any]],
    workers: int,
) -> bool:
    """Give the pool work for all its threads; False when there is no more."""
    while len(pending) < workers:
        try:
            pending.append(pool.submit(_batch, data, *next(numbered)))
        except StopIteration:
            return False
        except Interrupted:
            raise
        except Exception as error:  # of the caller's iterable: raised after the batches before it
            pending.append(_failed(error))
            return False
    return True


def _failed(error: Exception) -> Future[Batch]:
    future: Future[Batch] = Future()
    future.set_exception(error)
    return future


def _batch(data: Dataset, number: int, index: Any) -> Batch:
    try:
        index = _checked(data, number, index)
        return Batch(data.images[index], data.targets[index], data.ids[index])
    except RscError:
        raise
    except Exception as error:
        raise RscError(
            f"Batch {number} of '{data.name}' could not be read.",
            f"{type(error).__name__}: {error}.",
            "Check the files of the data set and the memory that is left.",
        ) from error


def _checked(data: Dataset, number: int, index: Any) -> np.ndarray:
    index = np.asarray(index)
    if index.size == 0:
        index = index.astype(np.int64)
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise UsageError(
            f"The index array of batch {number} has shape {index.shape} and type {index.dtype}.",
            "Samples are known by their numbers.",
            "Give a one-dimensional array of integers.",
        )
    if index.size and (index.min() < 0 or index.max() >= len(data)):
        raise UsageError(
            f"Batch {number} asks for the samples {index.min()}..{index.max()}.",
            f"'{data.name}' has the samples 0..{len(data) - 1}.",
            "Give indices of this split.",
        )
    return index
