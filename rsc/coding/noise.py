"""Keyed noise for whole batches: normals by Box-Muller, discretised Gaussians and uniform integers.

The value at a site depends on (seed, stream, sample id, draw, step, site) alone (`rsc.coding.words`), so
frames are the same for every target, batch size and order.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from rsc.coding.thresholds import thresholds
from rsc.coding.words import blocks_for, gaussian_integers, philox, tags, uniform_integers, words_at
from rsc.errors import UsageError
from rsc.results import Keys

__all__ = ["STREAMS", "keyed_gaussian_integers", "keyed_integers", "keyed_normal", "philox"]

STREAMS = {"run": 0, "train": 1, "attack": 2, "score": 3, "select": 4, "estimate": 5}

_CHUNK_BLOCKS = 1 << 14  # words of so many stay in the cache; fewer cost calls
_TABLE_BITS = 12
_COSINE, _SINE = (f(2 * np.pi * np.arange(1 << _TABLE_BITS) / (1 << _TABLE_BITS)) for f in (np.cos, np.sin))
_Draw = Callable[[np.ndarray, np.ndarray], np.ndarray]  # words [4, rows, blocks], step [rows] -> [rows, size]


def keyed_normal(keys: Keys, steps: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normals, float32 [steps, B, *shape]; frame t of sample b is keyed by (keys, b, t)."""
    size = math.prod(shape)
    return _drawn(keys, steps, shape, 4, np.float32, lambda words, _: _box_muller(words)[:, :size])


def keyed_integers(keys: Keys, steps: int, shape: tuple[int, ...], bits: int) -> np.ndarray:
    """Uniform integers in [0, 2^bits), int64 [steps, B, *shape]."""
    size = math.prod(shape)
    return _drawn(keys, steps, shape, 4, np.int64, lambda words, _: uniform_integers(words, size, bits))


def keyed_gaussian_integers(keys: Keys, sigmas: Sequence[float], shape: tuple[int, ...]) -> np.ndarray:
    """Discretised Gaussians int64 [len(sigmas), B, *shape] of standard deviations in levels."""
    size, tables = math.prod(shape), [thresholds(s) for s in sigmas]

    def draw(words: np.ndarray, step: np.ndarray) -> np.ndarray:
        out = np.empty((len(step), size), np.int64)
        for t in np.unique(step):
            mine = step == t
            out[mine] = gaussian_integers(words[:, mine], size, tables[int(t)])
        return out

    return _drawn(keys, len(sigmas), shape, 2, np.int64, draw)


def _drawn(
    keys: Keys, steps: int, shape: tuple[int, ...], sites: int, dtype: type, draw: _Draw
) -> np.ndarray:
    """What `draw` makes of the words of every frame, [steps, B, *shape]; `sites` of them in each block."""
    size, batch = math.prod(shape), len(keys)
    blocks = blocks_for(size, sites)
    draws = np.broadcast_to(np.asarray(keys.draw, dtype=np.int64), (batch,))
    _check_range(keys, draws, steps)
    out = np.empty((steps * batch, size), dtype)
    step = np.repeat(np.arange(steps, dtype=np.uint64), batch)
    sample = np.tile(keys.samples.astype(np.uint64), steps)
    tag = np.tile(tags(draws, STREAMS[keys.stream]), steps)
    rows = max(1, _CHUNK_BLOCKS // max(blocks, 1))

    def fill(start: int) -> None:
        part = slice(start, start + rows)
        out[part] = draw(words_at(keys.seed, step[part], sample[part], tag[part], blocks), step[part])

    _for_all(fill, range(0, len(out), rows))
    return out.reshape(steps, batch, *shape)


def _for_all(work: Callable[[int], None], parts: range) -> None:
    """Do the parts, in as many threads as torch has; numpy lets others run while it computes."""
    torch = sys.modules.get("torch")
    threads = min(len(parts), torch.get_num_threads() if torch else 1)
    if threads < 2:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, parts))


def _box_muller(words: np.ndarray) -> np.ndarray:
    """Two pairs of words -> four normals per block, float32 [rows, 4 * blocks]."""
    rows = words.shape[1]
    radius = np.sqrt(-2.0 * np.log((words[0::2].astype(np.float64) + 1.0) * 2.0**-32))
    cosine, sine = _on_circle(words[1::2])
    normal = np.concatenate([radius * cosine, radius * sine])
    return normal.transpose(1, 2, 0).reshape(rows, -1).astype(np.float32)


def _on_circle(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of 2 pi words / 2^32, within 1e-15: the tabled angle below, turned by what is left.

    Half the time of np.cos and np.sin, and products and sums alone, which every machine rounds alike.
    """
    at = (words >> np.uint64(32 - _TABLE_BITS)).astype(np.intp)
    c, s = _COSINE.take(at), _SINE.take(at)
    x = (words & np.uint64((1 << 32 - _TABLE_BITS) - 1)).astype(np.float64)
    x *= 2 * np.pi * 2.0**-32
    square = x * x
    small = square * (1 / 120)  # sin x by its series; the next term is below 1e-24
    small -= 1 / 6
    small *= square
    small += 1
    small *= x
    less = square * (1 / 24)  # cos x - 1; the next term is below 1e-19
    less -= 0.5
    less *= square
    cosine, sine = c * less, s * less
    cosine -= s * small
    cosine += c
    sine += c * small
    sine += s
    return cosine, sine


def _check_range(keys: Keys, draws: np.ndarray, steps: int) -> None:
    if keys.seed >= 1 << 64 or keys.samples.max(initial=0) >= 1 << 32 or draws.max(initial=0) >= 1 << 28:
        raise UsageError(
            "A noise key is too large.",
            "Limits: seed < 2^64, sample id < 2^32, draw < 2^28.",
            "Use smaller numbers.",
        )
    if steps >= 1 << 32:
        raise UsageError(f"steps is {steps}.", "The counter holds 32 bits of it.", "Use fewer steps.")
