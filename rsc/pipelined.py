"""A layered program in the time of the chip, where every connection takes a step and biases never wait.

The time of a `LayeredProgram` is that of its frames: what a layer does at step t belongs to frame t, and
happens `levels()` steps later on Loihi and in Lava. `pipelined` writes the steps on the way into the delays,
so that step t of the result is step t of the chip:

    delay of a synapse = 1 + its wait,   delay of the constant = k + level of the layer that hears it.

A chip that is started does not know where the first frame is. Until that reaches a layer of level l, l steps
pass in which biases already act: neurons may be charged, and fire, when the first frame comes. The program's
own view does not have these steps: target `lava` clears each layer when its first frame comes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from rsc.errors import UnsupportedNode, UsageError
from rsc.layered import CONSTANT, Layer, LayeredProgram


def pipelined(layered: LayeredProgram) -> LayeredProgram:
    """The program whose step t is step t of the chip, from the moment it is started.

    The first frame enters at step 0, and the constant is sent in phase with the frames; layer l does at step
    t + levels()[l] what belongs to frame t. It runs on the integer model like any other layered program, on
    frames that `padded` has lengthened.

    Raises:
        UnsupportedNode: see `LayeredProgram.levels`.
    """
    levels = layered.levels()
    layers = []
    for layer in layered.layers:
        late = [
            c.delay + levels[layer.name] if c.source == CONSTANT else 1 + layered.waits(layer, c)
            for c in layer.connections
        ]
        made = tuple(
            dataclasses.replace(c, delay=np.asarray(delay, np.int32))
            for c, delay in zip(layer.connections, late, strict=True)
        )
        layers.append(dataclasses.replace(layer, connections=made))
    return dataclasses.replace(layered, layers=tuple(layers))


def depth(layered: LayeredProgram) -> int:
    """Steps on the chip between a frame and what the last layer does with it."""
    return max(layered.levels().values(), default=0)


def padded(layered: LayeredProgram, frames: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Frames [T, B, ...] with `depth` frames of zeros behind them, in which the last one gets through.

    Args:
        layered: the program in its own time.
    """
    more = depth(layered)
    return {
        name: np.concatenate([values, np.zeros((more, *values.shape[1:]), values.dtype)])
        for name, values in frames.items()
    }


def resting(layered: LayeredProgram) -> frozenset[str]:
    """The layers that do nothing on the chip before their first frame is there, nor any that they hear.

    Without input v stays where it starts, below the threshold. Of these layers the program's own view is that
    of the chip, `levels` steps earlier.
    """
    still = {layer.name for layer in layered.layers if _stays(layer, layered.arithmetic == "integer")}
    while True:
        stirred = {
            layer.name
            for layer in layered.layers
            if layer.name in still
            and any(c.source in layered.by_name and c.source not in still for c in layer.connections)
        }
        if not stirred:
            return frozenset(still)
        still -= stirred


def in_chip_time(layered: LayeredProgram, layer: str, values: np.ndarray, start: float = 0) -> np.ndarray:
    """What a layer did in the program's time as the chip does it, [T + level, ...].

    Args:
        values: spikes, u or v [T, ...] of a run of `layered`.
        start: what they are before the first frame: 0 of spikes and u, v_init of v.

    Raises:
        UsageError: there is no such layer.
        UnsupportedNode: the layer is not `resting`, so the chip does something else.
    """
    if layer not in layered.by_name:
        raise UsageError(
            f"There is no layer '{layer}'.", f"Layers: {', '.join(layered.by_name)}.", "Choose one of them."
        )
    level = layered.levels()[layer]
    if layer not in resting(layered):
        raise UnsupportedNode(
            f"Layer '{layer}' does not wait for the first frame on the chip.",
            f"For {level} steps its own bias or v_init, or that of a layer before it, acts alone.",
            "Run pipelined(layered) on padded frames, which does what the chip does.",
        )
    before = np.zeros((level, *values.shape[1:]), values.dtype) + np.asarray(start, values.dtype)
    return np.concatenate([before, values])


def _stays(layer: Layer, integer: bool) -> bool:
    """Whether a layer without input keeps its v for ever and does not fire."""
    v = np.broadcast_to(np.asarray(layer.v_init), layer.shape)
    if not integer:
        after = v * (1 - np.asarray(layer.dv)) + layer.bias_mant
        return bool((after == v).all() and (v <= layer.vth).all())
    product = v.astype(np.int64) * (4096 - np.asarray(layer.dv, np.int64))
    mantissa = np.asarray(layer.bias_mant, np.int64)
    bias = mantissa << layer.bias_exp if layer.bias_exp >= 0 else mantissa >> -layer.bias_exp
    after = np.sign(product) * (np.abs(product) >> 12) + bias
    return bool((after == v).all() and (v <= np.asarray(layer.vth, np.int64) << 6).all())
