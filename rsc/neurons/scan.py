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
import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from rsc.neurons.surrogate import SURROGATES, Surrogate

Coefficient = float | Tensor

# _select(h, h, -inf, first, grad_input=v) writes h where h < first, else 0: what the derivative of a clamp
# does to a gradient, here h itself. The bare operator, because calls on small tensors are all overhead.
# _step(one, h, below, grad_input=z) writes 1 where h > below, else 0.
_step = torch.ops.aten.threshold_backward.grad_input
_select = torch.ops.aten.hardtanh_backward.grad_input


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

    @property
    def to_zero(self) -> bool:
        """Whether all share a threshold and v after a spike is 0: then one pass gives v (`_select`)."""
        return self.reset == "value" and _is(self.v_reset, 0) and isinstance(self.v_threshold, float)

    def first_firing(self, dtype: torch.dtype) -> float:
        """Smallest number of a type that fires; for thresholds that are `to_zero`."""
        limit = torch.tensor(self.v_threshold, dtype=dtype)
        above = torch.nextafter(limit, limit.new_tensor(math.inf))
        return float(above if self.comparison == ">" else limit)

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


def leak_stepper(
    v: Tensor, leak: Leak, driven: bool = False
) -> tuple[Callable[[Tensor], Tensor], Callable[[], Tensor]]:
    """`leak_scan` one step at a time, without gradient.

    Args:
        v: state before the first step [B, ...].
        driven: what arrives is beta x + c already (`driver`).

    Returns:
        the step, input -> state after it, a new tensor; and how to get the last state.
    """
    drive, integrate = _integrator(leak, v.dtype, driven)

    def step(x: Tensor) -> Tensor:
        nonlocal v
        v = integrate(drive(x), v)
        return v

    return step, lambda: v


def spike_stepper(
    v: Tensor, leak: Leak, fire: Fire, driven: bool = False
) -> tuple[Callable[[Tensor], Tensor], Callable[[], Tensor]]:
    """`spike_scan` one step at a time, without gradient.

    Args:
        v: membrane before the first step [B, ...].
        driven: what arrives is beta x + c already (`driver`).

    Returns:
        the step, input -> spikes, a new tensor; and how to get the last membrane.
    """
    (drive, integrate), v = _integrator(leak, v.dtype, driven), v.clone()
    if not fire.to_zero:

        def step(x: Tensor) -> Tensor:
            h = integrate(drive(x), v)
            spikes = fire.spikes(h, torch.empty_like(h))
            fire.after(h, spikes, out=v)
            return spikes

        return step, lambda: v
    first, one = fire.first_firing(v.dtype), v.new_ones(())
    below = float(torch.nextafter(torch.tensor(first, dtype=v.dtype), torch.tensor(-math.inf, dtype=v.dtype)))

    def cut_step(x: Tensor) -> Tensor:
        h = integrate(x, v) if driven else integrate(drive(x), v)
        _select(h, h, -math.inf, first, grad_input=v)
        return _step(one, h, below, grad_input=h)

    return cut_step, lambda: v


def _leak(x: Tensor, v0: Tensor, leak: Leak) -> Tensor:
    (drive, integrate), v, before = _integrator(leak, x.dtype), _empty_like(x), v0
    for arriving, out in zip(_driven(drive, x).unbind(), v.unbind(), strict=True):
        before = integrate(arriving, before, out=out)
    return v


def _fire(x: Tensor, v0: Tensor, leak: Leak, fire: Fire, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    """Spikes and last membrane; writes h of all steps into `keep` if given."""
    (drive, integrate), spikes, v = _integrator(leak, x.dtype), _empty_like(x), v0
    x = _driven(drive, x)
    if fire.to_zero:
        first, h = fire.first_firing(x.dtype), spikes if keep is None else keep
        buffer = torch.empty_like(h[0])
        for arriving, now in zip(x.unbind(), h.unbind(), strict=True):
            v = _select(integrate(arriving, v, out=now), now, -math.inf, first, grad_input=buffer)
        return fire.spikes(h, spikes), v
    buffer = torch.empty_like(spikes[0]) if keep is None else None
    for t, (arriving, fired) in enumerate(zip(x.unbind(), spikes.unbind(), strict=True)):
        h = integrate(arriving, v, out=buffer if keep is None else keep[t])
        v = fire.after(h, fire.spikes(h, fired), out=buffer)
    return spikes, v


def _integrator(
    leak: Leak, dtype: torch.dtype, driven: bool = False
) -> tuple[Callable[[Tensor], Tensor], Callable[..., Tensor]]:
    """alpha v + beta x + c in two parts: x -> driven, for many steps at once; (driven, v, out=) -> h."""
    if dtype == torch.float64 and not driven:

        def exact(x: Tensor, v: Tensor, out: Tensor | None = None) -> Tensor:
            h = torch.mul(v, leak.alpha, out=out).add_(_scaled(x, leak.beta))
            return h if _is(leak.c, 0) else h.add_(leak.c)

        return lambda x: x, exact

    def drive(x: Tensor) -> Tensor:
        return x if driven else driver(x, leak)

    if isinstance(leak.alpha, float):
        return drive, functools.partial(torch.add, alpha=leak.alpha)

    def spread(x: Tensor, v: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.addcmul(x, v, leak.alpha, out=out)  # type: ignore[call-overload]

    return drive, spread


def driver(x: Tensor, leak: Leak) -> Tensor:
    """beta x + c: what an input adds to the state of a step, of any shape that ends as one step."""
    driven = _scaled(x, leak.beta)
    return driven if _is(leak.c, 0) else driven + leak.c


def _driven(drive: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`drive` over all steps [T, ...]; once for all where they do not change (stride 0)."""
    return drive(x[:1]).expand(x.shape) if len(x) > 1 and x.stride(0) == 0 else drive(x)


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
