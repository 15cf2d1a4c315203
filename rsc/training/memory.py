"""Memory that runs out while training: an error that says which settings ask for less."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from rsc.errors import RscError

_SIGNS = ("out of memory", "can't allocate memory", "not enough memory")  # of torch's plain RuntimeErrors


@contextlib.contextmanager
def told_when_full() -> Iterator[None]:
    """Memory errors of torch, CUDA and numpy become one that says what to do.

    Raises:
        RscError: there was not enough memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_full(error):
            raise
        raise RscError(
            "There is not enough memory to train.",
            " ".join(str(error).split())[:200] or type(error).__name__,
            "Split batches with optimiser.accumulate, lower batch_size or encoder.steps, or use a smaller "
            "network.",
        ) from error


def is_full(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
