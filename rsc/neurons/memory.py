"""Dense memory for tensors [T, B, ...]; what a backward pass must know of its graph."""

from __future__ import annotations

import torch
from torch import Tensor

from rsc.errors import UsageError


def empty_like(x: Tensor) -> Tensor:
    """Dense memory for x [T, B, ...], T outermost, channels last within a step where x has them so."""
    if x.ndim == 5 and x[0].is_contiguous(memory_format=torch.channels_last):
        size = (x.shape[0] * x.shape[1], *x.shape[2:])
        flat = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        return flat.unflatten(0, x.shape[:2])
    return x.new_empty(x.shape)


def empty_step(x: Tensor) -> Tensor:
    """Dense memory for one step [B, ...] of x [T, B, ...]."""
    return empty_like(x[:1])[0]


def dense_copy(x: Tensor) -> Tensor:
    """A copy that may be written to, without the zero strides of expanded gradients."""
    return empty_like(x).copy_(x)


def is_dense(x: Tensor) -> bool:
    """Whether every element of x [T, B, ...] has memory of its own, T outermost."""
    if x.is_contiguous():
        return True
    last = x.ndim == 5 and x[0].is_contiguous(memory_format=torch.channels_last)
    return last and (len(x) == 1 or x.stride(0) == x[0].numel())


def graph_is_kept() -> bool:
    """In a backward pass: whether the graph may be run again (retain_graph, create_graph), or not known."""
    autograd = getattr(torch._C, "_autograd", None)  # no public name; torch's own compiler asks here, too
    asked = getattr(autograd, "_get_current_graph_task_keep_graph", None)
    return True if asked is None else bool(asked())


def refuse_second_derivatives() -> None:
    """In a backward pass: refuse create_graph, under which the surrogate's own derivative would be wanted.

    Raises:
        UsageError: the gradient is to be differentiated.
    """
    if torch.is_grad_enabled():
        raise UsageError(
            "Second derivatives through neurons.",
            "A surrogate takes the place of the first derivative only.",
            "Call backward() or grad() without create_graph.",
        )
