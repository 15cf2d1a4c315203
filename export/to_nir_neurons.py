"""Neuron layers of `rsc.neurons` as NIR nodes.

v' = decay v + x   is   tau dv/dt = -v + r x   with tau = dt / (1 - decay) and r = tau / dt; without a leak
(decay 1)   dv/dt = r x   with r = 1 / dt.
"""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
import torch
from torch import nn

from rsc.errors import UnsupportedNode
from rsc.neurons import LI, LIF, Neurons

Shape = tuple[int, ...]


def is_neuron(layer: nn.Module) -> bool:
    """Whether a layer is LIF (IF is one), or LI, and does what they do."""
    if not isinstance(layer, LIF | LI) or type(layer).forward is not Neurons.forward:
        return False
    return type(layer).run is (LIF if isinstance(layer, LIF) else LI).run


def neuron(layer: LIF | LI, shape: Shape, dt: float) -> tuple[str, nir.NIRNode]:
    """(kind, node) of a neuron layer over values of `shape`.

    Raises:
        UnsupportedNode: its parameters do not fit the shape, or only some of its neurons leak.
    """
    decay = _spread("decay", layer.decay, shape)
    if np.any(decay == 1) and not np.all(decay == 1):
        raise UnsupportedNode(
            "Some neurons of a layer have decay 1 and some less.",
            "NIR keeps neurons with and without a leak in nodes of different kinds.",
            "Keep the decays below 1, or all at 1.",
        )
    leaks = not np.all(decay == 1)
    tau = dt / (1 - decay) if leaks else None
    r = tau / dt if tau is not None else _short(np.full(shape, 1.0 / dt))
    zero = np.zeros(shape, np.float32)
    if isinstance(layer, LI):
        return ("li", nir.LI(tau=tau, r=r, v_leak=zero)) if tau is not None else ("i", nir.I(r=r))
    v_threshold = _short(_spread("v_threshold", layer.v_threshold, shape))
    if tau is None:
        return "if", nir.IF(r=r, v_threshold=v_threshold, v_reset=zero)
    return "lif", nir.LIF(tau=tau, r=r, v_leak=zero, v_threshold=v_threshold, v_reset=zero.copy())


def rule(layers: list[LIF | LI], field: str, default: str, what: str) -> Any:
    """The reset rule or comparison that all spiking layers share.

    Raises:
        UnsupportedNode: they differ.
    """
    found = {getattr(layer, field) for layer in layers if isinstance(layer, LIF)} or {default}
    if len(found) > 1:
        raise UnsupportedNode(
            f"The network mixes {what}.",
            f"Found {sorted(found)}; a program has one.",
            "Use one of them.",
        )
    return found.pop()


def _spread(field: str, value: float | torch.Tensor, shape: Shape) -> np.ndarray:
    """One number, or one per channel, over all neurons; float64."""
    array = np.asarray(
        value.detach().double().cpu() if isinstance(value, torch.Tensor) else value, np.float64
    )
    if array.ndim == 1:
        array = array.reshape(-1, *[1] * (len(shape) - 1))
    try:
        return np.broadcast_to(array, shape).copy()
    except ValueError as error:
        raise UnsupportedNode(
            f"The {field} of a layer of neurons has shape {array.shape}.",
            f"The neurons have shape {shape}.",
            "Give one number, or one per channel.",
        ) from error


def _short(values: np.ndarray) -> np.ndarray:
    """In float32 where that is exact, else as they are."""
    rounded = values.astype(np.float32)
    return rounded if np.array_equal(rounded, values) else values
