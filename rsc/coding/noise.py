"""Keyed Gaussian noise: Philox4x32-10 counters turned into normals by Box-Muller.

The value at a site depends on (seed, stream, sample id, draw, step, site) alone, so frames are
the same for every target, batch size and order. Source of the generator: Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011; checked against its published vectors.
"""

from __future__ import annotations

import math

import numpy as np

from rsc.errors import UsageError
from rsc.results import Keys

STREAMS = {"run": 0, "train": 1, "attack": 2, "score": 3, "select": 4, "estimate": 5}

_ROUNDS = 10
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)
_CHUNK_BLOCKS = 1 << 18  # bounds the working memory to some tens of MB


def philox(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Philox4x32-10 of counters.

    Args:
        counter: uint64 [4, n], each word below 2^32.
        key: two 32-bit words.

    Returns:
        uint64 [4, n], four random 32-bit words per counter.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (
            (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3])


def keyed_normal(keys: Keys, steps: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normals, float32 [steps, B, *shape]; frame t of sample b is keyed by (keys, b, t)."""
    size = math.prod(shape)
    blocks = -(-size // 4)
    batch = len(keys)
    draws = np.broadcast_to(np.asarray(keys.draw, dtype=np.int64), (batch,))
    _check_range(keys, draws, steps)
    out = np.empty((steps * batch, size), np.float32)
    seed = (keys.seed & 0xFFFFFFFF, keys.seed >> 32 & 0xFFFFFFFF)
    step = np.repeat(np.arange(steps, dtype=np.uint64), batch)
    sample = np.tile(keys.samples.astype(np.uint64), steps)
    tag = np.tile(draws.astype(np.uint64) | np.uint64(STREAMS[keys.stream] << 28), steps)
    rows = max(1, _CHUNK_BLOCKS // max(blocks, 1))
    site = np.arange(blocks, dtype=np.uint64)
    for start in range(0, len(out), rows):
        part = slice(start, start + rows)
        counter = np.stack(
            [
                np.broadcast_to(w, (len(step[part]), blocks))
                for w in (site[None], step[part, None], sample[part, None], tag[part, None])
            ]
        )
        words = philox(counter.reshape(4, -1), seed)
        out[part] = _box_muller(words, len(step[part]), blocks)[:, :size]
    return out.reshape(steps, batch, *shape)


def _box_muller(words: np.ndarray, rows: int, blocks: int) -> np.ndarray:
    """Two pairs of words -> four normals per block, float32 [rows, 4 * blocks]."""
    scale = 2.0**-32
    radius = np.sqrt(-2.0 * np.log((words[0::2].astype(np.float64) + 1.0) * scale))
    angle = words[1::2].astype(np.float64) * (2.0 * np.pi * scale)
    normal = np.stack([radius * np.cos(angle), radius * np.sin(angle)]).reshape(4, rows, blocks)
    return normal.transpose(1, 2, 0).reshape(rows, 4 * blocks).astype(np.float32)


def _check_range(keys: Keys, draws: np.ndarray, steps: int) -> None:
    if keys.seed >= 1 << 64 or keys.samples.max(initial=0) >= 1 << 32 or draws.max(initial=0) >= 1 << 28:
        raise UsageError(
            "A noise key is too large.",
            "Limits: seed < 2^64, sample id < 2^32, draw < 2^28.",
            "Use smaller numbers.",
        )
    if steps >= 1 << 32:
        raise UsageError(f"steps is {steps}.", "The counter holds 32 bits of it.", "Use fewer steps.")
