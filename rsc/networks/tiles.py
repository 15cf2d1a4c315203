"""Inference in tiles of samples: one layer's values of all steps stay in the cache of a CPU.

Convolutions see all steps of a tile at once, so the values between two layers are T times as large as in a
loop over the steps. In tiles they take less memory than there, and less time than in one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

TILE_BYTES = 1 << 24  # of the largest layer; half as much and twice as much take the same time

_largest: ContextVar[list[int] | None] = ContextVar("largest", default=None)  # None outside of a network
Sizes = dict[tuple[int, ...], int]  # shape of one sample over all steps -> bytes of its largest layer


def applies_to(network: nn.Module, x: Tensor) -> bool:
    """Whether a network may see frames [T, B, ...] in tiles: no sample, gradient or hook can tell."""
    return (
        not network.training
        and not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and type(x) is Tensor
        and x.shape[1] > 1
        and _largest.get() is None
        and not torch.compiler.is_compiling()
        and not any(m.training or m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    )


def note(x: Tensor) -> None:
    """Tell the size of values between two layers."""
    largest = _largest.get()
    if largest is not None:
        largest[0] = max(largest[0], x.numel() * x.element_size())


def in_tiles(run: Callable[[Tensor], Tensor], x: Tensor, sizes: Sizes) -> Tensor:
    """run(x), a few samples at a time.

    Args:
        run: frames [T, b, ...] to outputs [T, b, ...].
        x: frames [T, B, ...].
        sizes: what is known of these networks' layers; a shape that is new to it is tried with one sample.
    """
    sample = (x.shape[0], *x.shape[2:])
    if sample not in sizes:
        with _inside() as largest:
            run(x[:, :1])
        sizes[sample] = max(1, largest[0])
    with _inside():
        tiles = x.split(max(1, TILE_BYTES // sizes[sample]), 1)
        return run(x) if len(tiles) == 1 else torch.cat([run(tile) for tile in tiles], 1)


@contextmanager
def _inside() -> Iterator[list[int]]:
    largest = [0]
    token = _largest.set(largest)
    try:
        yield largest
    finally:
        _largest.reset(token)
