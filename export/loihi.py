"""Quantise a program to Loihi's integers: 8-bit weights, 12-bit decays, 17-bit thresholds.

Each layer has one scale S: weights become the even integers 2 round(S w / 2) in -256..254 (Lava's
mixed-sign grid), thresholds round(S vth), biases round(64 S b) as mantissa and exponent. S is as
large as the limits allow: |synaptic sum| < 2^17 (else u wraps), vth < 2^17, |bias mantissa| < 2^12.
The result depends on the program alone, so every integer target runs the same numbers.
"""

from __future__ import annotations

import dataclasses
import math

import msgspec
import numpy as np

from rsc.coding.stages import apply_stages
from rsc.errors import UnsupportedNode
from rsc.export.synapses import float_layers
from rsc.layered import BIAS_MANT_MAX, VTH_MAX, Connection, Layer, LayeredProgram
from rsc.program import EncoderSpec, Program
from rsc.results import Issue

WEIGHT_MIN, WEIGHT_MAX = -256, 254
SUM_MAX = (1 << 17) - 1  # |a| << 6 must stay below 2^23
TAIL = 8.0  # standard deviations of input noise that the synaptic sum must hold
_SHRINK = 0.97


class QuantisationRow(msgspec.Struct, frozen=True):
    """What quantisation did to one layer.

    Fields:
        scale: integer units per unit of the float program.
        vth, dv, bias_exp: the integers chosen.
        weight_min, weight_max: extremes on the grid.
        weight_error_max, weight_error_mean: |w_int / S - w|, in units of the float program.
        weight_largest: max |w|, in the same units.
        bias_error_max: likewise; threshold_error: relative to the threshold.
        saturations: weights clipped to the ends of the grid.
        sum_bound: bound of the synaptic sum, limit 131071.
    """

    layer: str
    scale: float
    vth: int
    dv: int
    bias_exp: int
    weight_min: int
    weight_max: int
    weight_error_max: float
    weight_error_mean: float
    weight_largest: float
    saturations: int
    bias_error_max: float
    threshold_error: float
    sum_bound: float


def check(program: Program) -> list[Issue]:
    """What cannot be represented on Loihi, and what is changed on the way."""
    layered, issues = float_layers(program)
    if layered is None:
        return issues
    try:
        quantised = _quantise(layered, program)
    except UnsupportedNode as error:
        return [Issue("error", "", f"{error.what} {error.why}", error.fix)]
    return [
        Issue(
            "info",
            row.layer,
            f"Weights on {row.weight_min}..{row.weight_max}, changed by at most "
            f"{row.weight_error_max / row.weight_largest:.2%} of the largest; "
            f"threshold {row.vth}, changed by {row.threshold_error:.2%}.",
        )
        for row in quantisation_table(layered, quantised)
    ]


def lower(program: Program, arithmetic: str = "integer") -> LayeredProgram:
    """The layers that `loihi` and `lava` execute.

    Args:
        arithmetic: "integer" (quantised) or "float" (gains folded, nothing rounded).

    Raises:
        UnsupportedNode: see `check`.
    """
    layered, issues = float_layers(program)
    if layered is None:
        raise UnsupportedNode(
            "The program has no Loihi form.",
            " ".join(f"{i.node + ': ' if i.node else ''}{i.what}" for i in issues),
            " ".join(dict.fromkeys(i.fix for i in issues)),
        )
    return layered if arithmetic == "float" else _quantise(layered, program)


def quantisation_table(exact: LayeredProgram, quantised: LayeredProgram) -> list[QuantisationRow]:
    """One row per layer: errors of the integer form against the exact one."""
    rows = []
    for a, b in zip(exact.layers, quantised.layers, strict=True):
        pairs = list(zip(a.connections, b.connections, strict=True))
        src = quantised.input_scale if any(c.graded for c in b.connections) else 1.0
        largest = max(np.abs(c.weight).max(initial=0.0) for c, _ in pairs) or 1.0
        unit = b.scale / src
        errors = np.concatenate([np.abs(q.weight / unit - c.weight).ravel() for c, q in pairs])
        wanted = np.concatenate([2 * np.rint(unit * c.weight / 2).ravel() for c, _ in pairs])
        bias = b.bias_mant.astype(np.float64) * 2.0**b.bias_exp / (64 * b.scale)
        rows.append(
            QuantisationRow(
                layer=a.name,
                scale=b.scale,
                vth=int(b.vth),
                dv=int(b.dv),
                bias_exp=b.bias_exp,
                weight_min=min(int(q.weight.min()) for _, q in pairs),
                weight_max=max(int(q.weight.max()) for _, q in pairs),
                weight_error_max=float(errors.max()),
                weight_error_mean=float(errors.mean()),
                weight_largest=float(largest),
                saturations=int(((wanted < WEIGHT_MIN) | (wanted > WEIGHT_MAX)).sum()),
                bias_error_max=float(np.abs(bias - a.bias_mant).max()),
                threshold_error=0.0 if a.readout else abs(b.vth / b.scale - a.vth) / a.vth,
                sum_bound=max(_sum_bound(q, _Input.of(quantised)) for _, q in pairs),
            )
        )
    return rows


@dataclasses.dataclass(frozen=True)
class _Input:
    """Range of the integer payloads: |mean| and standard deviation, in payload units."""

    scale: float
    mean: float
    std: float
    maximum: int

    @classmethod
    def at(cls, encoder: EncoderSpec | None, bounds: tuple[float, float] | None, scale: float) -> _Input:
        if encoder is None:
            return cls(1.0, 1.0, 0.0, 255)
        low, high = bounds or (0.0, 1.0)
        ends = np.stack([np.full((1, len(encoder.mean), 1, 1), v, np.float32) for v in (low, high)], 1)[0]
        quiet = np.asarray(apply_stages(encoder, ends[None], None), np.float64)
        before = encoder.order.index("noise") < encoder.order.index("normalise")
        std = encoder.sigma / (min(encoder.std) if before else 1.0)
        mean = float(np.abs(quiet).max())
        reach = math.ceil(scale * (mean + TAIL * std)) + 1
        return cls(scale, scale * mean, scale * std, min(reach, (1 << 15) - 1))

    @classmethod
    def of(cls, layered: LayeredProgram) -> _Input:
        return cls(layered.input_scale, layered.input_max, 0.0, layered.input_max)


def _quantise(layered: LayeredProgram, program: Program) -> LayeredProgram:
    steps = program.encoder.steps if program.encoder else 1
    exponents = range(8, -1, -1) if program.encoder else (0,)
    options = [_Input.at(program.encoder, program.bounds, 2.0**k) for k in exponents]
    chosen = options[-1]
    for option in options:  # the finest input grid that costs the first layer no weight bits
        full = [_fits(layer, option, steps, _full_scale(layer)) for layer in layered.layers if _graded(layer)]
        if all(full):
            chosen = option
            break
    return dataclasses.replace(
        layered,
        arithmetic="integer",
        layers=tuple(_layer(layer, chosen, steps) for layer in layered.layers),
        input_scale=chosen.scale,
        input_max=chosen.maximum,
    )


def _graded(layer: Layer) -> bool:
    return any(c.graded for c in layer.connections)


def _full_scale(layer: Layer) -> float:
    """The scale at which the largest weight reaches the end of the grid."""
    largest = max(float(np.abs(c.weight).max(initial=0.0)) for c in layer.connections)
    return WEIGHT_MAX / largest if largest else 1.0


def _layer(layer: Layer, entry: _Input, steps: int) -> Layer:
    if layer.connections[0].graded != _graded(layer) or len({c.graded for c in layer.connections}) > 1:
        raise UnsupportedNode(
            f"Layer '{layer.name}' mixes the input and spikes.",
            "They have different scales.",
            "Separate them.",
        )
    weight_scale = _full_scale(layer)
    for _ in range(400):
        made = _fits(layer, entry, steps, weight_scale)
        if made is not None:
            return made
        weight_scale *= _SHRINK
    raise UnsupportedNode(
        f"Layer '{layer.name}' does not fit Loihi's ranges.",
        f"Weights, biases and threshold {layer.vth:g} differ too much in size.",
        "Reduce the bias or the fan-in.",
    )


def _fits(layer: Layer, entry: _Input, steps: int, weight_scale: float) -> Layer | None:
    """The layer at a weight scale, or None if a limit is broken."""
    scale = weight_scale * (entry.scale if _graded(layer) else 1.0)
    connections = tuple(
        dataclasses.replace(
            c,
            weight=np.clip(2 * np.rint(weight_scale * c.weight / 2), WEIGHT_MIN, WEIGHT_MAX).astype(np.int32),
        )
        for c in layer.connections
    )
    bound = sum(_sum_bound(c, entry) for c in connections)
    bias = 64 * scale * layer.bias_mant
    exponent = next(
        (e for e in range(8) if np.abs(np.rint(bias / 2.0**e)).max(initial=0) <= BIAS_MANT_MAX), None
    )
    vth = VTH_MAX if layer.readout else round(scale * layer.vth)
    reach = steps * (bound + np.abs(bias).max(initial=0) / 64) if layer.readout else bound
    if exponent is None or not 1 <= vth <= VTH_MAX or reach > SUM_MAX:
        return None
    return dataclasses.replace(
        layer,
        connections=connections,
        du=4095,
        dv=round(4096 * layer.dv),
        vth=vth,
        bias_mant=np.rint(bias / 2.0**exponent).astype(np.int32),
        bias_exp=exponent,
        scale=scale,
    )


def _sum_bound(connection: Connection, entry: _Input) -> float:
    """Bound of |sum of weights times inputs| of one connection (8 sigma for Gaussian input noise)."""
    weight = connection.weight.reshape(len(connection.weight), -1).astype(np.float64)
    if connection.graded:
        absolute = np.abs(weight).sum(1)
        spread = np.sqrt((weight**2).sum(1))
        bound = absolute * (entry.mean + 0.5) + TAIL * spread * entry.std
        return float(bound.max(initial=0))
    most = math.prod(connection.pool[0]) if connection.pool else 1
    return most * float(max(weight.clip(0).sum(1).max(initial=0), (-weight).clip(0).sum(1).max(initial=0)))
