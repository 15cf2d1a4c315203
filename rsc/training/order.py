"""Which images are trained on, in which order, and who of several ranks takes which."""

from __future__ import annotations

import numpy as np

from rsc.errors import UsageError

_HELD_OUT = 0x56414C  # apart from every epoch's number, so that no order repeats the choice


def held_out(n: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted positions int64 to train on and to validate on, chosen by the seed.

    Raises:
        UsageError: nothing would be left on one side.
    """
    count = round(n * fraction)
    if fraction and not 0 < count < n:
        raise UsageError(
            f"validation.fraction {fraction} of {n} images is {count} images.",
            "Both parts need at least one.",
            "Choose another fraction.",
        )
    if not count:
        return np.arange(n), np.arange(0)
    order = np.random.Generator(np.random.PCG64([seed, 0, _HELD_OUT])).permutation(n)
    return np.sort(order[count:]), np.sort(order[:count])


def batches(positions: np.ndarray, size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Batches of one epoch, the last one smaller; their order depends on (seed, epoch) alone."""
    order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(len(positions))
    return [positions[order[at : at + size]] for at in range(0, len(order), size)]


def part(n: int, index: int, parts: int) -> slice:
    """The rows of a batch of n that part `index` of `parts` takes; sizes differ by one at most."""
    return slice(n * index // parts, n * (index + 1) // parts)


def require_even(batch_size: int, ranks: int, passes: int) -> None:
    """Refuse a batch that cannot be shared out evenly.

    Raises:
        UsageError: batch_size is no multiple of ranks x passes.
    """
    if batch_size % (ranks * passes):
        raise UsageError(
            f"batch_size {batch_size} cannot be split into {ranks} ranks x {passes} passes.",
            "Each must get the same number of images.",
            f"Use a multiple of {ranks * passes}.",
        )
