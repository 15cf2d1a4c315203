"""The program as a mixed integer linear program: exact margins of small networks (HiGHS through scipy).

A spike is a binary variable; those that intervals decide are fixed. With h in [L, U] and theta the threshold,

    h <= theta + (U - theta) s,      h >= theta + 1 + (L - theta - 1)(1 - s)
    v = h if s = 0, 0 if s = 1:      h - U s <= v <= h - L s,   min(L, 0)(1 - s) <= v <= max(theta, 0)(1 - s)

and one problem per class minimises z_y - z_j. A decay is trunc(x k / 4096): an integer variable, with a
binary one for the sign of x where that is open. Spikes and payloads are whole, so everything else is, too.

HiGHS works in floating point with tolerances: its answers check the intervals and are no proof. A
counterexample counts once the network was run on it. For some hundred neuron-steps, no more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from scipy import optimize, sparse

from rsc.errors import UnsupportedNode
from rsc.layered import CONSTANT, Layer
from rsc.robustness.intervals import Bounds
from rsc.robustness.intervals_box import Box, binary
from rsc.robustness.intervals_margin import Readout
from rsc.robustness.intervals_synapses import IntervalSynapses

Linear = dict[int, float]  # variable -> coefficient


@dataclasses.dataclass(frozen=True, eq=False)
class Exact:
    """Margins of one box, by MILP.

    Fields:
        margins: smallest z_y - z_j found by class [K], infinite at y.
        bounds: the solver's lower bounds of them; below `margins` where time ran out.
        payloads: Input node -> the worst payloads [T, ...] found, as whole numbers; {} if none was.
        binaries: undecided spikes.
    """

    margins: np.ndarray
    bounds: np.ndarray
    payloads: Mapping[str, np.ndarray]
    binaries: int


def exact_margins(
    readout: Readout, inputs: Mapping[str, Box], y: int, *, latched: bool = False, seconds: float = 60.0
) -> Exact:
    """Minimise every margin over one payload box.

    Args:
        inputs: boxes [T, 1, ...] by Input node.
        latched: all steps get the same payload (direct coding), else they are independent.
        seconds: for each class.

    Raises:
        UnsupportedNode: u may wrap or v saturate inside the box: that is not linear.
    """
    bounds = readout.program.bounds(inputs, keep=True)
    model = _Model(readout, bounds, latched)
    model.build()
    margins, lower, payloads, worst = [], [], {}, np.inf
    for j in range(model.classes):
        if j == y:
            margins.append(np.inf)
            lower.append(np.inf)
            continue
        value, bound, x = model.least(y, j, seconds)
        margins.append(value)
        lower.append(bound)
        if x is not None and value < worst:
            worst, payloads = value, model.payloads(x)
    return Exact(np.array(margins), np.array(lower), payloads, model.binaries)


class _Model:
    """Variables, rows and where the neurons are among them."""

    def __init__(self, readout: Readout, bounds: Bounds, latched: bool) -> None:
        self.readout, self.bounds, self.latched = readout, bounds, latched
        self.low: list[float] = []
        self.high: list[float] = []
        self.whole: list[int] = []
        self.rows: list[tuple[Linear, float, float]] = []
        self.steps = len(next(iter(bounds.sources.values())).low)
        self.sources: dict[str, np.ndarray] = {}  # variables [T, size]
        self.bits: dict[str, np.ndarray] = {}  # likewise, of x != 0
        self.spikes: dict[str, np.ndarray] = {}
        self.v: dict[str, np.ndarray] = {}
        self.binaries = 0

    @property
    def classes(self) -> int:
        """K."""
        return int(np.prod(self.readout.layers[0].shape))

    def variable(self, low: float, high: float, whole: bool = False) -> int:
        """A new one."""
        self.low.append(float(low))
        self.high.append(float(high))
        self.whole.append(int(whole))
        return len(self.low) - 1

    def row(self, terms: Linear, low: float, high: float) -> None:
        """low <= sum of terms <= high."""
        self.rows.append((terms, float(low), float(high)))

    def build(self) -> None:
        """Everything but an objective."""
        program = self.readout.program
        for name, box in self.bounds.sources.items():
            self.sources[name], self.bits[name] = self._source(box)
        for layer in program.layered.layers:
            shape = (self.steps, int(np.prod(layer.shape)))
            self.spikes[layer.name], self.v[layer.name] = np.zeros(shape, int), np.zeros(shape, int)
            self.sources[layer.name] = self.bits[layer.name] = self.spikes[layer.name]
        states = {layer.name: _State(self, layer) for layer in program.layered.layers}
        for group in program.layered.groups():
            for t in range(self.steps):
                for layer in group:
                    states[layer.name].step(t)

    def _source(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        low, high = (_flat(end.double(), self.steps) for end in (box.low, box.high))
        shared = binary(box)
        may, must = (_flat(end, self.steps) for end in (shared.high, shared.low))
        values, bits = np.zeros(low.shape, int), np.zeros(low.shape, int)
        for t, i in np.ndindex(low.shape):
            same = t and self.latched and low[t, i] == low[0, i] and high[t, i] == high[0, i]
            values[t, i] = values[0, i] if same else self.variable(float(low[t, i]), float(high[t, i]), True)
            must_be, may_be = bool(must[t, i]), bool(may[t, i])
            bits[t, i] = bits[0, i] if same else self._bit(int(values[t, i]), must_be, may_be)
        return values, bits

    def _bit(self, x: int, must: bool, may: bool) -> int:
        """[x != 0], exact where x has one sign."""
        low, high = self.low[x], self.high[x]
        if (low, high) in ((0, 1), (1, 1), (0, 0)):
            return x
        bit = self.variable(must, may, True)
        if low == 0 and high > 0:
            self.row({x: 1, bit: -high}, -np.inf, 0)  # no payload without a bit
            self.row({x: 1, bit: -1}, 0, np.inf)
        elif high == 0 and low < 0:
            self.row({x: 1, bit: -low}, 0, np.inf)
            self.row({x: 1, bit: 1}, -np.inf, 0)
        return bit

    def least(self, y: int, j: int, seconds: float) -> tuple[float, float, np.ndarray | None]:
        """Smallest z_y - z_j, the solver's bound of it, and where."""
        cost, constant = np.zeros(len(self.low)), 0.0
        for layer in self.readout.layers:
            values = self.v[layer.name] if layer.readout else self.spikes[layer.name]
            c = self.readout.weights(layer, self.steps) / self.readout.unit(layer)
            fixed = self.readout.constant(layer, self.steps)
            np.add.at(cost, values[:, y], c)
            np.add.at(cost, values[:, j], -c)
            constant += fixed[y] - fixed[j]
        scale = max(np.abs(cost).max(), 1e-30)
        found = self._solve(cost / scale, seconds)
        if found.status == 2:  # no input is left
            return np.inf, np.inf, None
        bound = -np.inf if found.mip_dual_bound is None else found.mip_dual_bound * scale + constant
        if found.x is None:
            return np.inf, bound, None
        return found.fun * scale + constant, bound, found.x

    def _solve(self, cost: np.ndarray, seconds: float) -> optimize.OptimizeResult:
        terms = [terms for terms, _, _ in self.rows]
        index = [i for i, row in enumerate(terms) for _ in row]
        matrix = sparse.csr_array(
            ([c for row in terms for c in row.values()], (index, [k for row in terms for k in row])),
            shape=(len(terms), len(cost)),
        )
        rows = optimize.LinearConstraint(
            matrix,
            *(np.array([row[k] for row in self.rows]) for k in (1, 2)),  # pyright: ignore[reportArgumentType]
        )
        with _quiet():
            return optimize.milp(
                cost,
                integrality=np.array(self.whole),
                bounds=optimize.Bounds(np.array(self.low), np.array(self.high)),  # pyright: ignore[reportArgumentType]
                constraints=rows,
                options={"time_limit": seconds, "mip_rel_gap": 0.0},
            )

    def payloads(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Payloads [T, ...] of a solution."""
        names = [s for s in self.bounds.sources if s != CONSTANT]
        return {
            name: np.rint(x[self.sources[name]]).reshape(self.steps, *self.bounds.sources[name].low.shape[2:])
            for name in names
        }


class _State:
    """One layer, step by step."""

    def __init__(self, model: _Model, layer: Layer) -> None:
        self.model, self.layer = model, layer
        found = model.bounds.layers[layer.name]
        if found.u is None or found.h is None or found.v is None:
            raise AssertionError("states were not kept")
        size = int(np.prod(layer.shape))
        ends = [
            tuple(_flat(end, model.steps) for end in (b.low, b.high)) for b in (found.u, found.h, found.v)
        ]
        self.u, self.h, self.v = ends
        self.must, self.may = (_flat(end, model.steps) for end in (found.spikes.low, found.spikes.high))

        def each(x: object) -> np.ndarray:
            return np.broadcast_to(np.asarray(x, np.int64), layer.shape).ravel()

        self.keep_u, self.keep_v = 4095 - each(layer.du), 4096 - each(layer.dv)
        self.theta, start = each(layer.vth) << 6, each(layer.v_init)
        mantissa, exponent = each(layer.bias_mant), layer.bias_exp
        self.bias = mantissa << exponent if exponent >= 0 else mantissa >> -exponent
        self.matrices = [
            (source, one, _matrices(one)) for source, one in model.readout.program.synapses(layer.name)
        ]
        self.last_u: list[int | None] = [None] * size
        self.last_v = [model.variable(float(x), float(x)) for x in start]
        limit = 1 << 23
        if any(np.abs(end).max() >= limit - 1 for pair in (self.u, self.h) for end in pair):
            raise UnsupportedNode(
                f"u of layer '{layer.name}' may wrap, or its v saturate, inside the box.",
                "That is not linear.",
                "Use branch_and_bound, or a smaller box.",
            )

    def step(self, t: int) -> None:
        """Rows of step t."""
        for i in range(len(self.bias)):
            u = self._current(t, i)
            h = self.model.variable(self.h[0][t, i], self.h[1][t, i])
            terms = {h: 1.0, u: -1.0}
            self._decayed(terms, self.last_v[i], int(self.keep_v[i]))
            self.model.row(terms, self.bias[i], self.bias[i])
            self._fire(t, i, h)

    def _current(self, t: int, i: int) -> int:
        """u after the step."""
        model = self.model
        u = model.variable(self.u[0][t, i], self.u[1][t, i])
        terms = {u: 1.0}
        last = self.last_u[i]
        if last is not None:
            self._decayed(terms, last, int(self.keep_u[i]))
        for source, one, matrices in self.matrices:
            values = (model.sources if one.connection.graded else model.bits)[source]
            for k, matrix in matrices:
                if k <= t:
                    self._synapses(terms, matrix[i], values[t - k], one.connection.weight_exp)
        model.row(terms, 0, 0)
        self.last_u[i] = u
        return u

    def _synapses(self, terms: Linear, weights: np.ndarray, values: np.ndarray, exponent: int) -> None:
        """Subtract 64 (W x << exponent)."""
        if exponent >= 0:
            for j in np.flatnonzero(weights):
                _add(terms, int(values[j]), -64.0 * weights[j] * 2**exponent)
            return
        model = self.model
        ends = [model.low[v] * w for v, w in zip(values, weights, strict=True)]
        more = [model.high[v] * w for v, w in zip(values, weights, strict=True)]
        least = np.floor(np.minimum(ends, more).sum() * 2.0**exponent)
        most = np.floor(np.maximum(ends, more).sum() * 2.0**exponent)
        part = model.variable(least, most, True)
        row: Linear = {part: -float(2**-exponent)}
        for j in np.flatnonzero(weights):
            _add(row, int(values[j]), float(weights[j]))
        model.row(row, 0, 2**-exponent - 1)
        _add(terms, part, -64.0)

    def _decayed(self, terms: Linear, x: int, keep: int) -> None:
        """Subtract trunc(x keep / 4096)."""
        model = self.model
        if keep == 0:
            return
        if keep == 4096:
            _add(terms, x, -1.0)
            return
        low, high = model.low[x], model.high[x]
        d = model.variable(np.trunc(low * keep / 4096), np.trunc(high * keep / 4096), True)
        _add(terms, d, -1.0)
        slack, rest = 4095 / 4096, {x: keep / 4096, d: -1.0}  # what the truncation takes away
        if low >= 0 or high <= 0:
            model.row(rest, 0 if low >= 0 else -slack, 0 if high <= 0 else slack)
            return
        positive = model.variable(0, 1, True)
        model.row(rest | {positive: -slack}, -slack, 0)
        model.row({x: 1.0, positive: low}, low, np.inf)
        model.row({x: 1.0, positive: -high}, -np.inf, 0)

    def _fire(self, t: int, i: int, h: int) -> None:
        """Spike and reset."""
        model, name = self.model, self.layer.name
        must, may, theta = bool(self.must[t, i]), bool(self.may[t, i]), float(self.theta[i])
        s = model.variable(must, may, True)
        model.spikes[name][t, i] = s
        if not may:
            v = h
        elif must:
            v = model.variable(0, 0)
        else:
            model.binaries += 1
            low, high = model.low[h], model.high[h]
            v = model.variable(self.v[0][t, i], self.v[1][t, i])
            model.row({h: 1, s: theta - high}, -np.inf, theta)
            model.row({h: 1, s: low - theta - 1}, low, np.inf)
            model.row({v: 1, h: -1, s: low}, -np.inf, 0)
            model.row({v: 1, h: -1, s: high}, 0, np.inf)
            model.row({v: 1, s: max(theta, 0)}, -np.inf, max(theta, 0))
            model.row({v: 1, s: min(low, 0)}, min(low, 0), np.inf)
        model.v[name][t, i] = v
        self.last_v[i] = v


def _flat(x: torch.Tensor, steps: int) -> np.ndarray:
    """[T, 1, ...] as [T, size]."""
    return x[:, 0].reshape(steps, -1).cpu().numpy()


def _add(terms: Linear, variable: int, coefficient: float) -> None:
    terms[variable] = terms.get(variable, 0.0) + coefficient


def _matrices(one: IntervalSynapses) -> Sequence[tuple[int, np.ndarray]]:
    """(delay, weights [out, in]) of a connection, convolution and pooling written out."""
    shape = one.connection.source_shape
    size = int(np.prod(shape))
    unit = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    return [(t.k, one.exact.linear(unit, t.weight.double()).reshape(size, -1).T.numpy()) for t in one.terms]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """HiGHS writes to the process's stdout by itself; nothing else of this process is lost meanwhile."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
