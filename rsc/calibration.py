"""Scales of a quantised program from what its layers really do on a set of frames.

Without calibration every layer gets the largest scale at which nothing can ever overflow. What a layer sees
is mostly far less, so the frames allow larger scales; and where a few weights are much larger than the
rest, clipping them buys resolution for the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import torch

from rsc.coding import encode
from rsc.errors import UsageError
from rsc.export.loihi import lower, quantisation_table
from rsc.export.quantise import InputRange, largest_scale, readout_steps
from rsc.hw_targets import deploy
from rsc.hw_targets.base import checked_frames
from rsc.hw_targets.loihi import LoihiModel
from rsc.layered import STATE_MAX, Layer, LayeredProgram
from rsc.program import Program
from rsc.quantiser import Quantiser
from rsc.results import Keys, Probe

Mode = Literal["max", "percentile", "mse", "agreement"]
MARGIN = 1.25  # of the largest sum seen, left for frames that were not
KEEPS = tuple(np.linspace(0.3, 1.0, 36).tolist())  # shares of the largest weight that "mse" tries
CANDIDATES = (1.0, 0.85, 0.7, 0.55, 0.4)  # and "agreement"


class CalibrationRow(msgspec.Struct, frozen=True):
    """What calibration did to one layer, and how that did on its frames.

    Fields:
        scale: integer units per unit of the float program; before: without calibration.
        keep: share of the largest weight that the grid holds; clipped: weights beyond it.
        weight_error_max, weight_error_mean: in units of the float program.
        reach: largest |u| or |v| seen, as a share of 2^23.
        saturations: values of v, and payloads of the input, that met their limit on the frames.
        disagreement: share of this layer's spikes that differ from the float program; None for readouts.
    """

    layer: str
    scale: float
    before: float
    keep: float
    clipped: int
    weight_error_max: float
    weight_error_mean: float
    reach: float
    saturations: int
    disagreement: float | None


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A program that carries its scales, and a row for each layer."""

    program: Program
    rows: tuple[CalibrationRow, ...]


def calibrate(
    program: Program,
    x: np.ndarray | Mapping[str, np.ndarray],
    keys: Keys | None = None,
    mode: Mode = "max",
    bits: int = 8,
    percentile: float = 99.9,
) -> Calibration:
    """Choose the scales of a program.

    Args:
        x: images [B, ...] with `keys`, or frames [T, B, ...] without; some dozens of samples do.
        mode: which weights are clipped. "max": none; "percentile": those above it, layer by layer; "mse":
            as leaves the smallest mean square error of the weights; "agreement": as lets the layer's
            spikes differ least from the float program's, layer by layer from the input on.
        bits: of the weights, 2 to 9.

    Raises:
        UsageError: unknown mode, or percentile out of range. UnsupportedNode: no Loihi form.
    """
    if mode not in get_args(Mode) or not 0 < percentile <= 100:
        raise UsageError(
            f"Calibration was asked for mode '{mode}', percentile {percentile}.",
            f"Modes: {', '.join(get_args(Mode))}; percentiles are above 0, at most 100.",
            "Correct it.",
        )
    frames = _frames(program, x, keys)
    search = _Search(dataclasses.replace(program, quantiser=None), frames, bits)
    for layer in search.exact.layers:
        search.settle(layer, mode, percentile)
    return Calibration(search.told(), search.rows())


def _frames(
    program: Program, x: np.ndarray | Mapping[str, np.ndarray], keys: Keys | None
) -> dict[str, np.ndarray]:
    if keys is None:
        return checked_frames(program, x)
    if program.encoder is None or isinstance(x, Mapping):
        raise UsageError("Images need a program with an encoder.", "It has none.", "Give frames.")
    return checked_frames(program, encode(program.encoder, x, keys))


class _Search:
    """Attributes: exact, the float layers; scales, (S, keep) of the layers settled so far."""

    def __init__(self, program: Program, frames: dict[str, np.ndarray], bits: int) -> None:
        self.program, self.frames, self.bits = program, frames, bits
        self.exact = lower(program, "float")
        self.scales: dict[str, tuple[float, float]] = {}
        start = dataclasses.replace(program, quantiser=Quantiser(bits, (), self._input_scale()))
        self.start = lower(start, "integer")
        self.input_scale = self.start.inputs[0].scale
        self.entry = InputRange.at(program.encoder, program.bounds, self.input_scale)
        self.reach = {k: v[0] for k, v in self._run(start, self.start)[1].items()}
        firing = frozenset(layer.name for layer in self.exact.layers if not layer.readout)
        with deploy(program, "torch:float64") as model:
            self.expected = model.run_frames(frames, Probe(spikes=firing)).spikes.rasters

    def _input_scale(self) -> float | None:
        """Payload units per unit of frames that no encoder bounds: whole numbers stay, others get 8 bits."""
        if self.program.encoder is not None:
            return None
        largest = max(float(np.abs(f).max(initial=0)) for f in self.frames.values())
        if all((f == np.rint(f)).all() for f in self.frames.values()) or not largest:
            return None
        return float(2.0 ** np.floor(np.log2(255 / largest)))

    def _run(self, program: Program, layered: LayeredProgram) -> tuple[Any, dict[str, tuple[float, int]]]:
        """Rasters, and for each layer (largest |u| or |v| in float units, how often v met its limit)."""
        names = frozenset(layer.name for layer in layered.layers)
        model = LoihiModel(program, layered, torch.device("cpu"))
        found = model.run_frames(self.frames, Probe(spikes=names, states=names)).spikes
        seen = {}
        for layer in layered.layers:
            u, v = (np.abs(found.states[f"{layer.name}.{key}"]) for key in ("u", "v"))
            met = int((v >= STATE_MAX).sum())
            seen[layer.name] = (max(int(u.max()), int(v.max())) / (64 * layer.scale), met)
        return found.rasters, seen

    def told(self) -> Program:
        """The program with the scales found so far."""
        scales = tuple((name, *both) for name, both in self.scales.items())
        return dataclasses.replace(self.program, quantiser=Quantiser(self.bits, scales, self.input_scale))

    def settle(self, layer: Layer, mode: Mode, percentile: float) -> None:
        """Choose S and keep of a layer."""
        if mode == "agreement" and not layer.readout:
            options = [self._at(layer, keep) for keep in CANDIDATES]
            self.scales[layer.name] = min(options, key=lambda both: self._disagreement(layer, both))
        else:
            keep = {"max": 1.0, "percentile": _percentile(layer, percentile)}.get(mode)
            self.scales[layer.name] = self._at(
                layer, _least_error(layer, self.bits) if keep is None else keep
            )

    def _at(self, layer: Layer, keep: float) -> tuple[float, float]:
        limit = STATE_MAX / 64 / (MARGIN * self.reach[layer.name]) if self.reach[layer.name] else np.inf
        rules = Quantiser(self.bits)
        scale = largest_scale(layer, self.entry, readout_steps(self.program), rules, keep, float(limit))
        return scale, keep

    def _disagreement(self, layer: Layer, both: tuple[float, float]) -> float:
        self.scales[layer.name] = both
        program = self.told()
        rasters, _ = self._run(program, lower(program, "integer"))
        return float((rasters[layer.name] != self.expected[layer.name]).mean())

    def rows(self) -> tuple[CalibrationRow, ...]:
        """The table, from a run of the calibrated program."""
        program = self.told()
        layered = lower(program, "integer")
        rasters, seen = self._run(program, layered)
        clipped = sum(s.clipped(self.frames[s.name], "integer") for s in layered.inputs)
        made = []
        table = quantisation_table(self.exact, layered, program.quantiser)
        for before, layer, row in zip(self.start.layers, layered.layers, table, strict=True):
            reach, met = seen[layer.name]
            expected = self.expected.get(layer.name)
            differs = None if expected is None else float((rasters[layer.name] != expected).mean())
            graded = any(c.graded for c in layer.connections)
            made.append(
                CalibrationRow(
                    layer.name,
                    layer.scale,
                    before.scale,
                    self.scales[layer.name][1],
                    row.saturations,
                    row.weight_error_max,
                    row.weight_error_mean,
                    reach * 64 * layer.scale / STATE_MAX,
                    met + clipped * graded,
                    differs,
                )
            )
        return tuple(made)


def _percentile(layer: Layer, percentile: float) -> float:
    """The percentile of the weights that are not 0, as a share of the largest of their connection."""
    shares = [
        np.abs(c.weight[c.weight != 0]) / np.abs(c.weight).max() for c in layer.connections if c.weight.any()
    ]
    return float(np.percentile(np.concatenate(shares), percentile)) if shares else 1.0


def _least_error(layer: Layer, bits: int) -> float:
    """The share of its largest weight to which a connection is clipped with the least mean square error."""
    rules = Quantiser(bits)
    weights = [c.weight / np.abs(c.weight).max() for c in layer.connections if c.weight.any()]

    def error(keep: float) -> float:
        step = keep * rules.step / rules.largest
        kept = [np.clip(step * np.rint(w / step), -keep, keep) - w for w in weights]
        return sum(float((e**2).mean()) for e in kept)

    return min(reversed(KEEPS), key=error) if weights else 1.0
