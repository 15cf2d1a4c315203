"""Crop, flip and cutout of training images, keyed by (seed, epoch, sample id).

What happens to an image depends on its key alone: neither on the batch it is in, nor on the order of
batches, nor on who draws it. Numbers come from the counter-based generator of `rsc.coding.noise`, under a
tag that no noise stream uses. Crop and flip as in He et al. (arXiv 1512.03385, section 4.2), cutout as in
DeVries and Taylor (arXiv 1708.04552, section 3.2: a square at a random centre, cut off at the border).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from rsc.coding.noise import philox
from rsc.training.config_tables import AugmentConfig

_TAG = 0xF << 28


@dataclasses.dataclass(frozen=True, eq=False)
class Choices:
    """What is done to each of B images.

    Fields:
        down, right: int64 [B], origin of the crop in the padded image, 0 to 2 crop.
        flip: bool [B].
        row, column: int64 [B], centre of the cutout.
    """

    down: np.ndarray
    right: np.ndarray
    flip: np.ndarray
    row: np.ndarray
    column: np.ndarray


def choices(config: AugmentConfig, seed: int, epoch: int, ids: np.ndarray, shape: tuple[int, ...]) -> Choices:
    """Draw what happens to the samples `ids` [B] of shape (C, H, W) in an epoch."""
    size, n = 2 * config.crop + 1, len(ids)
    site = np.repeat(np.arange(2, dtype=np.uint64), n)
    when, tag = np.full(2 * n, epoch, np.uint64), np.full(2 * n, _TAG, np.uint64)
    counter = np.stack([site, when, np.tile(ids.astype(np.uint64), 2), tag])
    words = philox(counter, (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF)).reshape(4, 2, n)
    first, second = words[:, 0], words[:, 1]
    flip = _below(first[2], 2).astype(bool) & config.flip
    return Choices(
        _below(first[0], size),
        _below(first[1], size),
        flip,
        _below(second[0], shape[1]),
        _below(second[1], shape[2]),
    )


def augment(
    config: AugmentConfig, images: np.ndarray, ids: np.ndarray, seed: int, epoch: int, blank: float
) -> np.ndarray:
    """Images [B, C, H, W] as this epoch sees them; all frames of a sample [B, T, C, H, W] change alike.

    Args:
        blank: value of pixels from outside the image and of the cutout.
    """
    if not (config.crop or config.flip or config.cutout):
        return images
    if images.ndim == 5:
        together = images.reshape(len(images), -1, *images.shape[3:])
        return augment(config, together, ids, seed, epoch, blank).reshape(images.shape)
    chosen = choices(config, seed, epoch, ids, images.shape[1:])
    height, width = images.shape[2:]
    rows, columns = np.arange(height)[None], np.arange(width)[None]
    if config.crop or config.flip:
        across = np.where(chosen.flip[:, None], columns[:, ::-1], columns) + chosen.right[:, None]
        padded = np.pad(images, ((0, 0), (0, 0), *[(config.crop, config.crop)] * 2), constant_values=blank)
        who = np.arange(len(images))[:, None, None, None]
        channel = np.arange(images.shape[1])[None, :, None, None]
        down = (rows + chosen.down[:, None])[:, None, :, None]
        images = padded[who, channel, down, across[:, None, None, :]]
    if config.cutout:
        high = _covered(rows, chosen.row, config.cutout)
        wide = _covered(columns, chosen.column, config.cutout)
        hole = high[:, None, :, None] & wide[:, None, None, :]
        images = np.where(hole, np.float32(blank), images)
    return images


def _covered(line: np.ndarray, centre: np.ndarray, side: int) -> np.ndarray:
    """Bool [B, length]: the pixels of a stretch of `side` around each centre."""
    start = centre[:, None] - side // 2
    return (line >= start) & (line < start + side)


def _below(words: np.ndarray, limit: int) -> np.ndarray:
    """Integers from 0 to limit - 1 out of 32 random bits each; uneven by less than limit / 2^32."""
    return (words * np.uint64(limit) >> np.uint64(32)).astype(np.int64)
