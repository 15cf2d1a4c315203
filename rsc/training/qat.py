"""Quantisation-aware fine-tuning for Loihi: train on the values that the integers stand for.

In each forward pass a parameter p takes the value of its integer q, and the gradient passes straight through:

    p_seen = q / unit,   dp_seen/dp = 1, or 0 where the end of the grid clips p

q is what `rsc.export.quantise` makes of p at that moment, not a copy of its rules; thresholds, decays and
input payloads take their integers' values too. What is left of the difference to the chip is that decaying u
and v are cut to whole numbers. Batch norm is folded into the convolution before it first, with its running
statistics, as in deployment: the folded weight is what gets rounded, and statistics that move would move the
grid. Straight-through: Bengio, Leonard & Courville, arXiv 1308.3432, section 2.4; with folding: Jacob et al.,
arXiv 1712.05877, section 3.2.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from rsc.calibration import Calibration, Mode, calibrate
from rsc.data import Dataset
from rsc.errors import UsageError
from rsc.export.loihi import lower, quantisation_table
from rsc.export.quantise import InputRange, joined, quantise, unit_of
from rsc.hw_targets import deploy
from rsc.layered import BIAS_MANT_MAX, LayeredProgram
from rsc.networks import SpikingSequential
from rsc.neurons import LIF
from rsc.program import Program
from rsc.quantiser import Quantiser
from rsc.results import Keys, Probe
from rsc.training.config import TrainConfig
from rsc.training.deployed import program_of
from rsc.training.deployed_chain import WEIGHTED, deployed_layers, no_chain, problems, with_values
from rsc.training.fit import EpochStats, Trained, fit

BIAS_MAX = BIAS_MANT_MAX << 7  # of mantissa and 3-bit exponent, in 64ths of weight units
IMAGES = 64  # of the training split that calibrate by default
LR_SHARE = 0.2  # of the training's learning rate, by default


class LayerRow(msgspec.Struct, frozen=True):
    """What fine-tuning left of the difference between integers and floating point in one layer.

    Fields:
        scale: integer units per unit of the float program.
        clipped: fine-tuned weights that the end of the grid cut off.
        weight_error_max, weight_error_mean: of rounding them, in units of the float program.
        before: share of the layer's spikes that differ between float and integer form of the calibrated
            program before fine-tuning, on the calibration images; None for readouts.
        disagreement: likewise of the program after fine-tuning.
    """

    layer: str
    scale: float
    clipped: int
    weight_error_max: float
    weight_error_mean: float
    before: float | None
    disagreement: float | None


@dataclasses.dataclass(frozen=True, eq=False)
class FineTuned:
    """A network on Loihi's grid.

    Fields:
        trained: the same module with parameters that are values of the grid, so that its float program is
            already the deployed one but for whole-number states; the log of the fine-tuning is appended.
        program: it, with the quantiser (scales) that all integer targets run.
        calibrated: the network before fine-tuning, calibrated with the same images and mode; its layers
            are numbered by kind.
        rows: one per layer.
    """

    trained: Trained
    program: Program
    calibrated: Calibration
    rows: tuple[LayerRow, ...]


def fine_tune(
    trained: Trained,
    config: TrainConfig,
    data: Dataset,
    *,
    bits: int = 8,
    mode: Mode = "mse",
    epochs: int = 2,
    lr: float | None = None,
    images: np.ndarray | None = None,
    on_epoch: Callable[[EpochStats], None] = lambda stats: None,
) -> FineTuned:
    """Fine-tune a trained network on the grid of Loihi's integers.

    Scales are calibrated at the start of every epoch and stay for the whole of it; those of the last epoch
    are deployed. Weight decay is off, as it would pull weights from one grid point to the next.

    Args:
        trained: left as it is.
        config: of its training.
        data: the split it was trained on.
        bits: of the weights; mode: how scales are chosen, see `rsc.calibration.calibrate`.
        lr: largest learning rate; a fifth of the training's by default.
        images: [B, C, H, W], or frames [B, T, C, H, W], that calibrate; the first 64 of `data` by default.

    Raises:
        UnsupportedNode: the network has no Loihi form, or is not a chain of weights, pooling and LIF neurons.
        UsageError: the data set or the config is not the one of the training.
    """
    grid = Grid(trained, config, data, data.images[:IMAGES] if images is None else images, bits, mode)
    plan = schedule_of(config, epochs, lr)

    def after(stats: EpochStats) -> None:
        grid.stale = stats.epoch < stats.epochs
        on_epoch(stats)

    tuned = fit(plan, data, after, start=grid.network, view=grid.view, alone=True)
    if tuned.encoder != trained.encoder:
        raise UsageError(
            "The network was fine-tuned under another encoder than it was trained with.",
            "The encoder comes from the config and carries mean and standard deviation of the images.",
            "Fine-tune with the config and the split of the training.",
        )
    history, wall_s = trained.history + tuned.history, trained.wall_s + tuned.wall_s
    network, program, rows = grid.finished()
    facts = trained.facts
    return FineTuned(Trained(network, trained.encoder, history, wall_s, facts), program, grid.first, rows)


def schedule_of(config: TrainConfig, epochs: int = 2, lr: float | None = None) -> TrainConfig:
    """A training's config for fine-tuning: without what averages weights or looks at them off the grid."""
    return msgspec.structs.replace(
        config,
        epochs=epochs,
        lr=LR_SHARE * config.lr if lr is None else lr,
        weight_decay=0.0,
        precision="float32",
        optimiser=msgspec.structs.replace(config.optimiser, ema=0.0),
        schedule=msgspec.structs.replace(config.schedule, warmup=min(config.schedule.warmup, epochs / 10)),
        validation=msgspec.structs.replace(config.validation, patience=0, restore="last"),
        robustness=msgspec.structs.replace(config.robustness, every=0),
    )


class StraightThrough(torch.autograd.Function):
    """Forward a given value; backward the gradient as it comes where `passes`, else 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, passes: Tensor) -> Tensor:
        ctx.save_for_backward(passes.to(x))
        return value.to(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (passes,) = ctx.saved_tensors
        return grads[0] * passes, None, None


class _Payload(nn.Module):
    """Frames as the chip gets them: whole multiples of 1 / scale, clipped to +-maximum of these."""

    rounds_input = True

    def __init__(self, scale: float = 1.0, maximum: int = 0) -> None:
        super().__init__()
        self.scale, self.maximum = scale, maximum

    def forward(self, x: Tensor) -> Tensor:
        payload = (x * self.scale).round()
        kept = payload.clamp(-self.maximum, self.maximum)
        return StraightThrough.apply(x, kept / self.scale, kept == payload)  # type: ignore[return-value]


@dataclasses.dataclass(frozen=True, eq=False)
class _Part:
    """A weighted layer, its place in the network, and what the lowering multiplies its parameters with."""

    place: int
    weight_gain: np.ndarray
    bias_gain: np.ndarray

    def module(self, network: nn.Module) -> Any:
        """The layer in a network."""
        return list(network.children())[self.place]

    def lowered(self, network: nn.Module) -> tuple[np.ndarray, np.ndarray]:
        """Weight and bias of the float form."""
        module = self.module(network)
        bias = np.zeros(len(module.weight)) if module.bias is None else _double(module.bias)
        return _double(module.weight) * self.weight_gain, _spread(bias, self.bias_gain.shape) * self.bias_gain

    def raised(self, weight: np.ndarray, bias: np.ndarray) -> tuple[Tensor, Tensor]:
        """The way back, in the module's units."""
        first = _channels(bias / self.bias_gain)
        return torch.from_numpy(weight / self.weight_gain), torch.from_numpy(first)


class Grid:
    """A network in the making, and the integers that stand for it at any moment.

    Attributes:
        plain: the deployed chain, batch norm folded; its weighted layers are those of `network`.
        network: what is trained, frames -> payloads -> chain; its neurons hold the integers' constants.
        stale: whether scales must be chosen anew before the next pass.
        first: the calibration of the network as it came.
    """

    def __init__(
        self, trained: Trained, config: TrainConfig, data: Dataset, images: np.ndarray, bits: int, mode: Mode
    ) -> None:
        self.trained, self.bits = trained, bits
        self.mode: Mode = mode
        self.keys = Keys(config.seed, np.arange(len(images)), stream="select") if trained.encoder else None
        self.fed = images if trained.encoder else np.ascontiguousarray(np.moveaxis(images, 1, 0))
        self.dt, self.data = config.dt, data
        for problem in problems(trained.network):
            raise no_chain(problem)
        self.plain = SpikingSequential(*deployed_layers(trained.network, self._program(trained.network)))
        self.program = self._program(self.plain)
        self.template = lower(self.program, "float")
        self.parts = self._parts()
        self.network = SpikingSequential(_Payload(), *self.plain)
        self.scales: tuple[float, ...] = ()
        self.inputs: dict[str, InputRange] = {}
        self.first = self._recalibrated(self.network)
        self.stale = False

    def _program(self, network: nn.Sequential) -> Program:
        return program_of(network, self.trained.encoder, self.data, self.dt)

    def _parts(self) -> list[_Part]:
        """The weighted layers beside those of the lowered form; gains are what ones become."""
        ones = copy.deepcopy(self.plain)
        for parameter in ones.parameters():
            nn.init.ones_(parameter)
        modules = [(i, m) for i, m in enumerate(self.plain) if isinstance(m, WEIGHTED)]
        layers = lower(self._program(ones), "float").layers
        if len(modules) != len(layers):
            raise no_chain(f"It has {len(modules)} weighted layers and {len(layers)} populations.")
        parts = []
        for (i, module), layer in zip(modules, layers, strict=True):
            if [c.weight.shape for c in layer.connections] != [tuple(module.weight.shape)]:
                raise no_chain(f"Layer '{layer.name}' is not fed by one layer's weights as they are.")
            bias = np.ones(layer.shape) if module.bias is None else layer.bias_mant
            parts.append(_Part(i + 1, layer.connections[0].weight, bias))
        return parts

    def exact(self, network: nn.Module) -> LayeredProgram:
        """The float form of a network's parameters, biases within their range."""
        layers = []
        for part, layer, scale in zip(self.parts, self.template.layers, self.scales, strict=True):
            weight, bias = part.lowered(network)
            most = BIAS_MAX / (64 * scale)
            bias = bias.clip(-most, most)
            connection = dataclasses.replace(layer.connections[0], weight=weight)
            layers.append(dataclasses.replace(layer, connections=(connection,), bias_mant=bias))
        return dataclasses.replace(self.template, layers=tuple(layers))

    def quantiser(self, exact: LayeredProgram) -> Quantiser:
        """The rules under which the grid stays where it is, however the largest weights move."""
        rules, scales = Quantiser(self.bits), []
        for layer, scale in zip(exact.layers, self.scales, strict=True):
            (connection,) = layer.connections
            most = float(np.abs(connection.weight).max()) * unit_of(connection, scale, self.inputs)
            scales.append((layer.name, scale, rules.largest / max(most, rules.largest)))
        (entry,) = self.inputs.values()
        return Quantiser(self.bits, tuple(scales), entry.scale)

    def integers(self, exact: LayeredProgram) -> LayeredProgram:
        """The integers of a float form."""
        return quantise(exact, dataclasses.replace(self.program, quantiser=self.quantiser(exact)))

    def view(self, network: nn.Module) -> Mapping[str, Tensor]:
        """Parameters of `network` by name, as the integers hold them."""
        if self.stale:
            self._recalibrated(network)
            self.stale = False
        seen: dict[str, Any] = {}
        for part, weight, bias in self._values(network, self.exact(network)):
            name, module = f"{part.place}", part.module(network)
            seen[f"{name}.weight"] = StraightThrough.apply(module.weight, *weight)
            if module.bias is not None:
                seen[f"{name}.bias"] = StraightThrough.apply(module.bias, *bias)
        return seen

    def _values(
        self, network: nn.Module, exact: LayeredProgram
    ) -> Iterator[tuple[_Part, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
        """Layer by layer, of weight and bias: what the integers stand for, and where nothing is clipped."""
        step, integers = Quantiser(self.bits).step, self.integers(exact)
        for part, a, b in zip(self.parts, exact.layers, integers.layers, strict=True):
            (connection,) = joined(a, b).connections
            weight, bias = part.lowered(network)
            units = unit_of(connection, b.scale, self.inputs), 64 * b.scale
            kept = connection.weight * 2.0**connection.weight_exp, b.bias_mant * 2.0**b.bias_exp
            near = (
                np.abs(weight * units[0] - kept[0]) <= step / 2 + 1e-6,
                np.abs(bias * units[1] - kept[1]) <= 2.0**b.bias_exp / 2 + 1e-6,
            )
            values = part.raised(kept[0] / units[0], kept[1] / units[1])
            yield (
                part,
                (values[0], torch.from_numpy(near[0])),
                (values[1], torch.from_numpy(_channels(near[1]))),
            )

    def _recalibrated(self, network: Any) -> Calibration:
        """Choose the scales from a network's parameters; its neurons and payloads follow."""
        own = [a if isinstance(a, LIF) else b for a, b in zip(self.plain, list(network)[1:], strict=True)]
        program = self._program(SpikingSequential(*own))
        found = calibrate(program, self.fed, self.keys, self.mode, self.bits)
        layered = lower(found.program, "integer")
        (source,) = layered.inputs
        self.inputs = {source.name: InputRange(source.scale, source.maximum, 0.0, source.maximum)}
        self.scales = tuple(layer.scale for layer in layered.layers)
        network[0] = _Payload(source.scale, source.maximum)
        firing = iter([layer for layer in layered.layers if not layer.readout])
        for i, neuron in enumerate(self.plain, 1):
            if isinstance(neuron, LIF):
                layer = next(firing)
                decay, vth = 1 - int(layer.dv) / 4096, int(layer.vth) / layer.scale
                rule: Any = (neuron.reset, neuron.surrogate)
                network[i] = LIF(decay, vth, *rule, detach_reset=neuron.detach_reset)
        return found

    def finished(self) -> tuple[SpikingSequential, Program, tuple[LayerRow, ...]]:
        """The module with the grid's values in it, its program, and the table."""
        exact = self.exact(self.network)
        table = quantisation_table(exact, self.integers(exact), self.quantiser(exact))
        modules = [part.module(self.network) for part in self.parts]
        with torch.no_grad():
            for module, (_, (weight, _), (bias, _)) in zip(
                modules, self._values(self.network, exact), strict=True
            ):
                module.weight.copy_(weight)
                if module.bias is not None:
                    module.bias.copy_(bias)
        network = with_values(self.trained.network, modules)
        program = self._program(network)
        exact = lower(program, "float")  # its layers have the network's own names
        program = dataclasses.replace(program, quantiser=self.quantiser(exact))
        after = self._disagreement(program, [layer.name for layer in exact.layers if not layer.readout])
        rows = []
        for layer, row, first in zip(exact.layers, table, self.first.rows, strict=True):
            errors = row.weight_error_max, row.weight_error_mean
            pair = first.disagreement, after.get(layer.name)
            rows.append(LayerRow(layer.name, row.scale, row.saturations, *errors, *pair))
        return network, program, tuple(rows)

    def _disagreement(self, program: Program, firing: list[str]) -> dict[str, float]:
        """Firing layer -> share of spikes that differ between float and integer form."""
        probe, rasters = Probe(spikes=frozenset(firing)), []
        for spec in ("torch:float64", "loihi"):
            with deploy(program, spec) as model:
                fed, keys = self.fed, self.keys
                result = model.run_frames(fed, probe) if keys is None else model.run(fed, keys, probe)
                rasters.append(result.spikes.rasters)
        return {name: float((rasters[0][name] != rasters[1][name]).mean()) for name in firing}


def _double(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


def _channels(bias: np.ndarray) -> np.ndarray:
    """[C, ...] -> [C], where all of a channel are alike."""
    return bias.reshape(len(bias), -1)[:, 0].copy()


def _spread(bias: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(bias.reshape(-1, *[1] * (len(shape) - 1)), shape)
