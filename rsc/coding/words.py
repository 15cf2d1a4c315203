"""Counter-based random words and the integers drawn from them; numpy alone, as Lava's worker loads this file.

The words at a site depend on (seed, stream, sample id, draw, step, site) and nothing else, so they are the
same for every target, batch size and order. Source of the generator: Salmon et al., "Parallel random numbers:
as easy as 1, 2, 3", SC 2011; checked against its published vectors. What is drawn here is exact integer
arithmetic: the same bits with every numpy on every machine.
"""

from __future__ import annotations

import numpy as np

UNIFORM_BITS = 60  # of the numbers that a Gaussian's thresholds are compared with
STREAM_SHIFT = 28  # of the counter word that holds stream and draw

_ROUNDS = 10
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Philox4x32-10 of counters.

    Args:
        counter: uint64 [4, n], each word below 2^32.
        key: two 32-bit words.

    Returns:
        uint64 [4, n], four random 32-bit words per counter.
    """
    out = np.array(counter, np.uint64, order="C")
    c0, c1, c2, c3 = out
    p0, p1 = np.empty_like(c0), np.empty_like(c0)
    k0, k1 = key
    for _ in range(_ROUNDS):  # in place: the block of words stays in the cache
        np.multiply(_M0, c0, out=p0)
        np.multiply(_M1, c2, out=p1)
        np.right_shift(p1, _SHIFT, out=c0)
        c0 ^= c1
        c0 ^= np.uint64(k0)
        np.right_shift(p0, _SHIFT, out=c2)
        c2 ^= c3
        c2 ^= np.uint64(k1)
        np.bitwise_and(p1, _LOW, out=c1)
        np.bitwise_and(p0, _LOW, out=c3)
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return out


def tags(draws: np.ndarray, stream: int) -> np.ndarray:
    """The counter word uint64 [B] of draws int64 [B] below 2^28 in a stream 0..15."""
    return draws.astype(np.uint64) | np.uint64(stream << STREAM_SHIFT)


def words_at(seed: int, step: np.ndarray, sample: np.ndarray, tag: np.ndarray, blocks: int) -> np.ndarray:
    """uint64 [4, rows, blocks]: `blocks` blocks of four 32-bit words for each row.

    Args:
        seed: 64 bits.
        step, sample, tag: uint64 [rows], below 2^32 each.
    """
    site = np.arange(blocks, dtype=np.uint64)
    shape = (len(step), blocks)
    columns = (site[None], step[:, None], sample[:, None], tag[:, None])
    counter = np.stack([np.broadcast_to(c, shape) for c in columns]).reshape(4, -1)
    return philox(counter, (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF)).reshape(4, *shape)


def uniform_integers(words: np.ndarray, size: int, bits: int) -> np.ndarray:
    """int64 [rows, size] in [0, 2^bits), the upper bits of each word; four sites per block."""
    rows = words.shape[1]
    return (words.transpose(1, 2, 0).reshape(rows, -1)[:, :size] >> np.uint64(32 - bits)).astype(np.int64)


def gaussian_integers(words: np.ndarray, size: int, thresholds: np.ndarray) -> np.ndarray:
    """Discretised Gaussian numbers int64 [rows, size]; two sites per block.

    Args:
        thresholds: uint64 [2 R], ascending: round(2^60 P[n <= k]) for k = -R .. R - 1.
    """
    rows = words.shape[1]
    uniform = (words[0::2] << _SHIFT | words[1::2]) >> np.uint64(64 - UNIFORM_BITS)
    uniform = uniform.transpose(1, 2, 0).reshape(rows, -1)[:, :size]
    return np.searchsorted(thresholds, uniform, side="right") - len(thresholds) // 2


def blocks_for(size: int, sites: int) -> int:
    """Blocks for `size` sites, `sites` in each: 4 for uniform integers, 2 for Gaussian ones."""
    return -(-size // sites)
