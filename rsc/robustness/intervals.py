"""Interval bounds of the deployed integer program: what every neuron can do for every input of a box.

Sound for all that `rsc.layered` runs in integers: dense and convolutional weights, pooling, delays, skips,
several connections, loops (stepped), currents that last, wrap-around of u, saturation of v, hard reset, every
readout. A box of one point gives the very run of target `loihi`. After Gowal et al., arXiv 1810.12715; spikes
and resets as in Liang et al., NeurIPS 2022 (S-IBP), here in exact integers.

Programs in floating point are not verified: their sums depend on the order of adding. Soft reset has no
integer form here either (`rsc.export.loihi.lower` refuses it).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from rsc.errors import UnsupportedNode, UsageError
from rsc.layered import CONSTANT, Layer, LayeredProgram, Source
from rsc.robustness.intervals_box import Box
from rsc.robustness.intervals_neurons import IntervalLif, LayerBounds
from rsc.robustness.intervals_synapses import IntervalSynapses

Forced = Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True, eq=False)
class Bounds:
    """What a program can do over a box of inputs.

    Fields:
        sources: payloads by Input node and the constant, [T, B, ...] (the constant [T, 1, 1]).
        layers: by name.
    """

    sources: Mapping[str, Box]
    layers: Mapping[str, LayerBounds]

    @property
    def feasible(self) -> Tensor:
        """bool [B]: False where the forced spikes contradict the bounds, so that no input remains."""
        return torch.stack([layer.feasible for layer in self.layers.values()]).all(0)

    def activity(self, name: str) -> Box:
        """What a source or a layer sends, [T, B, ...]."""
        return self.sources[name] if name in self.sources else self.layers[name].spikes


@dataclasses.dataclass(frozen=True)
class Stability:
    """Neuron-steps of firing layers over a batch: that never, always, or perhaps fire."""

    never: int
    always: int
    unstable: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.never + self.always + self.unstable


class IntervalProgram:
    """A lowered program that maps boxes of payloads to bounds.

    Args:
        layered: integers.
        device: where it computes; exact on all.

    Raises:
        UnsupportedNode: a program in floating point.
    """

    def __init__(self, layered: LayeredProgram, device: torch.device | str = "cpu") -> None:
        if layered.arithmetic != "integer":
            raise UnsupportedNode(
                "Only integer programs are verified.",
                "Sums in floating point depend on the order of adding.",
                "Lower it in integers (rsc.export.loihi.lower), and verify that.",
            )
        self.layered, self.device = layered, torch.device(device)
        largest = {source.name: source.maximum for source in layered.inputs}
        self._synapses = {
            layer.name: [
                (c.source, IntervalSynapses(c, largest.get(c.source, 1), layer.shape, self.device))
                for c in layer.connections
            ]
            for layer in layered.layers
        }

    def synapses(self, layer: str) -> list[tuple[str, IntervalSynapses]]:
        """(source, connection) of a layer."""
        return self._synapses[layer]

    def bounds(self, inputs: Mapping[str, Box], keep: bool = False, forced: Forced | None = None) -> Bounds:
        """Propagate payload boxes [T, B, ...] by Input node.

        Args:
            keep: keep u, h and v of all layers; those of readouts are always kept.
            forced: layer -> int8 [T, B, ...], spikes that are assumed: 0, 1, or -1 for none.

        Raises:
            UsageError: payloads of an Input node are missing, or not all of T and B agree.
        """
        given = [inputs[s.name].low.shape for s in self.layered.inputs if s.name in inputs]
        leads = {(shape[0], shape[1]) for shape in given}
        if len(leads) != 1 or any(s.name not in inputs for s in self.layered.inputs):
            raise UsageError(
                f"Boxes came for {', '.join(inputs) or 'no input'}, with [T, B] of {sorted(leads)}.",
                f"The program has the inputs {', '.join(self.layered.sources)}.",
                "Give one box [T, B, ...] for each.",
            )
        (lead,) = leads
        ones = torch.ones((lead[0], 1, 1), dtype=torch.bool, device=self.device)
        sources = {name: box.map(lambda x: x.to(self.device)) for name, box in inputs.items()}
        sources[CONSTANT] = Box.point(ones)
        found: dict[str, LayerBounds] = {}
        for group in self.layered.groups():
            found |= self._group(group, Bounds(sources, found), lead, keep, forced or {})
        return Bounds(sources, found)

    def _group(
        self, group: tuple[Layer, ...], sofar: Bounds, lead: tuple[int, int], keep: bool, forced: Forced
    ) -> dict[str, LayerBounds]:
        """Layers that hear one another, a step of all of them at a time; or one that does not."""
        names = {layer.name for layer in group}
        runs: dict[str, IntervalLif] = {}
        outside: dict[str, Box] = {}
        inside: dict[str, list[tuple[str, IntervalSynapses]]] = {}
        for layer in group:
            synapses = self._synapses[layer.name]
            inside[layer.name] = [(s, one) for s, one in synapses if s in names]
            outside[layer.name] = self._arriving(layer, sofar, lead, names)
            reach = sum(one.exact.reach for _, one in synapses)
            runs[layer.name] = IntervalLif(
                layer, lead[1], reach, self.device, keep or bool(layer.readout), forced.get(layer.name)
            )
        for t in range(lead[0]):
            for layer in group:
                arriving = outside[layer.name].map(lambda x, t=t: x[t])
                for source, one in inside[layer.name]:
                    for part in one.at(runs[source].low, runs[source].high, t):
                        arriving = arriving + part
                runs[layer.name].step(arriving)
        return {layer.name: runs[layer.name].bounds() for layer in group}

    def _arriving(self, layer: Layer, sofar: Bounds, lead: tuple[int, int], group: set[str]) -> Box:
        """Sums [T, B, ...] from sources outside the group."""
        zero = torch.zeros((*lead, *layer.shape), dtype=torch.int64, device=self.device)
        total = Box.point(zero)
        for source, one in self._synapses[layer.name]:
            if source not in group:
                total = total + one.over_time(sofar.activity(source))
        return total

    def stability_by_row(self, bounds: Bounds) -> Tensor:
        """Neuron-steps of firing layers that never, always, and perhaps fire, int64 [3, B]."""
        firing = [bounds.layers[layer.name] for layer in self.layered.layers if not layer.readout]
        count = torch.zeros((3, len(bounds.feasible)), dtype=torch.int64, device=self.device)
        for layer in firing:
            for row, decided in zip(count, (layer.never, layer.always, layer.unstable), strict=True):
                row += decided.transpose(0, 1).flatten(1).sum(1)
        return count

    def stability(self, bounds: Bounds) -> Stability:
        """The same over all boxes."""
        return Stability(*self.stability_by_row(bounds).sum(1).tolist())


def payload_box(source: Source, low: np.ndarray, high: np.ndarray) -> Box:
    """What an Input node sends for all frames between two [T, B, ...]; rounding and clipping are monotone."""
    ends = [torch.from_numpy(np.ascontiguousarray(source.rounded(end)[0])) for end in (low, high)]
    return Box(torch.minimum(*ends), torch.maximum(*ends))


def payload_boxes(
    layered: LayeredProgram, frames: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> dict[str, Box]:
    """`payload_box` of every Input node, of (low, high) frames by name."""
    return {s.name: payload_box(s, *frames[s.name]) for s in layered.inputs if s.name in frames}
