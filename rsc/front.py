"""The affine layers in front of the first neuron, apart from the rest of a network.

Frames with additive noise are z_t = x / s + e_t, so the gradient of the image is that of W x / s, summed over
all steps and draws: one product with W per image instead of one per frame.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from rsc.encoder_spec import COINS, EncoderSpec


@dataclasses.dataclass(frozen=True, eq=False)
class Front:
    """A network in two parts.

    Fields:
        layers: affine, the same at every step: [N, ...] -> [N, ...].
        rest: what layers give over time [T, B, ...] -> outputs [T, B, ...]; may overwrite its input.
    """

    layers: Callable[[Tensor], Tensor]
    rest: Callable[[Tensor], Tensor]


@runtime_checkable
class HasFront(Protocol):
    """A module that can be taken apart."""

    def front(self) -> Front | None:
        """Its two parts; None if no affine layer comes first."""
        ...


def only_adds(spec: EncoderSpec) -> bool:
    """Whether a frame is the image, scaled, plus what does not depend on it."""
    return spec.kind not in COINS and spec.clip is None and spec.grid is None


def outputs(front: Front, frames: Tensor, quiet: Tensor) -> Tensor:
    """Outputs [T, n * B, ...] of frames, with the gradient for `quiet`.

    Args:
        frames: [T, n * B, ...], n draws of each image one after the other.
        quiet: the frame without noise [B, ...]; carries the graph.
    """
    once = front.layers(quiet)
    copies = once.expand(frames.shape[1] // len(once), *once.shape)
    return front.rest(_Currents.apply(copies, front.layers, frames.detach()))  # type: ignore[arg-type]


class _Currents(torch.autograd.Function):
    """What the front makes of frames, with the gradient of what it makes of the frame without noise."""

    @staticmethod
    def forward(ctx: Any, quiet: Tensor, layers: Callable[[Tensor], Tensor], frames: Tensor) -> Tensor:
        ctx.shape = quiet.shape
        return layers(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grads
        return grad.sum(0).reshape(ctx.shape), None, None
