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
    """Spikes bool, u and v int32 [T, B, ...] after reset (None unless recorded); saturations of v."""

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
    least, most = torch.aminmax(a)
    narrow = du == 4095 and max(-int(least), int(most)) < 1 << 17  # then u is a << 6 and fits 24 bits
    u = torch.zeros_like(a[0])
    v = torch.zeros_like(u)
    spikes = torch.empty(a.shape, dtype=torch.bool, device=a.device)
    us, vs, saturated = [], [], 0
    theta = vth << 6
    for t in range(len(a)):
        u = a[t] << 6 if narrow else _current(u, a[t], du)
        if narrow:  # |v|, |u| < 2^23 and |bias| < 2^20: no sum leaves int32
            y = _decay(v, dv).add_(u).add_(bias)
        else:
            y = (_decay(v, dv).long() + u + bias).int()
        low, high = torch.aminmax(y)
        if max(-int(low), int(high)) >= UV:
            saturated += int((y.long().abs() >= UV).sum())
            y.clamp_(-UV + 1, UV - 1)
        torch.gt(y, theta, out=spikes[t])
        v = y.masked_fill_(spikes[t], 0)
        if record:
            us.append(u)
            vs.append(v.clone())
    return LifTrace(
        spikes, torch.stack(us) if record else None, torch.stack(vs) if record else None, saturated
    )


def _current(u: Tensor, a: Tensor, du: int) -> Tensor:
    """u of the next step, wrapped once at 24 bits as Lava does."""
    p = u.long() * (4096 - (du + 1))  # u may have left 24 bits, so the quick decay does not hold
    x = _wrap32(p.sign() * (p.abs() >> 12) + _wrap32(a.long() << 6))
    return torch.where(x > UV, x - 2 * UV, torch.where(x <= -UV, x + 2 * UV, x)).int()


def _decay(v: Tensor, d: int) -> Tensor:
    """trunc(v (4096 - d) / 4096) of |v| < 2^23, a new int32 tensor; every product stays below 2^31."""
    keep = 4096 - d
    if keep == 4096:
        return v.clone()
    if keep & (keep - 1) == 0 and keep > 0:  # a power of two: shift, rounded toward zero
        shift = 13 - keep.bit_length()
        return ((v >> 31) & ((1 << shift) - 1)).add_(v).bitwise_right_shift_(shift)
    size = v.abs()
    kept = (size >> 12).mul_(keep).add_((size & 4095).mul_(keep).bitwise_right_shift_(12))
    return kept.mul_(v.sign())


def _wrap32(x: Tensor) -> Tensor:
    """int64 values as C would keep them in an int32."""
    return x.int().long()
