"""Lava's fixed-point LIF over boxes: sound at every step, and exact for a box of one point.

u = wrap24(decay(u, du + 1) + (a << 6)),   h = clip(decay(v, dv) + u + bias)
low(h) > theta:    fires,         v = 0
high(h) <= theta:  does not,      v = h
else:              undetermined,  v in the hull of {0} and [low(h), theta]
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from rsc.hw_targets.loihi_lif import Neurons
from rsc.layered import Layer
from rsc.robustness.intervals_box import INT32, UV, Box, decay, monotone, saturated, wrapped, wrapped_once


@dataclasses.dataclass(frozen=True, eq=False)
class LayerBounds:
    """What a layer can do, over all inputs of the box.

    Fields:
        spikes: bool [T, B, ...]; low: must fire, high: may fire.
        v: membrane after the reset, int64 [T, B, ...]; None unless kept.
        u, h: current, and membrane before the reset, likewise.
        calm: bool [B, ...], neurons that neither wrap, nor saturate, nor may fire, at any step.
        feasible: bool [B], False where forced spikes contradict the bounds.
    """

    spikes: Box
    v: Box | None
    u: Box | None
    h: Box | None
    calm: Tensor
    feasible: Tensor

    @property
    def never(self) -> Tensor:
        """Neuron-steps that cannot fire, bool [T, B, ...]."""
        return ~self.spikes.high

    @property
    def always(self) -> Tensor:
        """Neuron-steps that must fire."""
        return self.spikes.low

    @property
    def unstable(self) -> Tensor:
        """Neuron-steps that may do either."""
        return self.spikes.high & ~self.spikes.low


class IntervalLif:
    """A layer on its way through the steps.

    Args:
        layer: its parameters.
        batch: B.
        reach: proven bound of |a|; below 2^17 no sum can wrap on its way.
        keep: record u, h and v of every step.
        forced: int8 [T, B, ...], spikes that are assumed: 0, 1, or -1 for none.
    """

    def __init__(
        self,
        layer: Layer,
        batch: int,
        reach: int,
        device: torch.device,
        keep: bool = False,
        forced: Tensor | None = None,
    ) -> None:
        neurons = Neurons.of(layer, device)
        self.keep_u, self.keep_v = 4096 - (_wide(neurons.du) + 1), 4096 - _wide(neurons.dv)
        self.theta, self.bias = _wide(neurons.vth) << 6, neurons.bias.long()
        zero = torch.zeros((batch, *layer.shape), dtype=torch.int64, device=device)
        self.u, self.v = Box.point(zero), Box.point(zero + _wide(neurons.v_init))
        self.calm = torch.full_like(zero, reach < 1 << 17, dtype=torch.bool)
        self.feasible = torch.ones(batch, dtype=torch.bool, device=device)
        self.forced, self.keep = forced, keep
        self.low: list[Tensor] = []
        self.high: list[Tensor] = []
        self.kept: dict[str, list[Box]] = {"u": [], "h": [], "v": []}

    def step(self, a: Box) -> None:
        """Take the synaptic sums of the next step, int64 [B, ...]."""
        driven = wrapped(wrapped(a, INT32).map(lambda x: x << 6), INT32)
        x = wrapped(self._decayed(self.u, self.keep_u) + driven, INT32)
        self.u = wrapped_once(x)
        y = self._decayed(self.v, self.keep_v) + self.u.map(lambda u: u + self.bias)
        h = self._assumed(saturated(y))
        must, may = h.low > self.theta, h.high > self.theta
        self.calm &= ~may & (x.low > -UV) & (x.high <= UV) & (y.low > -UV) & (y.high < UV)
        self.v = self._reset(h, must, may)
        self.low.append(must)
        self.high.append(may)
        if self.keep:
            for name, box in (("u", self.u), ("h", h), ("v", self.v)):
                self.kept[name].append(box)

    def bounds(self) -> LayerBounds:
        """What was found."""
        kept = {
            name: Box(torch.stack([b.low for b in boxes]), torch.stack([b.high for b in boxes]))
            for name, boxes in self.kept.items()
            if boxes
        }
        spikes = Box(torch.stack(self.low), torch.stack(self.high))
        v, u, h = kept.get("v"), kept.get("u"), kept.get("h")
        return LayerBounds(spikes, v, u, h, self.calm, self.feasible)

    def _decayed(self, box: Box, keep: int | Tensor) -> Box:
        if isinstance(keep, int) and keep >= 0:
            return box.map(lambda x: decay(x, keep))
        return monotone(lambda x: decay(x, keep), box)

    def _assumed(self, h: Box) -> Box:
        """The part of the box in which the forced spikes come true."""
        if self.forced is None:
            return h
        forced = self.forced[len(self.low)]
        low = torch.where((forced == 1) & (h.low <= self.theta), self.theta + 1, h.low)
        high = torch.where((forced == 0) & (h.high > self.theta), self.theta, h.high)
        self.feasible &= (low <= high).flatten(1).all(1)
        return Box(low, torch.maximum(low, high))

    def _reset(self, h: Box, must: Tensor, may: Tensor) -> Box:
        theta = torch.as_tensor(self.theta, device=h.low.device)
        low = torch.where(may, h.low.clamp(max=0), h.low)
        high = torch.where(may, theta.clamp(min=0), h.high)
        return Box(low.masked_fill_(must, 0), high.masked_fill_(must, 0))


def _wide(value: int | Tensor) -> int | Tensor:
    return value if isinstance(value, int) else value.long()
