"""Data sets by name: images [N, C, H, W] float32 inside stated bounds, integer labels, class names.

Samples are known by their index in the split; the index is the sample id of noise keys, so
nothing depends on loading order. Nothing is ever downloaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rsc.errors import InputRefused, UsageError, unknown_name

Split = Literal["train", "test"]


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set.

    Fields:
        images: float32 [N, C, H, W] within bounds.
        targets: int64 [N].
        ids: int64 [N], sample identities for noise keys.
    """

    name: str
    split: Split
    images: np.ndarray
    targets: np.ndarray
    ids: np.ndarray
    bounds: tuple[float, float]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def head(self, n: int | None) -> Dataset:
        """The first n samples (all if None)."""
        if n is not None and n < 1:
            raise UsageError(f"{n} samples were asked for.", "At least one is needed.", "Use n >= 1.")
        return dataclasses.replace(self, images=self.images[:n], targets=self.targets[:n], ids=self.ids[:n])


def _digits(split: Split, root: Path | None) -> Dataset:
    """scikit-learn's digits: 1,797 real 8x8 images; 1,297 to train, 500 held out by a fixed shuffle."""
    from sklearn.datasets import load_digits

    raw: Any = load_digits()
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(raw.data))
    ids = order[:-500] if split == "train" else order[-500:]
    images = (raw.images[ids, None] / 16).astype(np.float32)
    labels = tuple(str(k) for k in range(10))
    return Dataset(
        "digits", split, images, raw.target[ids].astype(np.int64), ids.astype(np.int64), (0, 1), labels
    )


def _torchvision(name: str, cls: str, labels: tuple[str, ...]) -> Callable[[Split, Path | None], Dataset]:
    def load(split: Split, root: Path | None) -> Dataset:
        from torchvision import datasets

        folder = root or Path("data")
        try:
            raw = getattr(datasets, cls)(folder, train=split == "train", download=False)
        except RuntimeError as error:
            raise InputRefused(
                f"Data set '{name}' is not in '{folder}'.",
                str(error).splitlines()[0],
                f"Put it there (torchvision.datasets.{cls}(root, download=True)) or give --data-root.",
            ) from error
        images = raw.data.numpy()[:, None].astype(np.float32) / 255
        targets = np.asarray(raw.targets, np.int64)
        return Dataset(name, split, images, targets, np.arange(len(images)), (0, 1), labels)

    return load


_CLOTHES = (
    "T-shirt",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

DATASETS: dict[str, Callable[[Split, Path | None], Dataset]] = {
    "digits": _digits,
    "mnist": _torchvision("mnist", "MNIST", tuple(str(k) for k in range(10))),
    "fashion-mnist": _torchvision("fashion-mnist", "FashionMNIST", _CLOTHES),
}


def load(name: str, split: Split, root: Path | None = None) -> Dataset:
    """One split of the data set `name`; `root` is the folder of sets that are not embedded.

    Raises:
        UsageError: unknown name.
        InputRefused: the files are not there.
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    return DATASETS[name](split, root)
