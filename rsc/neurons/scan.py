"""General neuron updates over time as fused scans: what the `torch` target runs NIR neurons with.

    leak_scan:   v_t = alpha v_{t-1} + beta x_t + c
    spike_scan:  h_t = alpha v_{t-1} + beta x_t + c,  s_t = [h_t > v_threshold] (or >=),
                 v_t = v_reset where s_t, else h_t    ("value")
                 v_t = h_t - v_threshold s_t          ("subtract")

The coefficients are numbers or tensors that broadcast to one step [B, ...]. Backward keeps h alone; the
derivative of the step is the surrogate's, and the gradient through the reset is dropped where
`detach_reset`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rsc.neurons import kernels
from rsc.neurons.integrate import drive_all, driver, integrator, scaled
from rsc.neurons.memory import dense_copy, empty_like
from rsc.neurons.rule import Coefficient, Fire, Leak, learnt
from rsc.neurons.steppers import leak_stepper, spike_stepper

__all__ = [
    "Coefficient",
    "Fire",
    "Leak",
    "driver",
    "leak_scan",
    "leak_stepper",
    "spike_scan",
    "spike_stepper",
    "threshold",
]


def leak_scan(x: Tensor, v0: Tensor, leak: Leak) -> tuple[Tensor, Tensor]:
    """Leaky integration.

    Args:
        x: input [T, B, ...].
        v0: state before the first step [B, ...].

    Returns:
        states after every step [T, B, ...], state after the last [B, ...].
    """
    if learnt(leak.beta, leak.c):  # autograd does these
        x, leak = driver(x, leak), Leak(leak.alpha, 1.0, 0.0)
    if torch.is_grad_enabled() and (x.requires_grad or v0.requires_grad or learnt(leak.alpha)):
        v = _LeakScan.apply(x, v0, leak.alpha, leak)
    else:
        v = _leak(x, v0, leak)
    return v, v[-1]  # type: ignore[index,return-value]


def spike_scan(x: Tensor, v0: Tensor, leak: Leak, fire: Fire) -> tuple[Tensor, Tensor]:
    """Integration with threshold and reset.

    Args:
        x: input [T, B, ...].
        v0: membrane before the first step [B, ...].

    Returns:
        spikes [T, B, ...] of 0 and 1, membrane after the last step [B, ...].
    """
    return kernels.scan(x, v0, leak, fire)


def threshold(x: Tensor, fire: Fire) -> Tensor:
    """Spikes of an input without memory, with the surrogate's derivative."""
    still = Leak(0.0, 1.0, 0.0)
    return spike_scan(x[None], torch.zeros_like(x), still, fire)[0][0]


class _LeakScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, v0: Tensor, alpha: Coefficient, leak: Leak) -> Tensor:
        v = _leak(x, v0, leak)
        ctx.leak = leak
        if learnt(alpha):
            ctx.save_for_backward(v, v0)
        return v

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        leak, of_alpha = ctx.leak, None
        grad = dense_copy(grads[0])
        carried = grad[-1]
        for t in reversed(range(len(grad) - 1)):
            carried = grad[t].add_(carried * leak.alpha)
        if ctx.saved_tensors:
            v, v0 = ctx.saved_tensors
            of_alpha = (grad[0] * v0).sum_to_size(leak.alpha.shape)
            for t in range(1, len(grad)):
                of_alpha = of_alpha + (grad[t] * v[t - 1]).sum_to_size(leak.alpha.shape)
        return scaled(grad, leak.beta), carried * leak.alpha, of_alpha, None


def _leak(x: Tensor, v0: Tensor, leak: Leak) -> Tensor:
    (drive, integrate), v, before = integrator(leak, x.dtype), empty_like(x), v0
    for arriving, out in zip(drive_all(drive, x).unbind(), v.unbind(), strict=True):
        before = integrate(arriving, before, out=out)
    return v
