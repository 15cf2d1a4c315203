"""The scans one step at a time, without gradient: for networks that must run step by step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rsc.neurons.integrate import integrator
from rsc.neurons.rule import Fire, Leak
from rsc.neurons.stepwise import select

# mark(one, h, below, grad_input=z) writes 1 where h > below, else 0, as `select` does for other uses.
mark = torch.ops.aten.threshold_backward.grad_input


def leak_stepper(
    v: Tensor, leak: Leak, driven: bool = False
) -> tuple[Callable[[Tensor], Tensor], Callable[[], Tensor]]:
    """`leak_scan` one step at a time.

    Args:
        v: state before the first step [B, ...].
        driven: what arrives is beta x + c already (`driver`).

    Returns:
        the step, input -> state after it, a new tensor; and how to get the last state.
    """
    drive, integrate = integrator(leak, v.dtype, driven)

    def step(x: Tensor) -> Tensor:
        nonlocal v
        v = integrate(drive(x), v)
        return v

    return step, lambda: v


def spike_stepper(
    v: Tensor, leak: Leak, fire: Fire, driven: bool = False
) -> tuple[Callable[[Tensor], Tensor], Callable[[], Tensor]]:
    """`spike_scan` one step at a time.

    Args:
        v: membrane before the first step [B, ...].
        driven: what arrives is beta x + c already (`driver`).

    Returns:
        the step, input -> spikes, a new tensor; and how to get the last membrane.
    """
    (drive, integrate), v = integrator(leak, v.dtype, driven), v.clone()
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
        select(h, h, -math.inf, first, grad_input=v)
        return mark(one, h, below, grad_input=h)

    return cut_step, lambda: v
