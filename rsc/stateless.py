"""The stateless NIR primitives in numpy, one sample batch x [B, ...] at one step, float64.

Written for reading: a convolution is a loop over its kernel taps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import nir
import numpy as np

from rsc.program import Semantics
from rsc.shapes import Window, flat_shape, window


def affine(node: nir.Affine | nir.Linear, x: np.ndarray, _: Semantics) -> np.ndarray:
    """y = W x (+ b) over the last axis; leading axes of W go with those of x."""
    y = np.matmul(np.asarray(node.weight, np.float64), x[..., None])[..., 0]
    return y if isinstance(node, nir.Linear) else y + np.asarray(node.bias, np.float64)


def scale(node: nir.Scale, x: np.ndarray, _: Semantics) -> np.ndarray:
    """y = s * x, element by element."""
    return np.asarray(node.scale, np.float64) * x


def threshold(node: nir.Threshold, x: np.ndarray, semantics: Semantics) -> np.ndarray:
    """1 where x exceeds the threshold, else 0."""
    return fires(x, np.asarray(node.threshold, np.float64), semantics).astype(np.float64)


def fires(v: np.ndarray, limit: np.ndarray, semantics: Semantics) -> np.ndarray:
    """Where v is above (or, by `semantics.comparison`, at) its limit."""
    return v > limit if semantics.comparison == ">" else v >= limit


def convolution(node: nir.Conv1d | nir.Conv2d, x: np.ndarray, _: Semantics) -> np.ndarray:
    """Cross-correlation of x [B, C, ...] with weight [Co, C/groups, ...], plus the bias of each channel."""
    weight = np.asarray(node.weight, np.float64)
    groups, view = int(node.groups), window(node)
    y = np.zeros((len(x), len(weight), *view.output(x.shape[2:])))
    padded = np.pad(x, ((0, 0), (0, 0), *view.padding))
    inputs = np.split(padded, groups, axis=1)
    kernels, outputs = np.split(weight, groups), np.split(y, groups, axis=1)
    for tap in itertools.product(*map(range, view.kernel)):
        for channels, kernel, out in zip(inputs, kernels, outputs, strict=True):
            out += np.einsum("oc,bc...->bo...", kernel[(..., *tap)], _seen(channels, tap, view, y.shape[2:]))
    return y + np.asarray(node.bias, np.float64).reshape(-1, *[1] * (x.ndim - 2))


def sum_pool(node: nir.SumPool2d | nir.AvgPool2d, x: np.ndarray, _: Semantics) -> np.ndarray:
    """Sum over each window of x [B, C, H, W]; the padding holds zeros."""
    view = window(node)
    spatial = view.output(x.shape[2:])
    padded = np.pad(x, ((0, 0), (0, 0), *view.padding))
    y = np.zeros((*x.shape[:2], *spatial))
    for tap in itertools.product(*map(range, view.kernel)):
        y += _seen(padded, tap, view, spatial)
    return y


def average_pool(node: nir.AvgPool2d, x: np.ndarray, semantics: Semantics) -> np.ndarray:
    """Mean over each window, padding zeros counted."""
    return sum_pool(node, x, semantics) / np.prod(window(node).kernel)


def flatten(node: nir.Flatten, x: np.ndarray, _: Semantics) -> np.ndarray:
    """Merge axes start_dim..end_dim, counted without batch, in C order."""
    return x.reshape(len(x), *flat_shape(node, x.shape[1:]))


def identity(node: nir.Input | nir.Output, x: np.ndarray, _: Semantics) -> np.ndarray:
    """Markers pass on what they get."""
    return x


def _seen(x: np.ndarray, tap: tuple[int, ...], view: Window, spatial: tuple[int, ...]) -> np.ndarray:
    """What one kernel tap sees at every output site."""
    starts = [i * d for i, d in zip(tap, view.dilation, strict=True)]
    axes = zip(starts, view.stride, spatial, strict=True)
    return x[(..., *(slice(first, first + step * (n - 1) + 1, step) for first, step, n in axes))]


STATELESS: dict[type, Callable[[Any, np.ndarray, Semantics], np.ndarray]] = {
    nir.Input: identity,
    nir.Output: identity,
    nir.Affine: affine,
    nir.Linear: affine,
    nir.Scale: scale,
    nir.Threshold: threshold,
    nir.Conv1d: convolution,
    nir.Conv2d: convolution,
    nir.SumPool2d: sum_pool,
    nir.AvgPool2d: average_pool,
    nir.Flatten: flatten,
}
