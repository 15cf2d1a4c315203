"""Straight-through gradients of the integer Loihi model.

Values are those of the integer model, bit by bit. Derivatives are those of the same network without rounding,
wrapping and saturation, taken at the integer values, in real numbers:

    p = scale frame,  a = sum over connections of 2^weight_exp W pool(source),
    u' = (1 - (du + 1) / 4096) u + 64 a,   h = (1 - dv / 4096) v + u',   v' = h (1 - s)

ds/dh is the surrogate's at (h - theta) / (64 scale), v - v_threshold of the float program, over 64 scale. The
reset has no gradient of its own, and a payload that is clipped has none; an input that is sent as 0 or 1
passes the gradient of its payload.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsc.hw_targets.loihi_lif import LifTrace, Neurons, before_reset, recorded
from rsc.hw_targets.loihi_synapses import Synapses
from rsc.layered import CONSTANT, Layer, LayeredProgram
from rsc.neurons.surrogates import Surrogate


@dataclasses.dataclass(frozen=True, eq=False)
class Relaxation:
    """The network in real numbers beside its integers.

    Fields:
        synapses: layer -> (source, connection).
        neurons: layer -> parameters.
    """

    layered: LayeredProgram
    synapses: Mapping[str, Sequence[tuple[str, Synapses]]]
    neurons: Mapping[str, Neurons]
    surrogate: Surrogate

    def outputs(
        self,
        frames: Mapping[str, Tensor],
        activity: Mapping[str, Tensor],
        traces: Mapping[str, LifTrace],
        exact: Mapping[str, np.ndarray],
    ) -> dict[str, Tensor]:
        """Output node -> the exact values float64 [T, B, ...], with gradients.

        Args:
            frames: Input node -> float [T, B, ...], where gradients arrive.
            activity: payloads of the inputs, among others.
            traces: recorded traces of all layers.
            exact: Output node -> values of the integer model.
        """
        dtype = next(iter(frames.values())).dtype
        values: dict[str, Tensor | Sequence[Tensor]] = {}
        for source in self.layered.inputs:
            name = source.name
            most = source.maximum + 0.5
            relaxed = (frames[name] * source.scale).clamp(-most, most)
            values[name] = _pin(relaxed.to(activity[name].device, dtype), activity[name])
        said: dict[str, Tensor] = {}
        for group in self.layered.groups():
            paths = [self._path(layer, traces[layer.name], dtype) for layer in group]
            values |= {path.layer.name: path.spikes for path in paths}
            outside = [self._outside(path, values) for path in paths]
            for t in range(len(traces[group[0].name].spikes)):
                for path, arriving in zip(paths, outside, strict=True):
                    path.step(t, arriving[t], values)
            for path in paths:
                values[path.layer.name] = torch.stack(path.spikes)
                said[path.layer.name] = path.said()
        result = {}
        for name, layers in self.layered.outputs:
            total = sum((said[layer] for layer in layers[1:]), said[layers[0]])
            result[name] = _pin(total, torch.from_numpy(exact[name]).to(total.device), torch.float64)
        return result

    def _path(self, layer: Layer, trace: LifTrace, dtype: torch.dtype) -> _Path:
        terms = [
            _Term(source, synapses, k, weight.to(dtype) * 2.0**synapses.connection.weight_exp)
            for source, synapses in self.synapses[layer.name]
            for k, weight in synapses.terms
            if source != CONSTANT
        ]
        return _Path(layer, self.neurons[layer.name], trace, terms, self.surrogate, dtype)

    def _outside(self, path: _Path, values: Mapping[str, Tensor | Sequence[Tensor]]) -> Tensor:
        """Sums [T, B, ...] from sources that have run already; those terms are taken off the path."""
        total = torch.zeros_like(path.trace.spikes, dtype=path.dtype)
        for term in list(path.terms):
            x = values[term.source]
            steps = len(total) - term.k
            if isinstance(x, Tensor):
                path.terms.remove(term)
                if steps > 0:
                    late = term.sums(x[:steps].flatten(0, 1)).unflatten(0, (steps, -1))
                    total = total + torch.cat([torch.zeros_like(total[: term.k]), late])
        return total


@dataclasses.dataclass(frozen=True, eq=False)
class _Term:
    """Synapses of one delay; weight shifted by its exponent."""

    source: str
    synapses: Synapses
    k: int
    weight: Tensor

    def sums(self, x: Tensor) -> Tensor:
        return self.synapses.linear(x, self.weight).reshape(len(x), *self.synapses.shape)


class _Path:
    """One layer on its way through the steps, pinned to its trace."""

    def __init__(
        self,
        layer: Layer,
        neurons: Neurons,
        trace: LifTrace,
        terms: list[_Term],
        surrogate: Surrogate,
        dtype: torch.dtype,
    ) -> None:
        self.layer, self.trace, self.terms, self.dtype = layer, trace, terms, dtype
        self.spikes: list[Tensor] = []
        self.vs: list[Tensor] = []
        self.surrogate, self.unit = surrogate, 64 * layer.scale
        self.exact_u, self.h = recorded(trace)[0], before_reset(trace, neurons)
        self.above = (self.h - (neurons.vth << 6)).to(dtype) / self.unit
        self.keep_u = 1 - (neurons.du + 1) / 4096
        self.keep_v = 1 - neurons.dv / 4096
        self.u = torch.zeros_like(self.h[0], dtype=dtype)
        self.v = self.u + neurons.v_init

    def step(self, t: int, a: Tensor, values: Mapping[str, Tensor | Sequence[Tensor]]) -> None:
        """Step t, with the sums that arrive from outside."""
        for term in self.terms:
            if term.k <= t:
                a = a + term.sums(values[term.source][t - term.k])
        fired = self.trace.spikes[t]
        self.u = _pin(self.u * self.keep_u + 64 * a, self.exact_u[t])
        h = _pin(self.v * self.keep_v + self.u, self.h[t])
        self.spikes.append(_spike(h, fired, self.above[t], self.unit, self.surrogate))
        self.v = h.masked_fill(fired, 0)
        self.vs.append(self.v)

    def said(self) -> Tensor:
        """What an output hears, but for constants."""
        if not self.layer.readout:
            return torch.stack(self.spikes)
        v = torch.stack(self.vs) / self.unit
        if self.layer.readout == "state":
            return v
        return torch.cat([v[:1], v[1:] - v[:-1]])


class _Pin(torch.autograd.Function):
    """The value of one tensor with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, relaxed: Tensor, exact: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = relaxed.dtype
        return exact.to(dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0].to(ctx.dtype), None, None


class _Spike(torch.autograd.Function):
    """Spikes as they were, with the surrogate's derivative."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, fired: Tensor, above: Tensor, unit: float, surrogate: Surrogate
    ) -> Tensor:
        ctx.save_for_backward(above)
        ctx.unit, ctx.surrogate = unit, surrogate
        return fired.to(h.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (above,) = ctx.saved_tensors
        return grads[0] * ctx.surrogate(above) / ctx.unit, None, None, None, None


def _pin(relaxed: Tensor, exact: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """`exact` in the type of `relaxed` (or `dtype`), with the gradient of `relaxed`."""
    return _Pin.apply(relaxed, exact, dtype or relaxed.dtype)  # type: ignore[return-value]


def _spike(h: Tensor, fired: Tensor, above: Tensor, unit: float, surrogate: Surrogate) -> Tensor:
    return _Spike.apply(h, fired, above, unit, surrogate)  # type: ignore[return-value]
