"""The parameters of a layer's neurons as Lava's LIF takes them, checked: it checks nothing itself.

A float or a list where Lava's fixed-point model shifts bits hangs its runtime, so what leaves here is a
number of the right type or an array in Lava's layout (W, H, C).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rsc.errors import UnsupportedNode
from rsc.hw_targets.lava_layout import to_lava
from rsc.layered import STATE_MAX, VTH_MAX, Layer

LIMITS = {"du": (0, 4095), "dv": (0, 4096), "vth": (0, VTH_MAX), "v_init": (-STATE_MAX, STATE_MAX)}
BIAS_EXP_LIMITS = (-7, 7)
BIAS_LIMITS = (-4096, 4095)


def neuron(layer: Layer, integer: bool) -> dict[str, np.ndarray]:
    """Decays, threshold and first v: int32 or float64, [] where all neurons agree, else in Lava's layout.

    Raises:
        UnsupportedNode: not integers, or outside what Lava's model and Loihi hold.
    """
    values = {name: _values(layer, name, getattr(layer, name)) for name in LIMITS}
    if integer:
        for name, limits in LIMITS.items():
            _check(layer, name, values[name], limits)
        _check(layer, "bias_exp", np.asarray(layer.bias_exp), BIAS_EXP_LIMITS)
    kind = np.int32 if integer else np.float64
    return {name: _shared(value.astype(kind)) for name, value in values.items()}


def bias(layer: Layer, integer: bool) -> np.ndarray:
    """The layer's bias in Lava's layout: int32 mantissas of 13 signed bits, or float64."""
    values = _values(layer, "bias_mant", layer.bias_mant)
    low, high = BIAS_LIMITS
    if integer and (not np.array_equal(values, np.rint(values)) or values.min() < low or values.max() > high):
        _refuse(layer, f"bias mantissas must be integers in {low}..{high}.", "Use a larger bias_exp.")
    return to_lava(values.astype(np.int32 if integer else np.float64), 0)


def _values(layer: Layer, name: str, value: Any) -> np.ndarray:
    """The parameter of every neuron, in the layer's shape."""
    array = np.asarray(value)
    if array.ndim and array.shape != layer.shape:
        _refuse(
            layer, f"{name} has the shape {array.shape}, not {layer.shape}.", "Give a number or the shape."
        )
    if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        _refuse(layer, f"a neuron parameter is not finite: {name}.", "Check the export.")
    return np.broadcast_to(array, layer.shape)


def _check(layer: Layer, name: str, value: np.ndarray, limits: tuple[int, int]) -> None:
    low, high = limits
    wrong = (value != np.rint(value)) | (value < low) | (value > high)
    if wrong.any():
        found = np.asarray(value)[wrong].ravel()[0]
        _refuse(layer, f"{name} is {found}; integers {low}..{high} are possible.", "Quantise the program.")


def _shared(value: np.ndarray) -> np.ndarray:
    """One number [] for all neurons where they agree."""
    first = value.reshape(-1)[:1]
    return first.reshape(()).copy() if (value == first).all() and value.size else to_lava(value, 0)


def _refuse(layer: Layer, why: str, fix: str) -> None:
    raise UnsupportedNode(f"Lava cannot run layer '{layer.name}' as it is:", why, fix)
