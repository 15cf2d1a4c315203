"""Quantise a program to Loihi's integers: weights of 2 to 9 bits, 12-bit decays, 17-bit thresholds.

Each layer has one scale S: weights become the even integers 2 round(S w / 2) in -256..254 (8 bits, Lava's
mixed-sign grid; a coarser grid for fewer bits), or with 9 bits the integers round(S w) in -255..255, in one
connection for each sign (Lava's excitatory and inhibitory grids). Thresholds become round(S vth), biases
round(64 S b) as mantissa and exponent. S is as large as the limits allow: |synaptic sum| < 2^17 (else u
wraps), vth < 2^17, |bias mantissa| < 2^12.
Connections of one layer share S; a power of two is taken out of those with larger weights. The result
depends on the program alone (its `Quantiser`, if it has one), so every integer target runs the same numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import msgspec
import numpy as np

from rsc.errors import UnsupportedNode
from rsc.export.quantise import InputRange, joined, quantise, sum_bound, unit_of
from rsc.export.synapses import float_layers
from rsc.layered import Connection, Layer, LayeredProgram
from rsc.program import Program
from rsc.quantiser import Quantiser
from rsc.results import Issue


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
        sum_bound: largest synaptic sum if every source sends its largest value; u wraps beyond 131071.
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
    exact, integers, issues = _lowered(program)
    if exact is None or integers is None:
        return list(issues)
    return [
        Issue(
            "info",
            row.layer,
            f"Weights on {row.weight_min}..{row.weight_max}, changed by at most "
            f"{row.weight_error_max / row.weight_largest:.2%} of the largest; "
            f"threshold {row.vth}, changed by {row.threshold_error:.2%}.",
        )
        for row in quantisation_table(exact, integers, program.quantiser)
    ]


def lower(program: Program, arithmetic: str = "integer") -> LayeredProgram:
    """The layers that `loihi` and `lava` execute.

    Args:
        arithmetic: "integer" (quantised) or "float" (gains folded, nothing rounded).

    Raises:
        UnsupportedNode: see `check`.
    """
    exact, integers, issues = _lowered(program)
    found = exact if arithmetic == "float" else integers
    if found is None:
        raise UnsupportedNode(
            "The program has no Loihi form.",
            " ".join(f"{i.node + ': ' if i.node else ''}{i.what}" for i in issues),
            " ".join(dict.fromkeys(i.fix for i in issues)),
        )
    return found


@functools.lru_cache(maxsize=1)
def _lowered(program: Program) -> tuple[LayeredProgram | None, LayeredProgram | None, tuple[Issue, ...]]:
    """(float form, integers, why one is missing); the last one is kept, as it is asked for repeatedly."""
    exact, issues = float_layers(program)
    if exact is None:
        return None, None, tuple(issues)
    try:
        return exact, quantise(exact, program), ()
    except UnsupportedNode as error:
        return exact, None, (Issue("error", "", f"{error.what} {error.why}", error.fix),)


def quantisation_table(
    exact: LayeredProgram, quantised: LayeredProgram, rules: Quantiser | None = None
) -> list[QuantisationRow]:
    """One row per layer: errors of the integer form against the exact one; `rules` of the program."""
    rules = rules or Quantiser()
    ranges = [(s.name, InputRange(s.scale, s.maximum, 0.0, s.maximum)) for s in quantised.inputs]
    pairs = zip(exact.layers, quantised.layers, strict=True)
    return [_row(a, joined(a, b), dict(ranges), rules) for a, b in pairs]


def _row(a: Layer, b: Layer, inputs: Mapping[str, InputRange], rules: Quantiser) -> QuantisationRow:
    pairs = list(zip(a.connections, b.connections, strict=True))
    units = [unit_of(q, b.scale, inputs) / 2.0**q.weight_exp for _, q in pairs]
    errors = [np.abs(q.weight / unit - c.weight).ravel() for (c, q), unit in zip(pairs, units, strict=True)]
    clipped = sum(_clipped(c, q, unit, rules) for (c, q), unit in zip(pairs, units, strict=True))
    kept = np.concatenate([np.zeros(1), *errors])
    largest = max((float(np.abs(c.weight).max(initial=0.0)) for c, _ in pairs), default=0.0) or 1.0
    bias = b.bias_mant.astype(np.float64) * 2.0**b.bias_exp / (64 * b.scale)
    limit = np.asarray(a.vth, np.float64)
    return QuantisationRow(
        layer=a.name,
        scale=b.scale,
        vth=int(np.max(b.vth)),
        dv=int(np.max(b.dv)),
        bias_exp=b.bias_exp,
        weight_min=min((int(q.weight.min(initial=0)) for _, q in pairs), default=0),
        weight_max=max((int(q.weight.max(initial=0)) for _, q in pairs), default=0),
        weight_error_max=float(kept.max()),
        weight_error_mean=float(kept[1:].mean()) if len(kept) > 1 else 0.0,
        weight_largest=largest,
        saturations=clipped,
        bias_error_max=float(np.abs(bias - a.bias_mant).max()),
        threshold_error=0.0
        if a.readout
        else float((np.abs(b.vth / b.scale - limit) / np.where(limit == 0, 1, limit)).max()),
        sum_bound=sum(sum_bound(q, inputs) for _, q in pairs),
    )


def _clipped(exact: Connection, rounded: Connection, unit: float, rules: Quantiser) -> int:
    """How many weights the ends of the grid cut off by more than half a step."""
    largest = int(np.abs(rounded.weight).max(initial=0))
    step = rules.step * 2 ** max(0, (largest - 1).bit_length() - 8)  # of kernels, which hold their exponent
    return int((np.abs(exact.weight) * unit - np.abs(rounded.weight) > 0.5 * step + 1e-6).sum())
