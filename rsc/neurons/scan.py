"""General neuron updates over time as fused scans: what the `torch` target runs NIR neurons with.

    leak_scan:   v_t = alpha v_{t-1} + beta x_t + c
    spike_scan:  h_t = alpha v_{t-1} + beta x_t + c,  s_t = [h_t > v_threshold] (or >=),
                 v_t = v_reset where s_t, else h_t    ("value")
                 v_t = h_t - v_threshold s_t          ("subtract")

The coefficients are numbers or tensors that broadcast to one step [B, ...]. In float64 every product
and sum is rounded by itself, as in `rsc.hw_targets.reference`. Backward keeps h alone; the derivative
of the step is the surrogate's, and the gradient through the reset is dropped where `detach_reset`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor

from rsc.neurons.surrogate import SURROGATES, Surrogate

Coefficient = float | Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Leak:
    """v' = alpha v + beta x + c."""

    alpha: Coefficient
    beta: Coefficient
    c: Coefficient


@dataclasses.dataclass(frozen=True, eq=False)
class Fire:
    """When a neuron fires, what it does then, and what takes the place of its derivative."""

    v_threshold: Coefficient
    v_reset: Coefficient = 0.0
    reset: Literal["value", "subtract"] = "value"
    comparison: Literal[">", ">="] = ">"
    surrogate: Surrogate = SURROGATES["atan"]
    detach_reset: bool = True

    def spikes(self, h: Tensor, out: Tensor) -> Tensor:
        """Write 1 where h fires and 0 elsewhere into `out`."""
        return (torch.gt if self.comparison == ">" else torch.ge)(h, self.v_threshold, out=out)  # type: ignore[call-overload]

    def silent(self, h: Tensor, out: Tensor) -> Tensor:
        """Write 1 where h does not fire and 0 elsewhere into `out`."""
        return (torch.le if self.comparison == ">" else torch.lt)(h, self.v_threshold, out=out)  # type: ignore[call-overload]

    def after(self, h: Tensor, spikes: Tensor, out: Tensor | None = None) -> Tensor:
        """The membrane after the reset; `out` may be h itself."""
        if self.reset == "subtract":
            return torch.sub(h, spikes * self.v_threshold, out=out)
        if _is(self.v_reset, 0):
            return torch.addcmul(h, h, spikes, value=-1, out=out)
        v_reset = torch.as_tensor(self.v_reset, dtype=h.dtype, device=h.device)
        return torch.where(spikes > 0, v_reset, h, out=out)


def leak_scan(x: Tensor, v0: Tensor, leak: Leak) -> tuple[Tensor, Tensor]:
    """Leaky integration.

    Args:
        x: input [T, B, ...].
        v0: state before the first step [B, ...].

    Returns:
        states after every step [T, B, ...], state after the last [B, ...].
    """
    if torch.is_grad_enabled() and (x.requires_grad or v0.requires_grad):
        v = _LeakScan.apply(x, v0, leak)
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
    if torch.is_grad_enabled() and (x.requires_grad or v0.requires_grad):
        return _SpikeScan.apply(x, v0, leak, fire)  # type: ignore[return-value]
    return _fire(x, v0, leak, fire, None)


def threshold(x: Tensor, fire: Fire) -> Tensor:
    """Spikes of an input without memory, with the surrogate's derivative."""
    still = Leak(0.0, 1.0, 0.0)
    return spike_scan(x[None], torch.zeros_like(x), still, fire)[0][0]


class _LeakScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, v0: Tensor, leak: Leak) -> Tensor:
        ctx.leak = leak
        return _leak(x, v0, leak)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        leak = ctx.leak
        grad = _dense(grads[0])
        carried = grad[-1]
        for t in reversed(range(len(grad) - 1)):
            carried = grad[t].add_(carried * leak.alpha)
        return _scaled(grad, leak.beta), carried * leak.alpha, None


class _SpikeScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, v0: Tensor, leak: Leak, fire: Fire) -> tuple[Tensor, Tensor]:
        h = _empty_like(x)
        spikes, v = _fire(x, v0, leak, fire, h)
        ctx.save_for_backward(h)
        ctx.rule = leak, fire
        return spikes, v

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (h,) = ctx.saved_tensors
        leak, fire = ctx.rule
        grad_spikes, carried = grads
        grad_h, silent = torch.empty_like(h), torch.empty_like(h[0])
        # Step by step, because the values of one step stay in the cache.
        for t in reversed(range(len(h))):
            arriving = grad_spikes[t]
            if not fire.detach_reset:
                arriving = arriving - carried * _reset_jump(h[t], fire)
            grad = torch.mul(fire.surrogate(h[t] - fire.v_threshold), arriving, out=grad_h[t])
            if fire.reset == "subtract":
                grad.add_(carried)
            else:
                grad.addcmul_(carried, fire.silent(h[t], silent))
            carried = grad * leak.alpha
        return _scaled(grad_h, leak.beta), carried, None, None


def _reset_jump(h: Tensor, fire: Fire) -> Tensor | float:
    """How far the reset moves the membrane: minus the derivative of v by s."""
    return fire.v_threshold if fire.reset == "subtract" else h - fire.v_reset


def _leak(x: Tensor, v0: Tensor, leak: Leak) -> Tensor:
    v = _empty_like(x)
    before = v0
    for t in range(len(x)):
        before = _integrate(x[t], before, leak, v[t])
    return v


def _fire(x: Tensor, v0: Tensor, leak: Leak, fire: Fire, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    """Spikes and last membrane; writes h of all steps into `keep` if given."""
    spikes = _empty_like(x)
    v, buffer = v0, torch.empty_like(spikes[0]) if keep is None else None
    for t in range(len(x)):
        h = _integrate(x[t], v, leak, buffer if keep is None else keep[t])
        v = fire.after(h, fire.spikes(h, spikes[t]), out=buffer)
    return spikes, v


def _integrate(x: Tensor, v: Tensor, leak: Leak, out: Tensor | None) -> Tensor:
    """alpha v + beta x + c into `out`."""
    if x.dtype != torch.float64 and isinstance(leak.alpha, float) and _is(leak.beta, 1):
        h = torch.add(x, v, alpha=leak.alpha, out=out)
    else:
        h = torch.mul(v, leak.alpha, out=out).add_(_scaled(x, leak.beta))
    return h if _is(leak.c, 0) else h.add_(leak.c)


def _scaled(x: Tensor, factor: Coefficient) -> Tensor:
    return x if _is(factor, 1) else x * factor


def _is(value: Coefficient, number: float) -> bool:
    return isinstance(value, float) and value == number


def _dense(x: Tensor) -> Tensor:
    """A copy that may be written to, without the zero strides of expanded gradients."""
    return _empty_like(x).copy_(x)


def _empty_like(x: Tensor) -> Tensor:
    """Dense memory for x [T, B, ...], T outermost, channels last within a step where x has them so."""
    if x.ndim == 5 and x[0].is_contiguous(memory_format=torch.channels_last):
        size = (x.shape[0] * x.shape[1], *x.shape[2:])
        flat = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        return flat.unflatten(0, x.shape[:2])
    return x.new_empty(x.shape)
