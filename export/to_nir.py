"""A trained chain of torch layers becomes a NIR graph; batch norm is folded into the layer before it.

v' = decay v + x   is   tau dv/dt = -v + r x   with tau = dt / (1 - decay) and r = tau / dt.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools

import nir
import numpy as np
import torch
from torch import nn

from rsc.errors import UnsupportedNode
from rsc.neurons import LIF
from rsc.program import EncoderSpec, Program, Semantics


def to_program(
    network: nn.Sequential,
    input_shape: tuple[int, ...],
    encoder: EncoderSpec,
    *,
    dt: float = 1e-3,
    bounds: tuple[float, float] | None = None,
    labels: tuple[str, ...] = (),
) -> Program:
    """Lower a network (in eval mode) to the program that is deployed.

    Args:
        network: Conv2d, Linear, BatchNorm2d, AvgPool2d, Flatten and LIF layers in a chain.
        input_shape: (C, H, W) of one frame.
        dt: time step in seconds; sets tau and has no influence on the spikes.

    Raises:
        UnsupportedNode: a layer or parameter that NIR cannot carry.
    """
    chain = _Chain(tuple(input_shape), dt)
    resets = {layer.reset for layer in network if isinstance(layer, LIF)} or {"value"}
    if len(resets) > 1:
        raise UnsupportedNode(
            "The network mixes reset rules.",
            f"Found {sorted(resets)}; a program has one.",
            "Use one of them.",
        )
    for layer in _folded(list(network)):
        chain.add(layer)
    semantics = Semantics(dt=dt, reset=resets.pop(), readout="mean")  # type: ignore[arg-type]
    return Program(chain.graph(), semantics, encoder, bounds, labels)


def _folded(layers: list[nn.Module]) -> list[nn.Module]:
    """The chain with every BatchNorm2d folded into the Conv2d before it."""
    out: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            if not out or not isinstance(out[-1], nn.Conv2d):
                raise UnsupportedNode(
                    "A BatchNorm2d does not follow a Conv2d.", "There is nothing to fold it into.", "Move it."
                )
            out[-1] = _fold_batch_norm(out[-1], layer)
        else:
            out.append(layer)
    return out


def _fold_batch_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    if norm.running_mean is None or norm.running_var is None:
        raise UnsupportedNode(
            "A BatchNorm2d keeps no running statistics.", "They are needed to fold it.", "Train with them."
        )
    gain = (norm.weight.double() if norm.affine else 1.0) / (norm.running_var.double() + norm.eps).sqrt()
    bias = conv.bias.double() if conv.bias is not None else 0.0
    shift = norm.bias.double() if norm.affine else 0.0
    folded = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        conv.groups,
    )
    with torch.no_grad():
        folded.weight.copy_(conv.weight.double() * gain[:, None, None, None])
        if folded.bias is not None:
            folded.bias.copy_((bias - norm.running_mean.double()) * gain + shift)
    return folded


@dataclasses.dataclass
class _Chain:
    """Nodes in order, with the shape that flows between them."""

    shape: tuple[int, ...]
    dt: float
    nodes: dict[str, nir.NIRNode] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.nodes["input"] = nir.Input(input_type={"input": np.array(self.shape)})

    def add(self, layer: nn.Module) -> None:
        for kind, convert in _CONVERTERS.items():
            if isinstance(layer, kind):
                name, node = convert(self, layer)
                self.nodes[f"{name}{sum(k.rstrip('0123456789') == name for k in self.nodes) + 1}"] = node
                return
        raise UnsupportedNode(
            f"Layer {type(layer).__name__} cannot be exported.",
            f"NIR carries {', '.join(k.__name__ for k in _CONVERTERS)} and folded BatchNorm2d.",
            "Replace the layer, e.g. max pooling by average pooling.",
        )

    def graph(self) -> nir.NIRGraph:
        nodes = self.nodes | {"output": nir.Output(output_type={"output": np.array(self.shape)})}
        names = list(nodes)
        return nir.NIRGraph(nodes, list(itertools.pairwise(names)))

    def conv(self, layer: nn.Conv2d) -> tuple[str, nir.NIRNode]:
        if layer.padding_mode != "zeros":
            raise UnsupportedNode(
                f"A Conv2d pads with '{layer.padding_mode}'.",
                "NIR knows zero padding.",
                "Use padding_mode='zeros'.",
            )
        node = nir.Conv2d(
            input_shape=self.shape[1:],  # type: ignore[arg-type]
            weight=_array(layer.weight),
            stride=layer.stride,  # type: ignore[arg-type]
            padding=layer.padding,  # type: ignore[arg-type]
            dilation=layer.dilation,  # type: ignore[arg-type]
            groups=layer.groups,
            bias=_array(layer.bias) if layer.bias is not None else np.zeros(layer.out_channels, np.float32),
        )
        self.shape = _output_shape(layer, self.shape)
        return "conv", node

    def linear(self, layer: nn.Linear) -> tuple[str, nir.NIRNode]:
        self.shape = (layer.out_features,)
        bias = _array(layer.bias) if layer.bias is not None else np.zeros(layer.out_features, np.float32)
        return "affine", nir.Affine(_array(layer.weight), bias)

    def pool(self, layer: nn.AvgPool2d) -> tuple[str, nir.NIRNode]:
        if layer.ceil_mode or not layer.count_include_pad or layer.divisor_override:
            raise UnsupportedNode(
                "An AvgPool2d uses ceil_mode, count_include_pad=False or divisor_override.",
                "NIR carries kernel, stride and padding only.",
                "Use the defaults.",
            )
        kernel, stride, padding = (
            np.array(_pair(v)) for v in (layer.kernel_size, layer.stride, layer.padding)
        )
        self.shape = _output_shape(layer, self.shape)
        return "pool", nir.AvgPool2d(kernel, stride, padding)

    def flatten(self, layer: nn.Flatten) -> tuple[str, nir.NIRNode]:
        if layer.start_dim != 1 or layer.end_dim != -1:
            raise UnsupportedNode(
                f"A Flatten joins dims {layer.start_dim} to {layer.end_dim}.",
                "All of them are joined here.",
                "Use nn.Flatten().",
            )
        node = nir.Flatten({"input": np.array(self.shape)}, start_dim=0, end_dim=-1)
        self.shape = (int(np.prod(self.shape)),)
        return "flatten", node

    def lif(self, layer: LIF) -> tuple[str, nir.NIRNode]:
        full = np.full(self.shape, 1.0, np.float32)
        if layer.decay == 1:
            return "if", nir.IF(r=full / self.dt, v_threshold=full * layer.v_threshold, v_reset=full * 0)
        tau = np.full(self.shape, self.dt / (1 - layer.decay))
        return "lif", nir.LIF(
            tau=tau, r=tau / self.dt, v_leak=full * 0, v_threshold=full * layer.v_threshold, v_reset=full * 0
        )


_CONVERTERS = {
    nn.Conv2d: _Chain.conv,
    nn.Linear: _Chain.linear,
    nn.AvgPool2d: _Chain.pool,
    nn.Flatten: _Chain.flatten,
    LIF: _Chain.lif,
}


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().copy()


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _output_shape(layer: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape after a stateless layer, by running it on nothing."""
    with torch.no_grad():
        return tuple(copy.deepcopy(layer).to("meta")(torch.empty(1, *shape, device="meta")).shape[1:])
