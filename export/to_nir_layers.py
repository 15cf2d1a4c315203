"""Stateless torch layers as NIR nodes: one small function per type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nir
import numpy as np
import torch
from torch import nn

from rsc.errors import UnsupportedNode
from rsc.networks import StepBatchNorm2d

Shape = tuple[int, ...]
Converted = tuple[str, nir.NIRNode]

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, StepBatchNorm2d)
UNCHANGED = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def conv1d(layer: nn.Conv1d, shape: Shape) -> Converted:
    """[C, L] -> [C', L']."""
    return "conv", nir.Conv1d(input_shape=shape[1], **_window(layer))


def conv2d(layer: nn.Conv2d, shape: Shape) -> Converted:
    """[C, H, W] -> [C', H', W']."""
    return "conv", nir.Conv2d(input_shape=shape[1:], **_window(layer))  # type: ignore[arg-type]


def _window(layer: nn.Conv1d | nn.Conv2d) -> dict[str, Any]:
    if layer.padding_mode != "zeros":
        raise UnsupportedNode(
            f"A {type(layer).__name__} pads with '{layer.padding_mode}'.",
            "NIR knows zero padding.",
            "Use padding_mode='zeros'.",
        )
    fields = {f: getattr(layer, f) for f in ("stride", "padding", "dilation")}
    if isinstance(layer, nn.Conv1d):
        fields = {f: v if isinstance(v, str) else v[0] for f, v in fields.items()}
    return {"weight": array(layer.weight), "bias": _bias(layer), "groups": layer.groups, **fields}


def linear(layer: nn.Linear, shape: Shape) -> Converted:
    """[.., in] -> [.., out]."""
    return "affine", nir.Affine(array(layer.weight), _bias(layer))


def pool(layer: nn.AvgPool2d, shape: Shape) -> Converted:
    """[C, H, W] -> [C, H', W']; divisor_override=1 is a sum."""
    divisor = layer.divisor_override
    if layer.ceil_mode or (not layer.count_include_pad and np.any(layer.padding)) or divisor not in (None, 1):
        raise UnsupportedNode(
            "An AvgPool2d uses ceil_mode, count_include_pad=False or divisor_override.",
            "NIR carries kernel, stride and padding only.",
            "Use the defaults (divisor_override=1 gives a sum, which NIR has).",
        )
    kind = nir.AvgPool2d if divisor is None else nir.SumPool2d
    return "pool", kind(*(np.array(pair(v)) for v in (layer.kernel_size, layer.stride, layer.padding)))


def adaptive_pool(layer: nn.AdaptiveAvgPool2d, shape: Shape) -> Converted:
    """[C, H, W] -> [C, h, w] where h divides H and w divides W."""
    size = [n if want is None else want for n, want in zip(shape[1:], pair(layer.output_size), strict=True)]
    if any(n % want for n, want in zip(shape[1:], size, strict=True)):
        raise UnsupportedNode(
            f"An AdaptiveAvgPool2d takes {shape[1:]} to {tuple(size)}.",
            "Its windows would differ in size, which NIR cannot say.",
            "Choose a size that divides the sides.",
        )
    kernel = np.array([n // want for n, want in zip(shape[1:], size, strict=True)])
    return "pool", nir.AvgPool2d(kernel, kernel.copy(), np.zeros(2, kernel.dtype))


def flatten(shape: Shape) -> Converted:
    """All axes of a sample become one."""
    return "flatten", nir.Flatten({"input": np.array(shape)}, start_dim=0, end_dim=-1)


CONVERTERS: dict[type[nn.Module], Callable[[Any, Shape], Converted]] = {
    nn.Conv1d: conv1d,
    nn.Conv2d: conv2d,
    nn.Linear: linear,
    nn.AvgPool2d: pool,
    nn.AdaptiveAvgPool2d: adaptive_pool,
}

CARRIED = (
    "Conv1d, Conv2d, Linear, AvgPool2d, AdaptiveAvgPool2d, Flatten, Dropout, batch norm behind weights, "
    "sums, constant factors, and LIF, IF and LI of rsc.neurons"
)

REMEDIES = {
    "MaxPool2d": "Use average pooling, and train with it.",
    "max_pool2d": "Use average pooling, and train with it.",
    "ReLU": "Use spiking neurons (rsc.neurons; neuron='lif').",
    "relu": "Use spiking neurons (rsc.neurons; neuron='lif').",
    "conv2d": "Use nn.Conv2d.",
    "linear": "Use nn.Linear.",
    "cat": "Give each branch weights of its own and add the results.",
    "__getitem__": "Give all steps [T, B, ...] to layers at once; rsc.neurons keep the time.",
    "LayerNorm": "Use batch norm, which is folded into the weights.",
    "GroupNorm": "Use batch norm, which is folded into the weights.",
}


def array(tensor: torch.Tensor) -> np.ndarray:
    """A copy of weights, as float32 or float64."""
    tensor = tensor.detach().cpu()
    return (tensor if tensor.dtype == torch.float64 else tensor.float()).numpy().copy()


def pair(value: Any) -> tuple[Any, Any]:
    """One value per spatial axis."""
    return (value[0], value[1]) if isinstance(value, tuple | list) else (value, value)


def _bias(layer: nn.Conv1d | nn.Conv2d | nn.Linear) -> np.ndarray:
    return array(layer.bias) if layer.bias is not None else np.zeros(len(layer.weight), np.float32)
