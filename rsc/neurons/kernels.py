"""The one place where spiking neurons run over time: `scan`, and the table of kernels behind it.

A kernel is a pair of functions on dense memory (see `rsc.neurons.stepwise`). Adding one: a file, and a line
in `KERNELS` before the kernels that it beats; the first that fits is taken. Every kernel gives the same
spikes and gradients, bit by bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rsc.errors import UsageError
from rsc.neurons import stepwise
from rsc.neurons.integrate import drive_all, driver, scaled
from rsc.neurons.memory import empty_like, graph_is_kept, is_dense, refuse_second_derivatives
from rsc.neurons.rule import Fire, Leak, as_number, learnt
from rsc.neurons.stepwise import Wanted

HALVES = (torch.bfloat16, torch.float16)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Forward and backward pass, with the arguments of those in `rsc.neurons.stepwise`, and when they fit."""

    fits: Callable[[Tensor, Leak, Fire], bool]
    forward: Callable[..., Tensor]
    backward: Callable[..., Tensor]


KERNELS: dict[str, Kernel] = {
    "stepwise": Kernel(lambda x, leak, fire: True, stepwise.forward, stepwise.backward),
}


def scan(
    x: Tensor, v0: Tensor | None, leak: Leak, fire: Fire, *, inplace: bool = False
) -> tuple[Tensor, Tensor]:
    """Integration with threshold and reset; gradients for x, v0 and all coefficients that ask for one.

    bfloat16 and float16 are computed in float32; the spikes come back in the type of x, the state does not.

    Args:
        x: input [T, B, ...].
        v0: membrane before the first step [B, ...]; None is zero.
        inplace: x may be written over: nothing else reads it, now or in the backward pass. If autograd has
            kept x for another operation, the backward pass raises; it never gives a wrong gradient.

    Returns:
        spikes [T, B, ...] of 0 and 1, membrane after the last step [B, ...].

    Raises:
        UsageError: `inplace` on a leaf that requires a gradient.
    """
    if x.dtype in HALVES:
        spikes, v = scan(x.float(), None if v0 is None else v0.float(), leak, fire, inplace=True)
        return spikes.to(x.dtype), v
    if not len(x):
        return x, (x.new_zeros(x.shape[1:]) if v0 is None else v0)
    if learnt(leak.beta, leak.c):  # autograd does these
        x, leak = driver(x, leak), Leak(leak.alpha, 1.0, 0.0)
    coefficients = leak.alpha, fire.v_threshold, fire.v_reset
    graph = torch.is_grad_enabled() and (
        x.requires_grad or learnt(*coefficients) or (v0 is not None and v0.requires_grad)
    )
    leak = Leak(as_number(leak.alpha), as_number(leak.beta), as_number(leak.c))
    fire = dataclasses.replace(fire, v_threshold=as_number(fire.v_threshold), v_reset=as_number(fire.v_reset))
    if graph:
        _not_a_leaf(x, inplace)
        return _Scan.apply(x, v0, *coefficients, leak, fire, inplace)  # type: ignore[return-value]
    spikes, v, _ = _forward(x, v0, leak, fire, inplace, keep=False)
    return spikes, v


def _not_a_leaf(x: Tensor, inplace: bool) -> None:
    if inplace and x.is_leaf and x.requires_grad:
        raise UsageError(
            "Neurons in place on a tensor that wants a gradient.",
            "It is no result of a layer, so its values would be lost.",
            "Use inplace=False here.",
        )


def _forward(
    x: Tensor, v0: Tensor | None, leak: Leak, fire: Fire, inplace: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes, last membrane, and where the membrane before the reset was written if `keep`."""
    x = x.detach()
    arriving = x if x.dtype == torch.float64 else drive_all(lambda part: driver(part, leak), x)
    mine = is_dense(arriving) and (inplace or arriving is not x)
    place = arriving if mine else empty_like(x)
    spikes = empty_like(x) if keep else place
    kernel = _kernel(x, leak, fire)
    return spikes, kernel.forward(arriving, v0, leak, fire, spikes, place if keep else None), place


def _kernel(x: Tensor, leak: Leak, fire: Fire) -> Kernel:
    return next(kernel for kernel in KERNELS.values() if kernel.fits(x, leak, fire))


class _Scan(torch.autograd.Function):
    """Keeps h alone; the spikes of the backward pass are compared anew."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        v0: Tensor | None,
        alpha: Any,
        v_threshold: Any,
        v_reset: Any,
        leak: Leak,
        fire: Fire,
        inplace: bool,
    ) -> tuple[Tensor, Tensor]:
        spikes, v, h = _forward(x, v0, leak, fire, inplace, keep=True)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(h, v0 if learnt(alpha) else None)
        ctx.rule = leak, fire, v0 is not None
        ctx.coefficients = [
            torch.empty_like(k, device="meta") if learnt(k) else None for k in (alpha, v_threshold, v_reset)
        ]
        return spikes, v

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        refuse_second_derivatives()
        h, v0 = ctx.saved_tensors
        leak, fire, started = ctx.rule
        grad_spikes, grad_v = grads
        if grad_spikes is None:
            grad_spikes = h.new_zeros(()).expand(h.shape)
        wanted = Wanted(
            *(None if k is None else torch.zeros_like(k, device=h.device) for k in ctx.coefficients)
        )
        # The gradient of a step needs h of that step alone, so it may take its place.
        place = empty_like(h) if graph_is_kept() else h
        kernel = _kernel(h, leak, fire)
        grad_v0 = kernel.backward(h, v0, grad_spikes, grad_v, leak, fire, place, wanted)
        found = (wanted.alpha, wanted.v_threshold, wanted.v_reset)
        return scaled(place, leak.beta), grad_v0 if started else None, *found, None, None, None
