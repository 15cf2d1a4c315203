"""From floating point to Loihi's integers, layer by layer; `rsc.export.loihi` says the rules."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rsc.coding import quiet_frames
from rsc.encoder_spec import COINS
from rsc.errors import UnsupportedNode
from rsc.export.sums import Sums
from rsc.layered import BIAS_MANT_MAX, STATE_MAX, VTH_MAX, Connection, Layer, LayeredProgram
from rsc.program import EncoderSpec, Program
from rsc.quantiser import Quantiser

SUM_MAX = (1 << 17) - 1  # |a| << 6 must stay below 2^23
TAIL = 8.0  # standard deviations of input noise that the synaptic sum must hold
UNKNOWN_STEPS = 256  # that a readout must hold where no encoder says how many there are
_SHRINK = 0.97


@dataclasses.dataclass(frozen=True)
class InputRange:
    """Range of the integer payloads: |mean| and standard deviation, in payload units."""

    scale: float
    mean: float
    std: float
    maximum: int

    @classmethod
    def at(cls, encoder: EncoderSpec | None, bounds: tuple[float, float] | None, scale: float) -> InputRange:
        if encoder is None:  # spikes, or what a calibration found
            return cls(scale, scale, 0.0, 255)
        if encoder.kind in COINS and not encoder.scaled_after_noise:
            return cls(scale, scale, 0.0, 1)
        coin = (-1.0 if encoder.kind == "signed" else 0.0, 1.0) if encoder.kind in COINS else None
        low, high = coin or bounds or (0.0, 1.0)
        ends = np.stack([np.full((1, len(encoder.mean), 1, 1), v, np.float32) for v in (low, high)], 1)[0]
        quiet = np.asarray(quiet_frames(encoder, ends), np.float64)
        before = encoder.order.index("noise") < encoder.order.index("normalise")
        std = max(encoder.sigmas) / (min(encoder.std) if before else 1.0)
        mean = float(np.abs(quiet).max())
        reach = math.ceil(scale * (mean + TAIL * std)) + 1
        return cls(scale, scale * mean, scale * std, min(reach, (1 << 15) - 1))


def input_grids(encoder: EncoderSpec | None) -> list[float]:
    """Payload units per unit of the frames that may be chosen: whole levels of an encoder that has some."""
    if encoder is None or (encoder.kind in COINS and not encoder.scaled_after_noise):
        return [1.0]
    if encoder.grid is None:
        return [2.0**k for k in range(8, -1, -1)]
    fine = encoder.grid * encoder.std[0]
    return [fine / 2**k for k in range(max(1, math.ceil(math.log2(fine)) + 1))]


def quantise(layered: LayeredProgram, program: Program) -> LayeredProgram:
    """The integer form of a layered program, by the program's quantiser or its own bounds.

    Raises:
        UnsupportedNode: a layer does not fit.
    """
    rules, steps = program.quantiser or Quantiser(), readout_steps(program)
    grids = input_grids(program.encoder) if rules.input_scale is None else [rules.input_scale]
    options = [InputRange.at(program.encoder, program.bounds, scale) for scale in grids]
    graded = [layer for layer in layered.layers if any(c.graded for c in layer.connections)]
    names = [source.name for source in layered.inputs]
    chosen, sums = options[0], dict[str, list[Sums]]()
    if len(options) > 1:
        sums = {layer.name: _sums(layer) for layer in graded}
        chosen = max(options, key=lambda o: _levels(graded, dict.fromkeys(names, o), steps, rules, sums))
    inputs = dict.fromkeys(names, chosen)
    layers = [_layer(layer, inputs, steps, rules, sums.get(layer.name)) for layer in layered.layers]
    if rules.splits:
        layers = [_split(a, b) for a, b in zip(layered.layers, layers, strict=True)]
    return dataclasses.replace(
        layered,
        arithmetic="integer",
        layers=tuple(layers),
        inputs=tuple(
            dataclasses.replace(s, scale=chosen.scale, maximum=chosen.maximum) for s in layered.inputs
        ),
    )


def _split(exact: Layer, integers: Layer) -> Layer:
    """The layer with two connections, of the weights above 0 and below, for each that has both in `exact`."""
    parts: list[Connection] = []
    for before, c in zip(exact.connections, integers.connections, strict=True):
        if _mixed(before):
            signs = (c.weight.clip(min=0), c.weight.clip(max=0))
            parts += [dataclasses.replace(c, weight=weight) for weight in signs]
        else:
            parts.append(c)
    return dataclasses.replace(integers, connections=tuple(parts))


def joined(exact: Layer, integers: Layer) -> Layer:
    """The integer layer with one connection for each of the exact one: what 9 bits split is put together."""
    if len(integers.connections) == len(exact.connections):
        return integers
    left, made = iter(integers.connections), []
    for before in exact.connections:
        c = next(left)
        made.append(dataclasses.replace(c, weight=c.weight + next(left).weight) if _mixed(before) else c)
    return dataclasses.replace(integers, connections=tuple(made))


def _mixed(connection: Connection) -> bool:
    """Whether there are weights of both signs."""
    return bool(connection.weight.min(initial=0) < 0 < connection.weight.max(initial=0))


def _levels(
    layers: list[Layer],
    inputs: Mapping[str, InputRange],
    steps: int,
    rules: Quantiser,
    sums: Mapping[str, list[Sums]],
) -> float:
    """How many values an input grid leaves to the inputs, or to the weights that hear them if fewer."""
    found = [entry.mean for entry in inputs.values()]
    for layer in layers:
        full = _full_scale(layer, inputs, rules, True)
        try:
            share = min(1.0, _layer(layer, inputs, steps, rules, sums[layer.name]).scale / full)
            found.append(rules.largest / min(2, rules.step) * share)
        except UnsupportedNode:
            found.append(0.0)
    return min(found)


def readout_steps(program: Program) -> int:
    """Steps that an accumulator must hold."""
    return program.encoder.steps if program.encoder else UNKNOWN_STEPS


def largest_scale(
    layer: Layer, entry: InputRange, steps: int, rules: Quantiser, keep: float, most: float
) -> float:
    """The largest S, up to `most`, of a layer that keeps a share of the largest weight of its connections.

    Raises:
        UnsupportedNode: there is none.
    """
    inputs = {c.source: entry for c in layer.connections if c.graded}
    scale = min(most, _full_scale(layer, inputs, rules) / keep)
    for _ in range(800):
        if _fits(layer, inputs, steps, scale, rules, keep) is not None:
            return scale
        scale *= _SHRINK
    raise _no_fit(layer)


def unit_of(connection: Connection, scale: float, inputs: Mapping[str, InputRange]) -> float:
    """Integer weight per float weight, before its exponent; payloads carry the scale of their input."""
    return scale / inputs[connection.source].scale if connection.graded else scale


def _full_scale(
    layer: Layer, inputs: Mapping[str, InputRange], rules: Quantiser, graded: bool = False
) -> float:
    """The scale at which no connection (or none of the graded ones) needs fewer bits than the grid has.

    A connection with weights of less than a 256th of another's is not waited for.
    """
    kept = [c for c in layer.connections if c.graded or not graded]
    sizes = [float(np.abs(c.weight).max(initial=0.0)) * unit_of(c, 1.0, inputs) for c in kept]
    largest = max(sizes, default=0.0)
    if not largest:
        return 1.0 / max(float(np.abs(layer.bias_mant).max(initial=0.0)), 1e-9)
    return rules.largest / max(largest / 256, min(size for size in sizes if size))


def _layer(
    layer: Layer,
    inputs: Mapping[str, InputRange],
    steps: int,
    rules: Quantiser,
    sums: list[Sums] | None = None,
) -> Layer:
    told = rules.scale_of(layer.name)
    if told is not None:
        return _told(layer, inputs, steps, *told, rules)
    scale, sums = _full_scale(layer, inputs, rules), sums or _sums(layer)
    for _ in range(800):
        hopeless = _least_bound(layer, sums, inputs, steps, scale, rules) > SUM_MAX
        made = None if hopeless else _fits(layer, inputs, steps, scale, rules)
        if made is not None:
            return made
        scale *= _SHRINK
    raise _no_fit(layer)


def _sums(layer: Layer) -> list[Sums]:
    return [Sums.of(c) for c in layer.connections]


def _least_bound(
    layer: Layer,
    sums: list[Sums],
    inputs: Mapping[str, InputRange],
    steps: int,
    scale: float,
    rules: Quantiser,
) -> float:
    """What the bound that `_fits` computes from rounded weights cannot fall below."""
    least = 0.0
    for c, known in zip(layer.connections, sums, strict=True):
        unit = unit_of(c, scale, inputs)
        off = rules.step / 2 * 2.0 ** _exponent(unit * known.largest / rules.largest)
        if c.graded:
            entry = inputs[c.source]
            least += known.payloads(unit, off, entry.mean + 0.5, TAIL * entry.std)
        else:
            least += known.spikes(unit, off)
    least *= 4096 / (int(_steps_of(layer.du).min()) + 1)
    return least / _kept_share(layer, steps) if layer.readout else least


def _no_fit(layer: Layer) -> UnsupportedNode:
    return UnsupportedNode(
        f"Layer '{layer.name}' does not fit Loihi's ranges.",
        f"Weights, biases and threshold {np.max(layer.vth):g} differ too much in size.",
        "Reduce the bias or the fan-in.",
    )


def _told(
    layer: Layer, inputs: Mapping[str, InputRange], steps: int, scale: float, keep: float, rules: Quantiser
) -> Layer:
    """The layer at the scale that the quantiser names, whatever its sums could reach at worst."""
    made = _fits(layer, inputs, steps, scale, rules, keep)
    if made is None:
        raise UnsupportedNode(
            f"Layer '{layer.name}' does not fit at the scale {scale:g} of the quantiser.",
            f"Threshold {np.max(layer.vth):g} or bias leave their 17 and 13 bits.",
            "Calibrate it again, or leave its scale out.",
        )
    return made


def _fits(
    layer: Layer,
    inputs: Mapping[str, InputRange],
    steps: int,
    scale: float,
    rules: Quantiser,
    keep: float | None = None,
) -> Layer | None:
    """The layer at a scale, or None if a limit is broken: that of its sums only if no `keep` was told."""
    share = 1.0 if keep is None else keep
    connections = tuple(_rounded(c, unit_of(c, scale, inputs), rules, share) for c in layer.connections)
    du = _steps_of(layer.du)
    dv = np.rint(4096 * np.asarray(layer.dv)).astype(np.int32)
    bound = sum(sum_bound(c, inputs) for c in connections) * 4096 / (int(du.min()) + 1)
    bias = 64 * scale * layer.bias_mant
    exponent = next(
        (e for e in range(8) if np.abs(np.rint(bias / 2.0**e)).max(initial=0) <= BIAS_MANT_MAX), None
    )
    vth = np.asarray(VTH_MAX if layer.readout else np.rint(scale * np.asarray(layer.vth)), np.int64)
    v_init = np.rint(64 * scale * np.asarray(layer.v_init))
    grown = bound + np.abs(bias).max(initial=0) / 64
    if layer.readout:
        bound = grown / _kept_share(layer, steps) + np.abs(v_init).max() / 64
    lost = ((vth == 0) & (np.asarray(layer.vth) != 0)).any()
    if exponent is None or lost or vth.min() < 0 or vth.max() > VTH_MAX or (keep is None and bound > SUM_MAX):
        return None
    if np.abs(v_init).max() > STATE_MAX:
        return None
    return dataclasses.replace(
        layer,
        connections=connections,
        du=_compact(du),
        dv=_compact(dv),
        vth=_compact(vth),
        bias_mant=np.rint(bias / 2.0**exponent).astype(np.int32),
        bias_exp=exponent,
        v_init=_compact(v_init),
        scale=scale,
    )


def _rounded(connection: Connection, unit: float, rules: Quantiser, keep: float) -> Connection:
    """A connection on the grid; a power of two is taken out of matrices and left in kernels."""
    exponent = _exponent(keep * unit * float(np.abs(connection.weight).max(initial=0.0)) / rules.largest)
    weight = rules.step * np.rint(unit / 2.0**exponent * connection.weight / rules.step)
    weight = np.clip(weight, rules.smallest, rules.largest).astype(np.int32)
    if connection.kind == "conv":
        return dataclasses.replace(connection, weight=weight << exponent)
    return dataclasses.replace(connection, weight=weight, weight_exp=exponent)


def _exponent(over: float) -> int:
    """The power of two that leaves a weight of `over` times the largest on the grid."""
    return max(0, math.ceil(math.log2(over) - 1e-9)) if over > 1 else 0


def _steps_of(du: Any) -> np.ndarray:
    return np.clip(np.rint(4096 * np.asarray(du)) - 1, 0, 4095).astype(np.int32)


def _kept_share(layer: Layer, steps: int) -> float:
    """What an accumulator's largest input is divided by to give its largest value, at most 1."""
    return max(int(np.rint(4096 * np.asarray(layer.dv)).min()) / 4096, 1 / steps)


def _compact(values: np.ndarray) -> int | np.ndarray:
    """One number where all are equal, else int32."""
    return int(values.flat[0]) if (values == values.flat[0]).all() else values.astype(np.int32)


def sum_bound(connection: Connection, inputs: Mapping[str, InputRange]) -> float:
    """Bound of |sum of weights times inputs| of one connection (8 sigma for Gaussian input noise)."""
    weight = connection.weight.reshape(len(connection.weight), -1) * 2.0**connection.weight_exp
    if connection.graded:
        entry = inputs[connection.source]
        absolute, spread = np.abs(weight).sum(1), np.sqrt((weight**2).sum(1))
        return float((absolute * (entry.mean + 0.5) + TAIL * spread * entry.std).max(initial=0))
    most = math.prod(connection.pool[0]) if connection.pool else 1
    return most * float(max(weight.clip(0).sum(1).max(initial=0), (-weight).clip(0).sum(1).max(initial=0)))
