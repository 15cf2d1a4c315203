"""Lava's fixed-point LIF over many steps in floating point, exact wherever its bounds prove it.

    u = decay(u, du + 1) + 64 a,   v = clip(decay(v, dv) + u + bias),   fires at v > 64 vth, then v = 0
    decay(x, d) = trunc(x (4096 - d) / 4096)

States and sums are whole numbers below 2^24 and so exact in float32; a decay is computed in float64. There
c = 4096 / (4096 - d) is made smaller by 2^-44 of itself, which outweighs every rounding of c, of 1 / c and
of the quotient (2^-51 together). So x / c never falls below a whole number that it should reach; and as
|x| < 2^24 it exceeds its value by less than 2^-19, while what lies above a whole number ends at least 2^-12
below the next. So trunc(x / c) is the decay. Where a power of two is kept, float32 divides exactly.

What the bounds of a call do not allow runs in `LifRun`, in integers: a sum of 2^17 or more, or a u that may
leave 24 bits. A v that may leave 24 bits is looked at in every step, and clipped there.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from rsc.hw_targets.loihi_lif import UV, LifRun, LifTrace, Neurons

_SMALLER = 1 - 2.0**-44
# _above(h, h, theta, grad_input=e) writes h where h > theta, else 0, in one pass: what the derivative of a
# rectifier does to a gradient. Four times as quick as a mask and `where` on a CPU.
_above = torch.ops.aten.threshold_backward.grad_input


@dataclasses.dataclass
class ScanState:
    """A layer between two calls.

    Fields:
        u: [B, ...] or None where the synapse forgets at once; float32 or int32.
        v: [B, ...] after the reset; float32 or int32.
        u_most: proven bound of |u|; v_low, v_high: proven bounds of v.
    """

    u: Tensor | None
    v: Tensor
    u_most: float
    v_low: float
    v_high: float


class Scan:
    """The neurons of a layer.

    Args:
        neurons: parameters; arrays [...] in the layout of the sums.
        shape: [...] of the layer in that layout.
    """

    def __init__(self, neurons: Neurons, shape: tuple[int, ...]) -> None:
        self.neurons, self.shape = neurons, shape
        du, dv, vth = (torch.as_tensor(x) for x in (neurons.du, neurons.dv, neurons.vth))
        self.du_least, self.dv_least = int(du.min()), int(dv.min())
        self.theta = (neurons.vth << 6) if isinstance(neurons.vth, int) else (neurons.vth << 6).float()
        self.theta_most = int(vth.max()) << 6
        self.bias_low, self.bias_high = (int(x) for x in torch.aminmax(neurons.bias))
        self.bias = neurons.bias.float() if self.bias_low or self.bias_high else None
        v_init = torch.as_tensor(neurons.v_init)
        self.v_low, self.v_high = int(v_init.min()), int(v_init.max())
        within = max(-self.bias_low, self.bias_high, -self.v_low, self.v_high, self.theta_most) < UV
        ranges = int(vth.min()) >= 0 and self.dv_least >= 0 and self.du_least >= 0
        self.possible = within and ranges and int(dv.max()) <= 4096 and int(du.max()) <= 4095
        self.synaptic = self.du_least < 4095

    def initial(self, batch: int) -> ScanState:
        """u = 0 and v = v_init."""
        zeros = torch.zeros((batch, *self.shape), dtype=torch.float32, device=self.neurons.bias.device)
        kind = torch.float32 if self.possible else torch.int32
        v = (zeros.int() + self.neurons.v_init).to(kind)
        return ScanState(zeros if self.synaptic else None, v, 0, self.v_low, self.v_high)

    def settles(self, low: float, high: float, steps: int, state: ScanState) -> bool:
        """Whether sums a in low..high can be proven to need neither integers nor a look at every step."""
        bounds = self._bounds(low, high, steps, state)
        return bounds is not None and bounds.inside

    def run(
        self, x: Tensor, low: float, high: float, state: ScanState, record: bool
    ) -> tuple[LifTrace, ScanState]:
        """Run from a state.

        Args:
            x: 64 a, whole multiples of 64, float32 [T, B, ...]; overwritten.
            low, high: proven bounds of a.
            record: keep u and v.
        """
        bounds = self._bounds(low, high, len(x), state)
        if bounds is None or not bounds.inside:
            state = _measured(state)
            bounds = self._bounds(low, high, len(x), state)
        if bounds is None:
            return self.run_integers((x / 64).int(), max(-low, high), state, record)
        return self._run(x, bounds, state, record)

    def run_integers(
        self, a: Tensor, most: float, state: ScanState, record: bool
    ) -> tuple[LifTrace, ScanState]:
        """`run` for sums a, int32 [T, B, ...], that need not fit anything."""
        u = torch.zeros_like(a[0]) if state.u is None else state.u.int()
        within = state.u is None or state.u_most <= UV  # else products of u need int64
        small = within and self.neurons.small(math.ceil(most))
        run = LifRun(self.neurons, tuple(a.shape), small, record, (u, state.v.int()))
        for t in range(len(a)):
            run.step(t, a[t])
        u = run.u if self.synaptic else None
        return run.trace(), _measured(ScanState(u, run.v, 0, 0, 0))

    def _run(self, x: Tensor, bounds: _Bounds, state: ScanState, record: bool) -> tuple[LifTrace, ScanState]:
        v = state.v.float()
        u = None if state.u is None else state.u.float()
        h, saturated = torch.empty_like(v), 0
        wide = torch.empty_like(v, dtype=torch.float64)
        decay_u, decay_v = _Decay.of(self.neurons.du, 1, wide), _Decay.of(self.neurons.dv, 0, wide)
        us = torch.empty_like(x, dtype=torch.int32) if record else None
        vs = torch.empty_like(x, dtype=torch.int32) if record else None
        if us is not None and u is None:
            us.copy_(x)
        if self.bias is not None and u is None:
            x.add_(self.bias)
        for t, now in enumerate(x.unbind()):
            if u is None:
                decay_v.plus(v, now, h)
            else:
                u = decay_u.plus(u, now, torch.empty_like(u))
                decay_v.plus(v, u, h)
                if self.bias is not None:
                    h.add_(self.bias)
            if not bounds.inside:
                saturated += _clip(h)
            self._fire(h, now)
            v = torch.sub(h, now, out=v if v is not state.v else torch.empty_like(v))
            if us is not None and vs is not None:
                vs[t].copy_(v)
                if u is not None:
                    us[t].copy_(u)
        after = ScanState(u, v, bounds.u_most, bounds.v_low, bounds.v_high)
        return LifTrace(x.bool(), us, vs, saturated), after

    def _fire(self, h: Tensor, out: Tensor) -> None:
        """Write h where it fires, so more than 0, and 0 elsewhere."""
        if isinstance(self.theta, Tensor):
            _above(h, h - self.theta, 0, grad_input=out)
        else:
            _above(h, h, self.theta, grad_input=out)

    def _bounds(self, low: float, high: float, steps: int, state: ScanState) -> _Bounds | None:
        """What holds during the steps; None where float32 cannot be proven exact."""
        low, high = min(64 * low, 0), max(64 * high, 0)
        if not self.possible or max(-low, high) >= UV:
            return None
        u_most = 0.0
        if self.synaptic:
            u_most = max(state.u_most, max(-low, high) * 4096 / (self.du_least + 1))
            if u_most >= UV:
                return None
            low, high = -u_most, u_most
        low, high = min(low + self.bias_low, 0), max(high + self.bias_high, 0)
        if max(-low, high) > UV or max(-state.v_low, state.v_high) >= UV:
            return None

        def after(start: float, drive: float) -> float:
            """Bound of |v| of one sign before any reset: decays shrink it, each step adds `drive`."""
            return max(start, drive * 4096 / self.dv_least) if self.dv_least else start + steps * drive

        least = after(max(-state.v_low, 0), -low)
        most = after(max(state.v_high, 0), high)
        inside = least < UV and min(max(self.theta_most, state.v_high) + high, most) < UV
        v_low, v_high = max(-least, 1.0 - UV), min(most, max(self.theta_most, state.v_high), UV - 1.0)
        return _Bounds(inside, u_most, v_low, v_high)


@dataclasses.dataclass(frozen=True)
class _Bounds:
    """inside: v cannot leave 24 bits before it is reset; the others as in `ScanState`."""

    inside: bool
    u_most: float
    v_low: float
    v_high: float


@dataclasses.dataclass(frozen=True, eq=False)
class _Decay:
    """v -> decay(v) + x.

    Fields:
        divisor: c above; 1 keeps everything, infinity nothing.
        wide: float64 memory of the shape of v, or None where float32 is exact.
    """

    divisor: float | Tensor
    wide: Tensor | None

    @classmethod
    def of(cls, d: int | Tensor, offset: int, wide: Tensor) -> _Decay:
        """Of decay d + offset, in 4096ths."""
        if isinstance(d, Tensor):
            return cls(4096 / (4096 - d - offset).double() * _SMALLER, wide)
        keep = 4096 - d - offset
        if keep & (keep - 1) == 0:
            return cls(4096 / keep if keep else math.inf, None)
        return cls(4096 / keep * _SMALLER, wide)

    def plus(self, v: Tensor, x: Tensor, out: Tensor) -> Tensor:
        if self.wide is not None:
            self.wide.copy_(v)
            torch.div(self.wide, self.divisor, rounding_mode="trunc", out=self.wide)
            return out.copy_(self.wide).add_(x)
        if self.divisor == 1:
            return torch.add(v, x, out=out)
        if self.divisor == math.inf:
            return out.copy_(x)
        return torch.div(v, self.divisor, rounding_mode="trunc", out=out).add_(x)


def _clip(h: Tensor) -> int:
    """Clip to 24 bits in place; how many values were beyond."""
    low, high = torch.aminmax(h)
    if max(-float(low), float(high)) < UV:
        return 0
    beyond = int((h.abs() >= UV).sum())
    h.clamp_(-UV + 1, UV - 1)
    return beyond


def _measured(state: ScanState) -> ScanState:
    """The same state with bounds as they are."""
    low, high = (float(x) for x in torch.aminmax(state.v))
    u_most = 0.0
    if state.u is not None:
        u_most = max(abs(float(x)) for x in torch.aminmax(state.u))
    return ScanState(state.u, state.v, u_most, low, high)
