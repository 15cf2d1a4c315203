"""One split of a data set: samples, labels, identities."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np

from rsc.data.lazy import LazyImages
from rsc.errors import InputRefused, UsageError

Split = Literal["train", "test"]

_CHUNK = 2**23  # bytes of float32 samples that mean_std() looks at together


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set.

    Fields:
        images: float32 [N, C, H, W] within bounds; [N, T, C, H, W] if `frames`. An array, or for large sets a
            `LazyImages`, which decodes the samples that are asked for.
        targets: int64 [N].
        ids: int64 [N], sample identities for noise keys.
        bounds: least and largest value that a pixel may have.
        labels: name of each class.
        frames: the samples are event frames over T steps, which need no encoder.
    """

    name: str
    split: Split
    images: Any  # np.ndarray | LazyImages; a union would ask every user of arrays for a cast
    targets: np.ndarray
    ids: np.ndarray
    bounds: tuple[float, float]
    labels: tuple[str, ...]
    frames: bool = False

    def __len__(self) -> int:
        return len(self.images)

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """(C, H, W): of an image, or of one frame of a sample."""
        return tuple(self.images.shape[2 if self.frames else 1 :])

    def head(self, n: int | None) -> Dataset:
        """The first n samples (all if None); nothing is decoded.

        Raises:
            UsageError: n < 1.
        """
        if n is not None and n < 1:
            raise UsageError(f"{n} samples were asked for.", "At least one is needed.", "Use n >= 1.")
        images = self.images.take(slice(n)) if isinstance(self.images, LazyImages) else self.images[:n]
        return dataclasses.replace(self, images=images, targets=self.targets[:n], ids=self.ids[:n])

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and population standard deviation of each channel over samples, pixels and time steps.

        Summed in float64 chunk by chunk (Chan, Golub and LeVeque 1983, eq. 2.1), so that memory stays
        bounded; every call reads all samples again.

        Raises:
            InputRefused: there are no samples; or one of them cannot be read.
        """
        if not len(self):
            raise InputRefused(f"'{self.name}' has no samples.", "A mean needs one.", "Choose another split.")
        step = max(1, _CHUNK // (4 * int(np.prod(self.images.shape[1:]))))
        n, mean, m2 = 0, np.zeros(1), np.zeros(1)
        for start in range(0, len(self), step):
            x = np.moveaxis(self.images[start : start + step], 2 if self.frames else 1, 0)
            x = x.reshape(len(x), -1).astype(np.float64)
            more, middle = x.shape[1], x.mean(1)
            apart = middle - mean
            m2 = m2 + ((x - middle[:, None]) ** 2).sum(1) + apart**2 * (n * more / (n + more))
            mean = mean + apart * (more / (n + more))
            n += more
        return tuple(map(float, mean)), tuple(map(float, np.sqrt(m2 / n)))
