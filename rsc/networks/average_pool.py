"""Average pooling whose backward pass is one write: torch's fills the gradient with zeros and adds to it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def average_pool(layer: nn.AvgPool2d, x: Tensor) -> Tensor:
    """layer(x) for x [N, C, H, W], with the same values and gradients."""
    kernel = _pair(layer.kernel_size)
    wanted = torch.is_grad_enabled() and x.requires_grad
    return _Pool.apply(x, kernel) if wanted and _is_plain(layer, x) else layer(x)  # type: ignore[return-value]


def _is_plain(layer: nn.AvgPool2d, x: Tensor) -> bool:
    """Whether windows neither overlap nor leave anything out, and nobody listens to the layer."""
    kernel, listened = _pair(layer.kernel_size), layer._forward_hooks or layer._forward_pre_hooks
    return (
        kernel == _pair(layer.stride)
        and _pair(layer.padding) == (0, 0)
        and layer.divisor_override is None
        and not listened
        and x.ndim == 4
        and all(n % k == 0 for n, k in zip(x.shape[2:], kernel, strict=True))
    )


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[-1])


class _Pool(torch.autograd.Function):
    """Windows that neither overlap nor leave anything out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: tuple[int, int]) -> Tensor:
        ctx.kernel, ctx.last = kernel, x.is_contiguous(memory_format=torch.channels_last)
        return nn.functional.avg_pool2d(x, kernel)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,), (high, wide) = grads, ctx.kernel
        n, c, h, w = grad.shape
        layout = torch.channels_last if ctx.last else torch.contiguous_format
        share = grad / (high * wide)
        if torch.is_grad_enabled():  # a second derivative is asked for
            return share.repeat_interleave(high, 2).repeat_interleave(wide, 3), None
        out = torch.empty(
            (n, c, h * high, w * wide), dtype=grad.dtype, device=grad.device, memory_format=layout
        )
        out.unflatten(3, (w, wide)).unflatten(2, (h, high)).copy_(share[:, :, :, None, :, None])
        return out, None
