"""Lower bounds of logit differences over a box: the whole question of a verification.

Two bounds, the larger counts. By element: low(z_y) - high(z_j). By difference, for readouts that provably
neither wrap, saturate nor fire: they are linear filters up to the truncation of decays, so that

    sum_t c_t v_t = sum_t lu_t 64 a_t + sum_t lv_t bias + kv v_0 lv_1 + errors
    lv_t = c_t + kv lv_{t+1},   lu_t = lv_t + ku lu_{t+1},   kv = 1 - dv / 4096, ku = 1 - (du + 1) / 4096

and the bound of W_y - W_j keeps what the two share. Each truncation errs by less than one unit of v.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from rsc.errors import UsageError
from rsc.layered import CONSTANT, Layer
from rsc.robustness.intervals import Bounds, IntervalProgram
from rsc.robustness.intervals_box import Box
from rsc.robustness.intervals_synapses import IntervalSynapses

READOUTS = ("mean", "sum", "last")


@dataclasses.dataclass(frozen=True, eq=False)
class Readout:
    """From bounds to logits: the first Output node, as a program reads it.

    Fields:
        program: whose bounds are read.
        rule: "mean", "sum" or "last" over the steps.
    """

    program: IntervalProgram
    rule: str = "mean"

    def __post_init__(self) -> None:
        if self.rule not in READOUTS:
            raise UsageError(
                f"Readout '{self.rule}' is not known.", f"Known: {', '.join(READOUTS)}.", "Use one."
            )

    @property
    def layers(self) -> list[Layer]:
        """Those whose sum makes the logits."""
        layered = self.program.layered
        return [layered.by_name[name] for name in layered.outputs[0][1]]

    def logits(self, bounds: Bounds) -> Box:
        """float64 [B, K]; exact up to rounding for a box of one point."""
        parts = [self._values(layer, bounds) for layer in self.layers]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def margins(self, bounds: Bounds, y: Tensor) -> Tensor:
        """Lower bounds float64 [B, K] of z_y - z_j; infinite at j = y, and where no input remains.

        A positive one is proved, rounding of the readout included.

        Args:
            y: int64 [B].
        """
        rows = torch.arange(len(y), device=self.program.device)
        y, steps = y.to(self.program.device), len(next(iter(bounds.sources.values())).low)
        total = torch.zeros((), dtype=torch.float64, device=self.program.device)
        size = torch.zeros((), dtype=torch.float64, device=self.program.device)
        for layer in self.layers:
            box = self._values(layer, bounds)
            apart = box.low[rows, y][:, None] - box.high
            magnitude = torch.maximum(box.low.abs(), box.high.abs()).amax(1, keepdim=True)
            joint = Filter.of(self, layer, steps)
            if joint is not None:
                both = joint.differences(bounds, y)
                apart = torch.maximum(apart, both)
            total, size = total + apart, size + magnitude
        total = total - size * (steps + 16) * 2.0**-48
        total[rows, y] = torch.inf
        return total.masked_fill(~bounds.feasible[:, None], torch.inf)

    def weights(self, layer: Layer, steps: int) -> np.ndarray:
        """c_t [T] of the sum over steps of c_t v_t (readouts) or c_t s_t, before the unit of the layer."""
        c = np.zeros(steps)
        if layer.readout == "sum":
            c[-1] = 1
            if self.rule == "last" and steps > 1:
                c[-2] = -1
        elif self.rule == "last":
            c[-1] = 1
        else:
            c[:] = 1
        return c / steps if self.rule == "mean" else c

    def constant(self, layer: Layer, steps: int) -> np.ndarray:
        """What is added to the logits of a layer [K] whatever it does."""
        shape = (int(np.prod(layer.shape)),)
        if layer.readout == "state":
            times = steps if self.rule == "sum" else 1
            return np.broadcast_to(layer.offset, layer.shape).reshape(shape).astype(np.float64) * times
        if layer.readout == "sum" and (self.rule != "last" or steps == 1):
            start = np.broadcast_to(layer.v_init, layer.shape).reshape(shape).astype(np.float64)
            return -start * self.weights(layer, steps)[-1] / self.unit(layer)
        return np.zeros(shape)

    @staticmethod
    def unit(layer: Layer) -> float:
        """Units of v, or spikes, per unit of a logit."""
        return 64 * layer.scale if layer.readout else 1.0

    def _values(self, layer: Layer, bounds: Bounds) -> Box:
        """Logits [B, K] of one layer, element by element."""
        found = bounds.layers[layer.name]
        box = found.v if layer.readout and found.v is not None else found.spikes
        steps = len(box.low)
        c = torch.from_numpy(self.weights(layer, steps)).to(box.low.device)
        low, high = (end.flatten(2).double().movedim(0, -1) for end in (box.low, box.high))
        ends = Box(low @ c.clamp(min=0) + high @ c.clamp(max=0), high @ c.clamp(min=0) + low @ c.clamp(max=0))
        constant = torch.from_numpy(self.constant(layer, steps)).to(box.low.device)
        return ends.map(lambda x: x / self.unit(layer) + constant)


@dataclasses.dataclass(frozen=True, eq=False)
class Filter:
    """A readout as a linear filter of what arrives.

    Fields:
        lu: weight [T] of 64 a_t.
        fixed: what bias and v_init give, float64 [K].
        error: bound of all truncations together, for one neuron.
    """

    readout: Readout
    layer: Layer
    lu: np.ndarray
    fixed: np.ndarray
    error: float

    @classmethod
    def of(cls, readout: Readout, layer: Layer, steps: int) -> Filter | None:
        """None for layers that fire, are fed by convolutions, or have decays of each neuron."""
        dense = all(c.kind == "dense" for c in layer.connections)
        shared = all(np.ptp(np.asarray(d)) == 0 for d in (layer.du, layer.dv))
        if not (layer.readout and dense and shared):
            return None
        ku, kv = (1 - (int(np.ravel(d)[0]) + one) / 4096 for d, one in ((layer.du, 1), (layer.dv, 0)))
        c = readout.weights(layer, steps)
        lv, lu = np.zeros(steps + 1), np.zeros(steps + 1)
        for t in reversed(range(steps)):
            lv[t] = c[t] + kv * lv[t + 1]
            lu[t] = lv[t] + ku * lu[t + 1]
        mantissa, exponent = layer.bias_mant.astype(np.int64).ravel(), layer.bias_exp
        bias = mantissa << exponent if exponent >= 0 else mantissa >> -exponent
        start = np.broadcast_to(layer.v_init, layer.shape).ravel() * (kv * lv[0])
        error = sum(np.abs(x).sum() for x, k in ((lv, kv), (lu, ku)) if k not in (0.0, 1.0))
        return cls(readout, layer, lu[:-1], lv.sum() * bias + start, float(error))

    def differences(self, bounds: Bounds, y: Tensor) -> Tensor:
        """Lower bounds [B, K] of z_y - z_j of this layer; -inf where it is not calm."""
        device = bounds.feasible.device
        fixed = torch.from_numpy(self.fixed).to(device)
        low = fixed[y][:, None] - fixed[None] - 2 * self.error
        size = fixed.abs().max() + low.abs().amax(1, keepdim=True)
        for source, one in self.readout.program.synapses(self.layer.name):
            seen = one.source(bounds.activity(source))
            for term in one.terms:
                x = self._weighted(seen, term.k)
                if x is not None:
                    part, most = self._term(one, term.weight, x, y, source)
                    low, size = low + part, size + most
        calm = bounds.layers[self.layer.name].calm.flatten(1)
        both = calm.gather(1, y[:, None]) & calm
        low = (low - size * 2.0**-44) / Readout.unit(self.layer)
        constant = torch.from_numpy(self.readout.constant(self.layer, len(self.lu))).to(device)
        low = low + constant[y][:, None] - constant[None]
        return low.masked_fill(~both, -torch.inf)

    def _weighted(self, seen: Box, k: int) -> Box | None:
        """Box [B, ...] of sum_t lu_t x_{t-k}, float64."""
        steps = len(self.lu)
        if k >= steps:
            return None
        weight = torch.from_numpy(self.lu[k:]).to(seen.low.device)
        low, high = (end[: steps - k].double().movedim(0, -1) for end in (seen.low, seen.high))
        up, down = weight.clamp(min=0), weight.clamp(max=0)
        return Box(low @ up + high @ down, high @ up + low @ down)

    def _term(
        self, one: IntervalSynapses, weight: Tensor, x: Box, y: Tensor, source: str
    ) -> tuple[Tensor, Tensor]:
        """Lower bounds [B, K] of 64 2^exp (W_y - W_j) x, and a bound [B, 1] of all its parts."""
        c = one.connection
        matrix = weight.double()
        unit = 64 * 2.0**c.weight_exp
        floors = unit_error = 0.0
        if c.weight_exp < 0:
            floors = unit_error = 64 * float(np.abs(self.lu).sum())
        low, high = (_pooled(end, one).flatten(1) for end in (x.low, x.high))
        if source == CONSTANT:
            low, high = (end.expand(len(y), -1) for end in (low, high))
        middle, half = (low + high) / 2, (high - low) / 2
        found = torch.empty((len(y), len(matrix)), dtype=torch.float64, device=low.device)
        for label in y.unique().tolist():
            rows, apart = y == label, matrix[label] - matrix
            found[rows] = middle[rows] @ apart.T - half[rows] @ apart.abs().T
        most = 2 * torch.maximum(low.abs(), high.abs()) @ matrix.abs().amax(0)[:, None]
        return unit * found - floors, unit * most + unit_error


def _pooled(x: Tensor, one: IntervalSynapses) -> Tensor:
    """Sum pooling [B, ...] in front of the weight, if there is one."""
    pool = one.connection.pool
    return x if pool is None else torch.nn.functional.avg_pool2d(x, *pool, divisor_override=1)


def proved(margins: Tensor) -> Tensor:
    """bool [B]: the class wins on the whole box, without ties."""
    return (margins > 0).all(1)
