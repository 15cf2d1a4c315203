"""The rules of firing that `rsc.neurons.scan` leaves out: late resets, several spikes a step, a lower bound.

Written in plain operations with automatic gradients: for faithful runs of other simulators' networks, not
for speed. Every product and sum is rounded by itself, as in `rsc.hw_targets.reference`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rsc.neurons.scan import Coefficient, Fire, Leak
from rsc.program import Semantics


def rule_scan(
    x: Tensor,
    v: Tensor,
    leak: Leak,
    fire: Fire,
    rules: Semantics,
    v_min: Coefficient | None,
    rate: Coefficient | None = None,
) -> tuple[Tensor, Tensor]:
    """Integration with threshold and reset under any rules.

    Args:
        x: input [T, B, ...].
        v: membrane before the first step [B, ...].
        v_min: lower bound of the membrane after the reset, or None.
        rate: dt / tau of the membrane, for resets inside the step.

    Returns:
        spikes per neuron [T, B, ...], membrane after the last step [B, ...].
    """
    late, spikes = rules.reset_step in ("next", "hold"), []
    for arriving in x:
        due = _count(v, fire, rules) if late else None
        if due is not None and rules.reset_step == "next" and fire.reset == "value":
            v = _reset(v, due, fire)
        h = v * leak.alpha + arriving * leak.beta + leak.c
        if due is not None and (fire.reset == "subtract" or rules.reset_step == "hold"):
            h = _reset(h, due, fire)
        if rate is None:
            spikes.append(_count(h, fire, rules))
            v = h if late else _reset(h, spikes[-1], fire)
        else:
            drive = arriving * leak.beta + leak.c
            fired, v = _crossing(v, h, drive, leak, fire, rate, rules)
            spikes.append(fired)
        if v_min is not None:
            v = torch.maximum(v, torch.as_tensor(v_min, dtype=v.dtype, device=v.device))
    return torch.stack(spikes), v


def _crossing(
    v: Tensor, h: Tensor, drive: Tensor, leak: Leak, fire: Fire, rate: Coefficient, rules: Semantics
) -> tuple[Tensor, Tensor]:
    """Spikes and membrane after resets at the moment of crossing; see `reference_fire`.

    Values of neurons that do not fire are replaced before a logarithm or a division, so that no
    gradient is lost to them.
    """

    def full(value: Coefficient) -> Tensor:
        return torch.as_tensor(value, dtype=h.dtype, device=h.device).expand(h.shape)

    limit, rate, alpha, one = full(fire.v_threshold), full(rate), full(leak.alpha), torch.ones_like(h)
    v_reset = torch.zeros_like(h) if fire.reset == "subtract" else full(fire.v_reset)
    spikes, leaks = _Count.apply(h, limit, fire, False), rate > 0
    fired: Tensor = spikes > 0  # type: ignore[assignment,operator]
    target = drive / torch.where(leaks, 1 - alpha, one)
    again = fired & torch.where(leaks, target > limit, drive > 0)

    def steps(start: Tensor, where: Tensor) -> Tensor:
        gap = torch.where(where & leaks, target - limit, one)
        curved = torch.where(where & leaks, (target - start) / gap, one).log() / torch.where(leaks, rate, one)
        return torch.where(leaks, curved, (limit - start) / torch.where(where & ~leaks, drive, one))

    below = again & (v < limit)
    first = torch.where(below, steps(v, below), 0.0)
    period = torch.where(again, steps(v_reset, again), one)
    repeats = torch.where(again, ((1 - first) / period).floor(), 0.0).detach()
    left = 1 - first - repeats * period
    risen = torch.where(leaks, target + (v_reset - target) * torch.exp(-rate * left), v_reset + drive * left)
    after = torch.where(fired, risen.detach() if fire.detach_reset else risen, h)
    return spikes * (1 if rules.spikes_per_step == "one" else 1 + repeats), after  # type: ignore[operator,return-value]


def _reset(h: Tensor, spikes: Tensor, fire: Fire) -> Tensor:
    """The membrane after a reset; its gradient through the spikes is that of `Fire.detach_reset`."""
    if fire.reset == "subtract":
        return h - _due(spikes, fire) * fire.v_threshold
    v_reset = torch.as_tensor(fire.v_reset, dtype=h.dtype, device=h.device)
    after = torch.where(spikes > 0, v_reset, h)
    if fire.detach_reset or not spikes.requires_grad:
        return after
    return after + (spikes - spikes.detach()) * (v_reset - h).detach()


def _due(spikes: Tensor, fire: Fire) -> Tensor:
    return spikes.detach() if fire.detach_reset else spikes


def _count(h: Tensor, fire: Fire, rules: Semantics) -> Tensor:
    limit = torch.as_tensor(fire.v_threshold, dtype=h.dtype, device=h.device)
    return _Count.apply(h, limit, fire, rules.spikes_per_step == "many")  # type: ignore[return-value]


class _Count(torch.autograd.Function):
    """Spikes of h; the derivative is the surrogate's at the nearest multiple of the threshold from 1 on."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, limit: Tensor, fire: Fire, many: bool) -> Tensor:
        ctx.save_for_backward(h, limit)
        ctx.rule = fire, many
        strict = fire.comparison == ">"
        if not many:
            return (h > limit if strict else h >= limit).to(h.dtype)
        ratio = h / limit
        return (ratio.ceil() - 1 if strict else ratio.floor()).clamp(min=0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        h, limit = ctx.saved_tensors
        fire, many = ctx.rule
        step = (h / limit).round().clamp(min=1) * limit if many else limit
        return fire.surrogate(h - step) * grads[0], None, None, None
