"""What graphs must give, from definitions and other libraries; nothing here uses the package.

Convolution and pooling are sums over every site and tap; linear filters are scipy's; neurons are the
differential equations written out for one neuron at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from scipy.signal import lfilter


def correlate(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    stride: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
    groups: int,
) -> np.ndarray:
    """y[o, site] = bias[o] + sum over the channels of o's group and all taps; x [C, ...], one frame."""
    kernel = weight.shape[2:]
    sites = [
        (n + sum(p) - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(x.shape[1:], padding, dilation, kernel, stride, strict=True)
    ]
    y = np.zeros((len(weight), *sites))
    per_out, per_in = len(weight) // groups, weight.shape[1]
    for o, *site in itertools.product(range(len(weight)), *map(range, sites)):
        total = bias[o]
        for c, *tap in itertools.product(range(per_in), *map(range, kernel)):
            at = [
                i * s + k * d - p[0]
                for i, s, k, d, p in zip(site, stride, tap, dilation, padding, strict=True)
            ]
            if all(0 <= a < n for a, n in zip(at, x.shape[1:], strict=True)):
                total += weight[(o, c, *tap)] * x[(o // per_out * per_in + c, *at)]
        y[(o, *site)] = total
    return y


def window_sum(
    x: np.ndarray, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> np.ndarray:
    """Sum over windows of x [C, H, W]: a correlation of each channel with ones."""
    ones = np.ones((len(x), 1, *kernel))
    pads = tuple((p, p) for p in padding)
    return correlate(x, ones, np.zeros(len(x)), stride, pads, (1, 1), len(x))


def per_frame(rule: Callable[[np.ndarray], np.ndarray], frames: np.ndarray) -> np.ndarray:
    """Apply a rule for one frame of one sample to [T, B, ...]."""
    return np.stack([np.stack([rule(x) for x in batch]) for batch in frames])


def low_pass(frames: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """v_t = alpha v_{t-1} + beta x_t by scipy's recursive filter."""
    return np.asarray(lfilter([beta], [1.0, -alpha], frames, axis=0))


def fire(
    currents: np.ndarray,
    advance: Callable[[float, float], float],
    threshold: float,
    reset: Callable[[float], float],
    strict: bool = True,
) -> np.ndarray:
    """Spikes of one neuron under currents [T]: v <- advance(v, x), fire, v <- reset(v)."""
    v, spikes = 0.0, []
    for x in currents:
        v = advance(v, x)
        spikes.append(v > threshold if strict else v >= threshold)
        v = reset(v) if spikes[-1] else v
    return np.array(spikes, dtype=float)


def every(neurons: Callable[[np.ndarray, int], np.ndarray], frames: np.ndarray) -> np.ndarray:
    """Run `neurons(currents [T], index)` for each element of frames [T, B, n]."""
    columns = [[neurons(frames[:, b, n], n) for n in range(frames.shape[2])] for b in range(frames.shape[1])]
    return np.array(columns).transpose(2, 0, 1)
