"""Lava's fixed-point LIF, batched, bit for bit: int32 states, wrap-around of u, saturation of v.

u = wrap24(decay(u, du + 1) + (a << 6)),   v = clip(decay(v, dv) + u + bias),   fires at v > vth << 6
decay(x, d) = sign(p) (|p| >> 12), p = x (4096 - d)
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from rsc.errors import UsageError
from rsc.layered import Layer

UV = 1 << 23
SMALL_SUM = 1 << 17  # sums below it keep u << 6 inside 24 bits, and all of a step inside int32


@dataclasses.dataclass(frozen=True)
class LifTrace:
    """Spikes bool, u and v int32 [T, B, ...] after reset (None unless recorded); saturations of v."""

    spikes: Tensor
    u: Tensor | None
    v: Tensor | None
    saturated: int


@dataclasses.dataclass(frozen=True, eq=False)
class Neurons:
    """Parameters of a layer in Lava's units; numbers for all neurons, or int32 tensors [...].

    Fields:
        du, dv, vth: decays and threshold mantissa.
        bias: int32, broadcastable to [...], already shifted by its exponent.
        v_init: v before the first step; u is 0.
    """

    du: int | Tensor
    dv: int | Tensor
    vth: int | Tensor
    bias: Tensor
    v_init: int | Tensor = 0

    @classmethod
    def of(cls, layer: Layer, device: torch.device) -> Neurons:
        """Those of an integer layer; arrays of one value become numbers, which are quicker."""
        mantissa, exponent = np.asarray(layer.bias_mant, np.int64), layer.bias_exp
        bias = mantissa << exponent if exponent >= 0 else mantissa >> -exponent
        return cls(
            *(_shared(x, device) for x in (layer.du, layer.dv, layer.vth)),
            bias=torch.from_numpy(bias.astype(np.int32)).to(device),
            v_init=_shared(layer.v_init, device),
        )

    def small(self, most: int) -> bool:
        """Whether no sum of a step can leave int32 if no |a| exceeds `most`, so that none needs int64."""
        largest = max(int(x.abs().max()) for x in (self.bias, torch.as_tensor(self.v_init)))
        return bool(most < SMALL_SUM and largest < 1 << 28)

    @property
    def plain(self) -> bool:
        """Whether the synapse forgets at once, and all neurons share decay and threshold."""
        shared = isinstance(self.dv, int) and isinstance(self.vth, int) and isinstance(self.du, int)
        return bool(shared and self.du == 4095)

    def reach(self, most: int, steps: int) -> float:
        """Bound of |v| for |a| up to `most`, of plain neurons."""
        start = int(torch.as_tensor(self.v_init).abs().max())
        turns = 4096 / self.dv if isinstance(self.dv, int) and self.dv else steps
        return start + (64 * most + int(self.bias.abs().max())) * min(turns, steps)


class LifRun:
    """A layer on its way through the steps.

    Args:
        shape: [T, B, ...].
        small: what `Neurons.small` says of the sums to come.
        record: keep u and v of every step.
        start: u and v to go on from, int32 [B, ...]; 0 and `v_init` by default.
    """

    def __init__(
        self,
        neurons: Neurons,
        shape: tuple[int, ...],
        small: bool,
        record: bool,
        start: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        device = neurons.bias.device
        self.neurons, self.small, self.saturated = neurons, small, 0
        if start is None:
            u = torch.zeros(shape[1:], dtype=torch.int32, device=device)
            start = u, u + neurons.v_init
        self.u, self.v = start
        self.theta = neurons.vth << 6
        self.spikes = torch.empty(shape, dtype=torch.bool, device=device)
        kept = [torch.empty(shape, dtype=torch.int32, device=device) for _ in range(2 * record)]
        self.us, self.vs = kept or (None, None)

    def step(self, t: int, a: Tensor) -> None:
        """Take the synaptic sums of step t, int32 [B, ...]."""
        neurons = self.neurons
        if self.small:
            self.u = _small_current(self.u, a, neurons.du)
            y = _decay(self.v, neurons.dv).add_(self.u).add_(neurons.bias)
        else:
            self.u = _current(self.u, a, neurons.du)
            y = (_decay(self.v, neurons.dv).long() + self.u + neurons.bias).int()
        low, high = torch.aminmax(y)
        if max(-int(low), int(high)) >= UV:
            self.saturated += int((y.long().abs() >= UV).sum())
            y.clamp_(-UV + 1, UV - 1)
        torch.gt(y, self.theta, out=self.spikes[t])
        self.v = y.masked_fill_(self.spikes[t], 0)
        if self.us is not None and self.vs is not None:
            self.us[t], self.vs[t] = self.u, self.v

    def trace(self) -> LifTrace:
        """What it has done."""
        return LifTrace(self.spikes, self.us, self.vs, self.saturated)


def run_lif(a: Tensor, neurons: Neurons, record: bool) -> LifTrace:
    """Run a layer from its initial state over synaptic sums a, int32 [T, B, ...]."""
    least, most = torch.aminmax(a)
    largest = max(-int(least), int(most))
    if not record and neurons.plain and neurons.reach(largest, len(a)) < UV:
        return _run_plain(a, neurons)
    run = LifRun(neurons, tuple(a.shape), neurons.small(largest), record)
    for t in range(len(a)):
        run.step(t, a[t])
    return run.trace()


def _run_plain(a: Tensor, neurons: Neurons) -> LifTrace:
    """`run_lif` of plain neurons whose v stays inside 24 bits; float64 holds all products, of 36 bits."""
    driven = (a << 6).add_(neurons.bias)
    v = torch.zeros(a.shape[1:], dtype=torch.float64, device=a.device) + neurons.v_init
    spikes = torch.empty(a.shape, dtype=torch.bool, device=a.device)
    keep, theta = 4096 - int(neurons.dv), int(neurons.vth) << 6
    for t, x in enumerate(driven):
        torch.div(v.mul_(keep), 4096, rounding_mode="trunc", out=v)  # quicker than trunc
        v.add_(x)
        torch.gt(v, theta, out=spikes[t])
        v.masked_fill_(spikes[t], 0)
    return LifTrace(spikes, None, None, 0)


def lif_fixed(
    a: Tensor,
    *,
    du: int | Tensor,
    dv: int | Tensor,
    vth: int | Tensor,
    bias: Tensor,
    record: bool,
    v_init: int | Tensor = 0,
) -> LifTrace:
    """`run_lif` with the parameters of `Neurons` spelled out."""
    return run_lif(a, Neurons(du, dv, vth, bias, v_init), record)


def recorded(trace: LifTrace) -> tuple[Tensor, Tensor]:
    """u and v of a trace.

    Raises:
        UsageError: they were not recorded.
    """
    if trace.u is None or trace.v is None:
        raise UsageError("This trace has no states.", "They were not recorded.", "Record u and v.")
    return trace.u, trace.v


def before_reset(trace: LifTrace, neurons: Neurons) -> Tensor:
    """v of every step before a spike reset it, int32 [T, B, ...], of a recorded trace."""
    u, v = recorded(trace)
    kept = _decay(torch.cat([torch.zeros_like(v[:1]) + neurons.v_init, v[:-1]]), neurons.dv)
    return (kept.long() + u + neurons.bias).int().clamp_(-UV + 1, UV - 1)


def _shared(value: object, device: torch.device) -> int | Tensor:
    """A number if all neurons share it, else an int32 tensor."""
    array = np.asarray(value, np.int32)
    if array.size and (array == array.flat[0]).all():
        return int(array.flat[0])
    return torch.from_numpy(array.copy()).to(device)


def _small_current(u: Tensor, a: Tensor, du: int | Tensor) -> Tensor:
    """u of the next step where |a| < 2^17 and so |u| <= 2^23; all in int32."""
    if isinstance(du, int) and du == 4095:
        return a << 6
    x = _decay(u, du + 1).add_(a << 6)
    return x.add_(UV - 1).bitwise_and_(2 * UV - 1).sub_(UV - 1)


def _current(u: Tensor, a: Tensor, du: int | Tensor) -> Tensor:
    """u of the next step, wrapped once at 24 bits as Lava does; larger ones leave 24 bits."""
    x = _wrap32(_decay(u, du + 1).long() + _wrap32(a.long() << 6))
    return torch.where(x > UV, x - 2 * UV, torch.where(x <= -UV, x + 2 * UV, x)).int()


def _decay(x: Tensor, d: int | Tensor) -> Tensor:
    """trunc(x (4096 - d) / 4096) of |x| < 2^31, a new int32 tensor; no product leaves int32."""
    keep = 4096 - d
    if isinstance(keep, int):
        if keep == 4096:
            return x.clone()
        if keep & (keep - 1) == 0 and keep > 0:  # a power of two: shift, rounded toward zero
            shift = 13 - keep.bit_length()
            return ((x >> 31) & ((1 << shift) - 1)).add_(x).bitwise_right_shift_(shift)
    size = x.abs()
    kept = (size >> 12).mul_(keep).add_((size & 4095).mul_(keep).bitwise_right_shift_(12))
    return kept.mul_(x.sign())


def _wrap32(x: Tensor) -> Tensor:
    """int64 values as C would keep them in an int32."""
    return x.int().long()
