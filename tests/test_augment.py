"""Augmentation: keyed by (seed, epoch, id) alone, and equal to a plain loop over images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from rsc.training.augment import augment, choices
from rsc.training.config import AugmentConfig

ALL = AugmentConfig(crop=2, flip=True, cutout=3)


def pictures(n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((n, 2, 6, 5)).astype(np.float32), rng.permutation(1000)[:n]


def one(config: AugmentConfig, image: np.ndarray, chosen: Any, k: int, blank: float) -> np.ndarray:
    """One image, pixel by pixel."""
    channels, height, width = image.shape
    out = np.empty_like(image)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                y = i + int(chosen.down[k]) - config.crop
                x = (width - 1 - j if chosen.flip[k] else j) + int(chosen.right[k]) - config.crop
                inside = 0 <= y < height and 0 <= x < width
                out[c, i, j] = image[c, y, x] if inside else blank
    top, left = (
        int(chosen.row[k]) - config.cutout // 2,
        int(chosen.column[k]) - config.cutout // 2,
    )
    for i in range(top, top + config.cutout):
        for j in range(left, left + config.cutout):
            if 0 <= i < height and 0 <= j < width:
                out[:, i, j] = blank
    return out


@pytest.mark.parametrize(
    "config", [ALL, AugmentConfig(crop=1), AugmentConfig(flip=True), AugmentConfig(cutout=2)], ids=str
)
def test_it_is_a_loop_over_pixels(config: AugmentConfig) -> None:
    x, ids = pictures()
    chosen = choices(config, 5, 2, ids, x.shape[1:])
    expected = np.stack([one(config, image, chosen, k, 0.5) for k, image in enumerate(x)])
    np.testing.assert_array_equal(augment(config, x, ids, 5, 2, 0.5), expected)


def test_an_image_is_changed_the_same_way_in_any_batch_and_order() -> None:
    x, ids = pictures()
    whole = augment(ALL, x, ids, 1, 4, 0.0)
    order = np.random.default_rng(1).permutation(len(x))
    np.testing.assert_array_equal(augment(ALL, x[order], ids[order], 1, 4, 0.0), whole[order])
    for k in (0, 7):
        np.testing.assert_array_equal(augment(ALL, x[k : k + 1], ids[k : k + 1], 1, 4, 0.0), whole[k : k + 1])


def test_seed_and_epoch_change_it_and_nothing_else_does() -> None:
    x, ids = pictures()
    first = augment(ALL, x, ids, 1, 4, 0.0)
    np.testing.assert_array_equal(augment(ALL, x, ids, 1, 4, 0.0), first)
    assert not np.array_equal(augment(ALL, x, ids, 2, 4, 0.0), first)
    assert not np.array_equal(augment(ALL, x, ids, 1, 5, 0.0), first)


def test_without_settings_images_are_untouched() -> None:
    x, ids = pictures()
    assert augment(AugmentConfig(), x, ids, 1, 4, 0.0) is x


def test_choices_are_even() -> None:
    """Chi-squared tests at a fixed key; the limit is passed by chance once in ten thousand keys."""
    n = 20000
    chosen = choices(ALL, 0, 0, np.arange(n), (1, 8, 8))
    for values, count in ((chosen.down, 5), (chosen.right, 5), (chosen.flip, 2), (chosen.row, 8)):
        seen = np.bincount(values.astype(np.int64), minlength=count)
        assert len(seen) == count
        assert stats.chisquare(seen).pvalue > 1e-4
    pairs = np.bincount(chosen.down * 5 + chosen.right, minlength=25)
    assert stats.chisquare(pairs).pvalue > 1e-4
