"""Samples that are decoded when they are asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np

from rsc.errors import UsageError

AT_ONCE = 2**32  # bytes; above this a request is a mistake rather than a batch


@dataclasses.dataclass(frozen=True, eq=False)
class LazyImages:
    """A sequence of N samples that looks like a float32 array [N, *sample_shape].

    Sample i is a function of the files and of i alone, whatever was read before and by whichever thread.
    A request holds the array that it returns and one sample being decoded; nothing is kept.

    Fields:
        read: position in the set -> float32 array of `sample_shape`; may be called by several threads.
        sample_shape: [C, H, W] or [T, C, H, W].
        order: int64 [N], the positions that this sequence goes through.
    """

    dtype: ClassVar[np.dtype] = np.dtype(np.float32)

    read: Callable[[int], np.ndarray]
    sample_shape: tuple[int, ...]
    order: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *sample_shape)."""
        return (len(self.order), *self.sample_shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.read(int(k)) for k in self.order)

    def take(self, index: slice | np.ndarray) -> LazyImages:
        """The samples at `index` (as numpy reads it), undecoded."""
        return dataclasses.replace(self, order=self._positions(index))

    def __getitem__(self, index: Any) -> np.ndarray:
        """One sample (int) or [n, *sample_shape] (slice, index array or mask over the first axis).

        Raises:
            IndexError: outside 0..N-1.
            UsageError: more than 4 GiB at once, or an index over several axes.
            InputRefused: a file cannot be read.
        """
        positions = self._positions(index)
        if positions.ndim == 0:
            return self.read(int(positions))
        size = len(positions) * int(np.prod(self.sample_shape)) * self.dtype.itemsize
        if size > AT_ONCE:
            raise UsageError(
                f"{len(positions):,} samples were asked for at once.",
                f"They take {size / 2**30:.1f} GiB decoded, more than {AT_ONCE / 2**30:g}.",
                "Read them in batches, or take fewer (head, --n).",
            )
        out = np.empty((len(positions), *self.sample_shape), self.dtype)
        for slot, position in zip(out, positions, strict=True):
            slot[...] = self.read(int(position))
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All samples decoded, as `np.asarray` wants them; see `__getitem__` for what it raises."""
        if copy is False:
            raise ValueError("samples that are decoded on demand have no array to share")
        return self[:].astype(dtype or self.dtype, copy=False)

    def _positions(self, index: Any) -> np.ndarray:
        if isinstance(index, tuple):
            raise _no_number("is a tuple")
        if not isinstance(index, slice):
            index = np.asarray(index)
            if not index.size:
                index = index.astype(np.int64)
            numbers = index.dtype.kind in "iu" and index.ndim < 2
            mask = index.dtype.kind == "b" and index.ndim == 1
            if not (numbers or mask):
                raise _no_number(f"has shape {index.shape} and type {index.dtype}")
        return np.asarray(self.order[index])


def _no_number(what: str) -> UsageError:
    return UsageError(
        "Samples that are decoded on demand were asked for by other than their numbers.",
        f"The index {what}.",
        "Use a slice, integers or a mask over the first axis.",
    )
