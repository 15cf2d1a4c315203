"""The integer Loihi model: batched, bit-exact with Lava's fixed-point processes, in torch on CPU or CUDA.

A layer runs over all steps before the next one; only layers that hear one another go step by step together.
Time is the program's: what a layer does at step t belongs to input frame t, and happens `LoihiModel.timing`
steps later on Loihi, where every connection takes a step.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from rsc.errors import UsageError
from rsc.export import loihi as lowering
from rsc.hw_targets.base import DeployedModel, StepsResult, refuse_errors
from rsc.hw_targets.loihi_gradient import Relaxation
from rsc.hw_targets.loihi_lif import LifRun, LifTrace, Neurons, run_lif
from rsc.hw_targets.loihi_record import Part, join, said
from rsc.hw_targets.loihi_synapses import Synapses
from rsc.hw_targets.loihi_tiles import Tiles, is_prompt
from rsc.layered import CONSTANT, Layer, LayeredProgram
from rsc.neurons.surrogates import SURROGATES, Surrogate
from rsc.program import Program
from rsc.results import Issue, Probe, Unavailable

_CHUNK_VALUES = 1 << 22  # values of the widest layer held at a time, so that they stay in caches


class LoihiTarget:
    """Batched integer simulation; options: "cpu" (default) or "cuda"."""

    name = "loihi"

    def __init__(self, *options: str) -> None:
        unknown = [o for o in options if o not in ("cpu", "cuda")]
        if unknown:
            raise UsageError(
                f"Target 'loihi' has no option '{unknown[0]}'.", "Options: cpu, cuda.", "Choose one."
            )
        self.device = torch.device(options[-1] if options else "cpu")

    def available(self) -> Unavailable | None:
        """CUDA needs a GPU that torch can see."""
        if self.device.type == "cuda" and not torch.cuda.is_available():
            return Unavailable("torch sees no CUDA device.", "Use 'loihi' on the CPU.")
        return None

    def check(self, program: Program) -> list[Issue]:
        """What cannot be represented on Loihi, and what is changed."""
        return lowering.check(program)

    def compile(self, program: Program) -> DeployedModel:
        """Quantise and load."""
        refuse_errors(self.name, [i for i in self.check(program) if i.severity == "error"])
        return LoihiModel(program, lowering.lower(program, "integer"), self.device)


class LoihiModel(DeployedModel):
    """A quantised program on a torch device.

    Attribute `surrogate`: derivative of a spike in v - v_threshold that `forward` uses; may be set any time.

    Args:
        program: what was lowered; None for a lowered form alone, which `_steps` and `forward` can run.
        straight_through: whether `forward` may be called.
    """

    target = "loihi"
    arithmetic = "integer"
    version = f"torch {torch.__version__}"

    def __init__(
        self,
        program: Program | None,
        layered: LayeredProgram,
        device: torch.device,
        straight_through: bool = False,
    ) -> None:
        if program is not None:
            self.program = program
        self.layered, self.device, self.straight_through = layered, device, straight_through
        self.surrogate: Surrogate = SURROGATES["atan"]
        largest = {source.name: source.maximum for source in layered.inputs}
        self._neurons = {layer.name: Neurons.of(layer, device) for layer in layered.layers}
        self._synapses = {
            layer.name: [
                (c.source, Synapses(c, largest.get(c.source, 1), layer.shape, device))
                for c in layer.connections
            ]
            for layer in layered.layers
        }
        self._tiles = Tiles(layered, self._synapses, device) if is_prompt(layered) else None

    def timing(self) -> dict[str, int]:
        """Layer or input -> steps on Loihi by which its step t comes after input frame t."""
        return self.layered.levels()

    def forward(self, frames: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs [T, B, ...] by Output node: exact values (float64), with the gradient of the float network.

        Everything stays in memory for the way back: the batch is not cut.

        Args:
            frames: Input node -> float [T, B, ...].

        Raises:
            UsageError: the model was made without `straight_through`.
        """
        if not self.straight_through:
            raise UsageError(
                "This model has no gradient.", "Integers have none.", "Make it with straight_through=True."
            )
        with torch.no_grad():
            fed = {name: f.detach().cpu().numpy() for name, f in frames.items()}
            activity, _ = self._activity(fed)
            lead, names = next(iter(fed.values())).shape[:2], self.layered.by_name
            traces = {layer.name: trace for layer, trace in self._traces(activity, lead, names)}
            exact = self._outputs({n: said(names[n], t) for n, t in traces.items()})
        wiring = Relaxation(self.layered, self._synapses, self._neurons, self.surrogate)
        return wiring.outputs(frames, activity, traces, exact)

    @torch.inference_mode()
    def _steps(self, frames: Mapping[str, np.ndarray], probe: Probe) -> StepsResult:
        if self._tiles is not None:
            return join(self._tiles.run(frames, probe))
        steps, batch = next(iter(frames.values())).shape[:2]
        widths = [math.prod(source.shape) for source in self.layered.inputs]
        widths += [sum(math.prod(layer.shape) for layer in group) for group in self.layered.groups()]
        size = max(1, _CHUNK_VALUES // (max(widths) * steps))
        parts = [
            self._chunk({name: f[:, i : i + size] for name, f in frames.items()}, probe)
            for i in range(0, batch, size)
        ]
        return join(parts)

    def _chunk(self, frames: Mapping[str, np.ndarray], probe: Probe) -> Part:
        lead = next(iter(frames.values())).shape[:2]
        activity, clipped = self._activity(frames)
        part = Part(clipped)
        spoken = {name for _, names in self.layered.outputs for name in names}
        readouts = {layer.name for layer in self.layered.layers if layer.name in spoken and layer.readout}
        heard: dict[str, np.ndarray] = {}
        for layer, trace in self._traces(activity, lead, probe.states | readouts):
            part.keep(layer, trace, probe)
            if layer.name in spoken:
                heard[layer.name] = said(layer, trace)
        part.outputs = self._outputs(heard)
        return part

    def _activity(self, frames: Mapping[str, np.ndarray]) -> tuple[dict[str, Tensor], int]:
        """What the inputs and the constant send, [T, B, ...] and [T, 1, 1]; how many values were clipped."""
        steps, saturated = len(next(iter(frames.values()))), 0
        activity = {CONSTANT: torch.ones((steps, 1, 1), dtype=torch.bool, device=self.device)}
        for source in self.layered.inputs:
            payload, clipped = source.rounded(frames[source.name])
            activity[source.name] = torch.from_numpy(payload).to(self.device)
            saturated += clipped
        return activity, saturated

    def _outputs(self, heard: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Output node -> sum of what its layers say."""
        return {
            name: sum((heard[layer] for layer in layers[1:]), heard[layers[0]])
            for name, layers in self.layered.outputs
        }

    def _traces(
        self, activity: dict[str, Tensor], lead: tuple[int, ...], record: Collection[str]
    ) -> Iterator[tuple[Layer, LifTrace]]:
        """Layers and what they do, sources first; their spikes are added to `activity`.

        Args:
            lead: (T, B).
            record: layers whose u and v are kept.
        """
        for group in self.layered.groups():
            if self.layered.is_recurrent(group):
                traces = self._loop(group, activity, lead, record)
            else:
                (layer,) = group
                sums = self._sums(layer, activity, lead)
                traces = [run_lif(sums, self._neurons[layer.name], layer.name in record)]
            for layer, trace in zip(group, traces, strict=True):
                activity[layer.name] = trace.spikes
                yield layer, trace

    def _sums(self, layer: Layer, activity: Mapping[str, Tensor], lead: tuple[int, ...]) -> Tensor:
        """Synaptic sums int32 [T, B, ...] that a layer gets from the sources in `activity`."""
        total: Tensor | None = None
        for source, synapses in self._synapses[layer.name]:
            if source not in activity:
                continue
            sums = synapses.over_time(activity[source])
            if total is None:
                total = sums if source != CONSTANT else sums.expand(*lead, *layer.shape).clone()
            else:
                total += sums
        if total is None:
            return torch.zeros((*lead, *layer.shape), dtype=torch.int32, device=self.device)
        return total

    def _loop(
        self,
        group: tuple[Layer, ...],
        activity: Mapping[str, Tensor],
        lead: tuple[int, ...],
        record: Collection[str],
    ) -> list[LifTrace]:
        """Layers that hear one another, a step of all of them at a time."""
        names = {layer.name for layer in group}
        outside = {layer.name: self._sums(layer, activity, lead) for layer in group}
        inside = {n: [(s, synapses) for s, synapses in self._synapses[n] if s in names] for n in names}
        runs: dict[str, LifRun] = {}
        for layer in group:
            least, most = torch.aminmax(outside[layer.name])
            reach = max(-int(least), int(most)) + sum(s.reach for _, s in inside[layer.name])
            neurons = self._neurons[layer.name]
            shape = (*lead, *layer.shape)
            runs[layer.name] = LifRun(neurons, shape, neurons.small(reach), layer.name in record)
        for t in range(lead[0]):
            for layer in group:
                a = outside[layer.name][t]
                for source, synapses in inside[layer.name]:
                    for sums in synapses.at(runs[source].spikes, t):
                        a += sums
                runs[layer.name].step(t, a)
        return [runs[layer.name].trace() for layer in group]
