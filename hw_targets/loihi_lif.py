"""Lava's fixed-point LIF, batched, bit for bit: int32 states, wrap-around of u, saturation of v.

u = wrap24(decay(u, du + 1) + (a << 6)),   v = clip(decay(v, dv) + u + bias),   fires at v > vth << 6
decay(x, d) = sign(p) (|p| >> 12), p = x (4096 - d)
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

UV = 1 << 23


@dataclasses.dataclass(frozen=True)
class LifTrace:
    """Spikes bool [T, B, ...]; u and v int32 [T, B, ...] after reset (None unless recorded); saturations of v."""

    spikes: Tensor
    u: Tensor | None
    v: Tensor | None
    saturated: int


def lif_fixed(a: Tensor, *, du: int, dv: int, vth: int, bias: Tensor, record: bool) -> LifTrace:
    """Run a layer from the zero state.

    Args:
        a: synaptic sums, int32 [T, B, ...].
        du, dv, vth: Lava's parameters.
        bias: int32, broadcastable to [...], already shifted by its exponent.
        record: keep u and v of every step.
    """
    u = torch.zeros_like(a[0])
    v = torch.zeros_like(u)
    spikes = torch.empty(a.shape, dtype=torch.bool, device=a.device)
    us, vs, saturated = [], [], 0
    theta = vth << 6
    for t in range(len(a)):
        x = _wrap32(_decay(u, du + 1) + _wrap32(a[t].long() << 6))
        u = torch.where(x > UV, x - 2 * UV, torch.where(x <= -UV, x + 2 * UV, x)).int()
        y = _wrap32(_decay(v, dv) + u + bias)
        saturated += int((y.abs() >= UV).sum())
        v = y.clamp(-UV + 1, UV - 1).int()
        torch.gt(v, theta, out=spikes[t])
        v = v.masked_fill(spikes[t], 0)
        if record:
            us.append(u)
            vs.append(v)
    return LifTrace(
        spikes, torch.stack(us) if record else None, torch.stack(vs) if record else None, saturated
    )


def _decay(x: Tensor, d: int) -> Tensor:
    product = x.long() * (4096 - d)
    return product.sign() * (product.abs() >> 12)


def _wrap32(x: Tensor) -> Tensor:
    """int64 values as C would keep them in an int32."""
    return x.int().long()
