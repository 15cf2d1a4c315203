"""scikit-learn's digits, which come with that package."""

from __future__ import annotations

from typing import Any

import numpy as np

from rsc.data.dataset import Dataset, Split
from rsc.data.source import Place


def read_digits(place: Place, split: Split) -> Dataset:
    """1,797 real 8x8 images; 1,297 to train, 500 held out by a fixed shuffle."""
    from sklearn.datasets import load_digits

    raw: Any = load_digits()
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(raw.data))
    ids = order[:-500] if split == "train" else order[-500:]
    images = (raw.images[ids, None] / 16).astype(np.float32)
    labels = tuple(str(k) for k in range(10))
    return Dataset(
        place.name, split, images, raw.target[ids].astype(np.int64), ids.astype(np.int64), (0, 1), labels
    )
