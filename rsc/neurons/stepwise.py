"""The scan of spiking neurons as a loop of torch calls over the steps: the kernel that runs everywhere.

On a CPU the samples are cut into blocks of which one step stays in the second-level cache; in blocks of half
a million neurons a step of all calls takes two thirds of the time. What is computed is the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from rsc.neurons.integrate import integrator
from rsc.neurons.memory import empty_step
from rsc.neurons.rule import Coefficient, Fire, Leak, is_number

BLOCK = 1 << 19
_AT_ONCE = 1 << 14  # below so many neurons a call costs more than its arithmetic

# select(h, h, -inf, first, grad_input=v) writes h where h < first, else 0: what the derivative of a clamp
# does to a gradient, here h itself. The bare operator, because calls on small tensors are all overhead.
select = torch.ops.aten.hardtanh_backward.grad_input


def forward(x: Tensor, v0: Tensor | None, leak: Leak, fire: Fire, spikes: Tensor, h: Tensor | None) -> Tensor:
    """Run the neurons.

    Args:
        x: what the input adds, [T, B, ...]; beta and c are in it already, but in float64.
        v0: membrane before the first step [B, ...]; None is zero.
        spikes: where the spikes [T, B, ...] are written; may be x itself if h is None.
        h: where the membrane before the reset is written; may be x itself; None if it is not wanted.

    Returns:
        the membrane after the last step [B, ...].
    """
    v = empty_step(x)
    for part in _blocks(x, leak, fire):
        before = None if v0 is None else v0[part]
        kept = spikes if h is None else h
        arriving = x[:, part]
        held = arriving if kept is x else kept[:, part]
        run = _forward_to_zero if fire.to_zero else _forward
        fired = held if h is None else spikes[:, part]
        run(arriving, before, v[part], leak, fire, fired, held)
    return v


def _forward_to_zero(
    x: Tensor, before: Tensor | None, v: Tensor, leak: Leak, fire: Fire, spikes: Tensor, h: Tensor
) -> None:
    integrate = _step(leak, x.dtype)
    first, at_once = fire.first_firing(x.dtype), v.numel() < _AT_ONCE
    arriving = x.unbind()
    places = arriving if h is x else h.unbind()
    for t, place in enumerate(places):
        now = integrate(arriving[t], before, place)
        before = select(now, now, -math.inf, first, grad_input=v)
        if not at_once:
            fire.spikes(now, spikes[t])
    if at_once:
        fire.spikes(h, spikes)


def _forward(
    x: Tensor, before: Tensor | None, v: Tensor, leak: Leak, fire: Fire, spikes: Tensor, h: Tensor
) -> None:
    integrate = _step(leak, x.dtype)
    arriving = x.unbind()
    if spikes is h:  # h is needed after the spikes have taken its place
        places = (torch.empty_like(v),) * len(arriving)
    else:
        places = arriving if h is x else h.unbind()
    for t, place in enumerate(places):
        now = integrate(arriving[t], before, place)
        before = fire.after(now, fire.spikes(now, spikes[t]), out=v)


def _step(leak: Leak, dtype: torch.dtype) -> Callable[[Tensor, Tensor | None, Tensor], Tensor]:
    """(what the input adds, v or None for zero, out) -> h."""
    exact = dtype == torch.float64
    _, integrate = integrator(leak, dtype, driven=not exact)

    def step(x: Tensor, v: Tensor | None, out: Tensor) -> Tensor:
        if v is not None:
            return integrate(x, v, out=out)
        if exact:
            return integrate(x, torch.zeros_like(x), out=out)
        return x if out is x else out.copy_(x)

    return step


@dataclasses.dataclass(frozen=True, eq=False)
class Wanted:
    """Gradients of coefficients that are asked for; their sums over time and samples, of each one's shape."""

    alpha: Tensor | None = None
    v_threshold: Tensor | None = None
    v_reset: Tensor | None = None

    @property
    def any(self) -> bool:
        """Whether one is."""
        return any(k is not None for k in (self.alpha, self.v_threshold, self.v_reset))


def backward(
    h: Tensor,
    v0: Tensor | None,
    grad_spikes: Tensor,
    grad_v: Tensor | None,
    leak: Leak,
    fire: Fire,
    grad_h: Tensor,
    wanted: Wanted,
) -> Tensor:
    """The gradient of `forward`.

    Args:
        h: membranes before the reset, as `forward` wrote them.
        v0: as there; used only for the gradient of alpha.
        grad_spikes, grad_v: gradients of the two results; None is zero.
        grad_h: where the gradient of x is written; may be h itself.
        wanted: gradients of coefficients are added to what it holds.

    Returns:
        the gradient of v0 [B, ...].
    """
    grad_v0 = empty_step(h)
    for part in _blocks(h, leak, fire):
        _backward(
            h[:, part],
            None if v0 is None else v0[part],
            grad_spikes[:, part],
            None if grad_v is None else grad_v[part],
            leak,
            fire,
            grad_h[:, part],
            grad_v0[part],
            wanted,
        )
    return grad_v0


def _backward(
    h: Tensor,
    v0: Tensor | None,
    grad_spikes: Tensor,
    carried: Tensor | None,
    leak: Leak,
    fire: Fire,
    grad_h: Tensor,
    out: Tensor,
    wanted: Wanted,
) -> None:
    """`carried` is the gradient of the membrane after the reset; it is kept in `out` from step to step."""
    scratch, silent = torch.empty_like(out), None if fire.to_zero else torch.empty_like(out)
    later: Tensor | None = None  # the gradient of h one step later
    for t in reversed(range(len(h))):
        now, arriving = h[t], grad_spikes[t]
        if wanted.any:
            _membrane_terms(now, carried, later, fire, wanted)
        if carried is not None and not fire.detach_reset:
            arriving = arriving - carried * _reset_jump(now, fire)
        slope = fire.surrogate(torch.sub(now, fire.v_threshold, out=scratch))
        direct = torch.mul(slope, arriving, out=scratch)
        if wanted.v_threshold is not None:
            wanted.v_threshold.sub_(direct.sum_to_size(wanted.v_threshold.shape))
        if carried is None:
            later = grad_h[t].copy_(direct)
        else:
            later = torch.add(direct, _through(carried, now, fire, out, silent), out=grad_h[t])
        carried = torch.mul(later, leak.alpha, out=out)
    if wanted.alpha is not None and v0 is not None and later is not None:
        wanted.alpha.add_((later * v0).sum_to_size(wanted.alpha.shape))


def _through(carried: Tensor, h: Tensor, fire: Fire, out: Tensor, silent: Tensor | None) -> Tensor:
    """What of the gradient of v reaches h past the reset."""
    if fire.reset == "subtract":
        return carried
    if silent is None:
        return select(carried, h, -math.inf, fire.first_firing(h.dtype), grad_input=out)
    return torch.mul(carried, fire.silent(h, silent), out=out)


def _membrane_terms(
    h: Tensor, carried: Tensor | None, later: Tensor | None, fire: Fire, wanted: Wanted
) -> None:
    """Add what v after this step contributes: v = f(h, s, v_threshold, v_reset), and h' = alpha v + ..."""
    spikes = fire.spikes(h, torch.empty_like(h))
    if wanted.alpha is not None and later is not None:
        wanted.alpha.add_((later * fire.after(h, spikes)).sum_to_size(wanted.alpha.shape))
    if carried is None:
        return
    jumped = carried * spikes
    if wanted.v_threshold is not None and fire.reset == "subtract":
        wanted.v_threshold.sub_(jumped.sum_to_size(wanted.v_threshold.shape))
    if wanted.v_reset is not None and fire.reset == "value":
        wanted.v_reset.add_(jumped.sum_to_size(wanted.v_reset.shape))


def _reset_jump(h: Tensor, fire: Fire) -> Coefficient:
    """How far the reset moves the membrane: minus the derivative of v by s."""
    if fire.reset == "subtract":
        return fire.v_threshold
    return h if is_number(fire.v_reset, 0) else h - fire.v_reset


def _blocks(x: Tensor, leak: Leak, fire: Fire) -> Iterator[slice]:
    """Cuts of the samples; a single one where it does not pay, or where samples differ in a coefficient."""
    whole, neurons = x.shape[1] if x.ndim > 1 else 1, x[0].numel()
    own = (
        k for k in (leak.alpha, leak.beta, leak.c, fire.v_threshold, fire.v_reset) if isinstance(k, Tensor)
    )
    differ = any(k.ndim == x.ndim - 1 and len(k) > 1 for k in own)
    if x.device.type != "cpu" or neurons <= BLOCK or differ:
        yield slice(None)
        return
    size = max(1, BLOCK * whole // neurons)
    for low in range(0, whole, size):
        yield slice(low, low + size)
