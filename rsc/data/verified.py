"""CIFAR-10, CIFAR-100 and SVHN through torchvision, each file compared with its published MD5 first.

CIFAR's files are pickles: unpickling a file that somebody else made runs what its maker wrote. Only files
that have the MD5 of the published ones are opened, here and once more in torchvision. MD5 resists making a
second file with a *given* sum, which is what this needs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rsc.data.dataset import Dataset, Split
from rsc.data.source import Place


def read_cifar(place: Place, split: Split, cls: str) -> Dataset:
    """One split of CIFAR; `cls` is the name in torchvision.datasets. All files of both splits are needed.

    Raises:
        InputRefused: a file is missing.
        MalformedFile: a file is not the published one.
    """
    from torchvision import datasets

    kind: Any = getattr(datasets, cls)
    folder = place.root / kind.base_folder
    meta = (kind.meta["filename"], kind.meta["md5"])
    for name, md5 in (*kind.train_list, *kind.test_list, meta):
        place.require_md5(folder / name, md5)
    try:
        raw = kind(place.root, train=split == "train", download=False)
    except (RuntimeError, OSError) as error:  # it changed since
        raise place.unreadable(folder, error) from error
    return _dataset(place, split, raw.data.transpose(0, 3, 1, 2), raw.targets, tuple(raw.classes))


def read_svhn(place: Place, split: Split) -> Dataset:
    """One split of SVHN, cropped digits 32 x 32 (the 'extra' images are left out); the digit 0 is class 0.

    Raises:
        InputRefused: the file is missing.
        MalformedFile: it is not the published one.
    """
    from torchvision import datasets

    kind: Any = datasets.SVHN
    _, name, md5 = kind.split_list[split]
    place.require_md5(place.root / name, md5)
    try:
        raw = kind(place.root, split=split, download=False)
    except (RuntimeError, OSError) as error:
        raise place.unreadable(place.root / name, error) from error
    return _dataset(place, split, raw.data, raw.labels, tuple(str(k) for k in range(10)))


def _dataset(
    place: Place, split: Split, pixels: np.ndarray, targets: Any, labels: tuple[str, ...]
) -> Dataset:
    images = np.empty(pixels.shape, np.float32)
    np.divide(pixels, np.float32(255), out=images)
    return Dataset(
        place.name, split, images, np.asarray(targets, np.int64), np.arange(len(images)), (0, 1), labels
    )
