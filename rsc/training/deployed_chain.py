"""The chain of layers that is deployed, batch norm folded, as torch modules; and the way back."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import nir
import torch
from torch import Tensor, nn

from rsc.errors import UnsupportedNode
from rsc.networks import SpikingSequential
from rsc.neurons import LIF
from rsc.program import Program

WEIGHTED = (nn.Conv2d, nn.Linear)
CHAIN = (*WEIGHTED, nn.BatchNorm2d, nn.AvgPool2d, nn.Flatten, LIF)


def deployed_layers(network: nn.Sequential, program: Program) -> Iterator[nn.Module]:
    """The layers of a network with batch norm folded as in its program; weights are copies."""
    nodes: Iterator[Any] = iter(
        [n for n in program.graph.nodes.values() if isinstance(n, nir.Conv2d | nir.Affine)]
    )
    layers = list(network)
    for layer, after in zip(layers, [*layers[1:], None], strict=True):
        if isinstance(layer, WEIGHTED):
            node, folded = next(nodes), copy.deepcopy(layer)
            folded.weight = nn.Parameter(torch.from_numpy(node.weight.copy()))
            if layer.bias is not None or isinstance(after, nn.BatchNorm2d):
                folded.bias = nn.Parameter(torch.from_numpy(node.bias.copy()))
            yield folded
        elif not isinstance(layer, nn.BatchNorm2d):
            yield layer


def with_values(network: SpikingSequential, modules: list[Any]) -> SpikingSequential:
    """A copy of a network with the weights and biases of the deployed chain.

    Batch norm becomes an addition of the bias: folding 1 / sqrt(running_var + eps) = 1 changes no float32.
    """
    made = copy.deepcopy(network).eval()
    layers, left = list(made), iter(modules)
    with torch.no_grad():
        for layer, after in zip(layers, [*layers[1:], None], strict=True):
            if not isinstance(layer, WEIGHTED):
                continue
            module = next(left)
            layer.weight.copy_(module.weight)
            normed = isinstance(after, nn.BatchNorm2d)
            if layer.bias is not None:
                layer.bias.copy_(torch.zeros_like(layer.bias) if normed else module.bias)
            if normed:
                _make_identity(after, module.bias)
    return made


def _make_identity(norm: nn.BatchNorm2d, bias: Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(-bias)
    norm.running_var.fill_(1 - norm.eps)
    if norm.affine:
        norm.weight.fill_(1.0)
        norm.bias.zero_()


def problems(network: nn.Module) -> Iterator[str]:
    """Why a network is no chain that is known here."""
    if not isinstance(network, SpikingSequential):
        yield f"A {type(network).__name__} is not a SpikingSequential."
        return
    for before, layer in itertools.pairwise([None, *network]):
        kind = type(layer).__name__
        if not isinstance(layer, CHAIN):
            yield f"It contains a {kind}."
        if isinstance(layer, nn.BatchNorm2d) and not isinstance(before, nn.Conv2d):
            yield "A BatchNorm2d does not follow a Conv2d."
        if isinstance(layer, LIF) and not (type(layer.decay) is type(layer.v_threshold) is float):
            yield f"Its {kind} neurons differ in decay or threshold."
        if isinstance(layer, LIF) and next(layer.parameters(), None) is not None:
            yield f"Its {kind} neurons learn their constants."


def no_chain(why: str) -> UnsupportedNode:
    names = ", ".join(kind.__name__ for kind in CHAIN)
    return UnsupportedNode(
        "The network cannot be fine-tuned for Loihi.",
        f"{why} Fine-tuning knows chains of {names}, each weighted layer followed by its neurons.",
        "Calibrate its program instead (rsc export --to loihi --calibrate mse).",
    )
