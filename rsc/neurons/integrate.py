"""alpha v + beta x + c, in two parts: what the input adds, for many steps at once; and the state's own step.

In float64 every product and sum is rounded by itself, as in `rsc.hw_targets.reference`. In float32 the
product alpha v is not rounded where torch.add and torch.addcmul fuse it with the sum.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from rsc.neurons.rule import Coefficient, Leak, is_number


def integrator(
    leak: Leak, dtype: torch.dtype, driven: bool = False
) -> tuple[Callable[[Tensor], Tensor], Callable[..., Tensor]]:
    """The two parts: x -> driven; (driven, v, out=) -> h, where `out` may be `driven` itself but not v."""
    if dtype == torch.float64 and not driven:

        def exact(x: Tensor, v: Tensor, out: Tensor | None = None) -> Tensor:
            kept = torch.mul(v, leak.alpha, out=None if out is x else out)
            h = torch.add(kept, scaled(x, leak.beta), out=out)
            return h if is_number(leak.c, 0) else h.add_(leak.c)

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
    driven = scaled(x, leak.beta)
    return driven if is_number(leak.c, 0) else driven + leak.c


def drive_all(drive: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`drive` over all steps [T, ...]; once for all where they do not change (stride 0)."""
    return drive(x[:1]).expand(x.shape) if len(x) > 1 and x.stride(0) == 0 else drive(x)


def scaled(x: Tensor, factor: Coefficient) -> Tensor:
    """x times a coefficient; x itself for 1."""
    return x if is_number(factor, 1) else x * factor
