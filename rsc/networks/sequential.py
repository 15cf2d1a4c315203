"""Layers over time: stateless layers see [T*B, ...], neurons see [T, B, ...].

Every network is built of these two containers, so this file is the one place where neurons and weights are
called.
"""

from __future__ import annotations

from torch import Tensor, nn

from rsc.front import Front
from rsc.networks import tiles
from rsc.networks.average_pool import average_pool
from rsc.neurons import Neurons


def runs_over_time(layer: nn.Module) -> bool:
    """Whether a layer takes [T, B, ...]: a neuron, or a module that says so by `over_time = True`."""
    return isinstance(layer, Neurons) or bool(getattr(layer, "over_time", False))


_AFFINE = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.AvgPool2d)


def _is_affine(layer: nn.Module) -> bool:
    """Whether every sample meets the same affine map, and nobody listens to it."""
    plain = type(layer) in (*_AFFINE, nn.Flatten, nn.Identity)
    return (
        plain
        and not (layer.training and isinstance(layer, nn.modules.batchnorm._BatchNorm))
        and not (layer._forward_hooks or layer._forward_pre_hooks)
    )


class SpikingSequential(nn.Sequential):
    """nn.Sequential for frames [T, B, ...]; returns outputs [T, B, ...].

    A network without neurons (an ANN) treats every frame on its own. On a CPU, inference (eval mode, without
    gradients) sees a few samples at a time.
    """

    over_time = True

    def forward(self, input: Tensor) -> Tensor:
        """Outputs [T, B, ...] of frames [T, B, ...]."""
        if tiles.applies_to(self, input):
            return tiles.in_tiles(self._run, input, self.__dict__.setdefault("_sizes", {}))
        return self._run(input)

    def front(self) -> Front | None:
        """The affine layers before the first other one; None if there are none, or all are listened to."""
        layers = list(self)
        n = next((i for i, layer in enumerate(layers) if not _is_affine(layer)), len(layers))
        weights = [layer for layer in layers[:n] if not isinstance(layer, nn.Flatten)]
        if n == len(layers) or not weights or self._forward_hooks or self._forward_pre_hooks:
            return None
        return Front(nn.Sequential(*layers[:n]), self[n:])

    def _run(self, input: Tensor) -> Tensor:
        steps, batch = input.shape[:2]
        x, folded = input, False
        for layer in self:
            if runs_over_time(layer) == folded:
                x = x.unflatten(0, (steps, batch)) if folded else x.flatten(0, 1)
                folded = not folded
            x = average_pool(layer, x) if type(layer) is nn.AvgPool2d else layer(x)
            tiles.note(x)
        return x.unflatten(0, (steps, batch)) if folded else x


class Residual(nn.Module):
    """body(x) + shortcut(x), both over time; an empty shortcut is the identity."""

    over_time = True

    def __init__(self, body: SpikingSequential, shortcut: SpikingSequential) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """The sum [T, B, ...] of frames [T, B, ...]."""
        return self.body(x) + self.shortcut(x)
