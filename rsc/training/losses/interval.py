"""Interval training: the margin must hold on a whole L_inf box of the image, under the noise of the step.

Bounds are propagated through the network as in Gowal et al., arXiv 1810.12715, with the spike and reset rules
of an interval LIF (Liang et al., NeurIPS 2022, S-IBP); `rsc verify` then proves such boxes on the deployed
integers. In floating point these bounds are close, not proven: they train, they certify nothing.

    mu = (W_y - W_j) c - |W_y - W_j| r + b_y - b_j,   c, r: centre and radius of the mean spikes before W
    loss = CE(-mu, y), mu_y = 0
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from rsc.errors import UsageError
from rsc.networks import Residual, SpikingSequential, StepBatchNorm2d
from rsc.neurons import LI, LIF
from rsc.neurons.rule import Fire
from rsc.neurons.scan import threshold
from rsc.neurons.surrogates import surrogate_of
from rsc.training.losses.adversarial import pixels
from rsc.training.losses.passes import Pass, Passes, replayed
from rsc.training.losses.term import Need, Term

Ends = tuple[Tensor, Tensor]  # lowest and highest values [T, B, ...]


class Interval(Term, frozen=True, tag="interval", kw_only=True):
    """CE of the worst margins on the box {x' : |x' - x| <= eps, x' in bounds}, mean over the batch.

    Beside a cross-entropy of weight 1 - k this is the loss of interval training with weight k.

    Fields:
        eps: final radius in pixel units, a number or text such as "8/255".
        ramp: optimiser steps over which the radius rises from 0, linearly; 0 begins with eps.
    """

    always: ClassVar[frozenset[Need]] = frozenset({"image box"})
    weight: float = 0.5
    eps: float | str = "8/255"
    ramp: int = 0

    def check(self) -> None:
        """Refuse values out of range."""
        pixels(self.eps)
        self.refuse_unless(self.ramp >= 0, "ramp", "It is not negative.")

    def value(self, passes: Passes) -> Tensor:
        """The loss of the step."""
        found = passes.of(self.on)
        radius = pixels(self.eps) * self._share(passes)
        return F.cross_entropy(-worst_margins(passes, found, radius), passes.step.y)

    def _share(self, passes: Passes) -> float:
        """Part of the final radius that is used in this step."""
        if not self.ramp:
            return 1.0
        return min(1.0, passes.updates / self.ramp)


def worst_margins(passes: Passes, found: Pass, radius: float) -> Tensor:
    """Lower bounds [B, K] of z_y - z_j on the box around the images of a pass, under its noise; 0 at y.

    Raises:
        UsageError: the network holds a layer without interval bounds.
    """
    step, x = passes.step, found.x.detach()
    frames = []
    for sign in (-1, 1):
        with replayed(step.generator, found.before):
            frames.append(step.frames((x + sign * radius).clamp(*step.bounds)))
    bounded = _Bounded(step.network)
    seen = {f"network.{name}": value for name, value in step.seen.items()}
    return functional_call(bounded, seen, (frames[0], frames[1], step.y))


class _Bounded(nn.Module):
    """A network that maps ends of frames and labels to worst margins."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, low: Tensor, high: Tensor, y: Tensor) -> Tensor:
        """[B, K]."""
        *body, last = _chain(self.network)
        ends = (low, high)
        for layer in body:
            ends = bound(layer, ends)
        if isinstance(last, nn.Linear):
            return _differences(last, ends, y)
        low, high = (end.mean(0) for end in bound(last, ends))
        apart = low.gather(1, y[:, None]) - high
        return apart.scatter(1, y[:, None], 0.0)


def _chain(network: nn.Module) -> list[nn.Module]:
    """Layers in order, nested containers opened."""
    if isinstance(network, nn.Sequential):
        return [layer for child in network for layer in _chain(child)]
    return [network]


def _differences(layer: nn.Linear, ends: Ends, y: Tensor) -> Tensor:
    low, high = (end.mean(0) for end in ends)
    apart = layer.weight[y][:, None] - layer.weight  # [B, K, F]
    margins = (apart @ ((low + high) / 2)[..., None] - apart.abs() @ ((high - low) / 2)[..., None])[..., 0]
    return margins if layer.bias is None else margins + layer.bias[y][:, None] - layer.bias


def bound(layer: nn.Module, ends: Ends) -> Ends:
    """Ends of what a layer makes of all values between two ends [T, B, ...].

    Raises:
        UsageError: a layer without interval bounds.
    """
    for kind, rule in _RULES.items():
        if isinstance(layer, kind):
            return rule(layer, ends)
    raise UsageError(
        f"The interval loss cannot bound {type(layer).__name__}.",
        f"It knows {', '.join(kind.__name__ for kind in _RULES)}.",
        "Use a network of these, or drop the term.",
    )


def _sequence(layer: Any, ends: Ends) -> Ends:
    for child in layer:
        ends = bound(child, ends)
    return ends


def _residual(layer: Any, ends: Ends) -> Ends:
    (a, b), (c, d) = bound(layer.body, ends), bound(layer.shortcut, ends)
    return a + c, b + d


def _folded(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A layer without time over [T, B, ...]."""
    return f(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def _monotone(layer: Any, ends: Ends) -> Ends:
    return _folded(layer, ends[0]), _folded(layer, ends[1])


def _around(ends: Ends, middle: Callable[[Tensor], Tensor], radius: Callable[[Tensor], Tensor]) -> Ends:
    """Ends of a linear map, from its map of centres and the map of radii by |W|."""
    low, high = ends
    c, r = _folded(middle, (low + high) / 2), _folded(radius, (high - low) / 2)
    return c - r, c + r


def _linear(layer: Any, ends: Ends) -> Ends:
    return _around(ends, layer, lambda r: F.linear(r, layer.weight.abs()))


def _conv(layer: Any, ends: Ends) -> Ends:
    where = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return _around(ends, layer, lambda r: F.conv2d(r, layer.weight.abs(), None, *where))


def _norm(layer: Any, ends: Ends) -> Ends:
    """With the running statistics, as they will be deployed."""
    gain, shift = _affine(layer)
    return _around(ends, lambda c: c * gain + shift, lambda r: r * gain.abs())


def _affine(layer: nn.BatchNorm2d) -> Ends:
    mean, var = layer.running_mean, layer.running_var
    if mean is None or var is None:
        raise UsageError(
            "The interval loss meets a batch norm without running statistics.",
            "Bounds need constants.",
            "Use track_running_stats=True.",
        )
    gain = layer.weight / (var + layer.eps).sqrt()
    return gain[:, None, None], (layer.bias - mean * gain)[:, None, None]


def _step_norm(layer: Any, ends: Ends) -> Ends:
    low, high = ends
    parts = [_norm(layer.at[t], (low[t : t + 1], high[t : t + 1])) for t in range(len(low))]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _lif(layer: Any, ends: Ends) -> Ends:
    """Spikes that must come and that may come, with surrogate gradients."""
    low, high = ends
    decay, theta = layer.leak.over(low), layer.level.over(low)
    surrogate = surrogate_of(layer.surrogate)
    fire = Fire(theta, comparison=layer.comparison, surrogate=surrogate)
    level = torch.as_tensor(theta, dtype=low.dtype, device=low.device)
    v_low = v_high = torch.zeros_like(low[0])
    must, may = [], []
    for x_low, x_high in zip(low, high, strict=True):
        h_low, h_high = decay * v_low + x_low, decay * v_high + x_high
        must.append(threshold(h_low, fire))
        may.append(threshold(h_high, fire))
        v_low, v_high = _reset(layer.reset, level, h_low, h_high, must[-1] > 0, may[-1] > 0)
    return torch.stack(must), torch.stack(may)


def _reset(rule: str, level: Tensor, low: Tensor, high: Tensor, must: Tensor, may: Tensor) -> Ends:
    """Membranes after the reset; the hull of both ways where a spike is undetermined."""
    zero = torch.zeros_like(low)
    if rule == "subtract":
        fired, top = (low - level, high - level), torch.maximum(level.expand_as(high), high - level)
    else:
        fired, top = (zero, zero), level.clamp(min=0).expand_as(high)
    open_low = torch.where(may, torch.minimum(low, zero), low)
    open_high = torch.where(may, top, high)
    return torch.where(must, fired[0], open_low), torch.where(must, fired[1], open_high)


_RULES: dict[type, Callable[[Any, Ends], Ends]] = {
    SpikingSequential: _sequence,
    Residual: _residual,
    nn.Linear: _linear,
    nn.Conv2d: _conv,
    nn.BatchNorm2d: _norm,
    StepBatchNorm2d: _step_norm,
    LIF: _lif,
    LI: lambda layer, ends: (layer(ends[0]), layer(ends[1])),
    nn.Flatten: _monotone,
    nn.AvgPool2d: _monotone,
    nn.ReLU: _monotone,
    nn.Identity: _monotone,
}
