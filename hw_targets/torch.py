"""Target `torch`: NIR on PyTorch, CPU or CUDA, fast and differentiable.

Options: `float32` (default) or `float64`, `cpu` (default) or `cuda`. In float64 it agrees with
`reference` spike for spike, up to the order in which a matrix product is summed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from rsc.discretise import NEURONS, SPIKING
from rsc.errors import UsageError
from rsc.hw_targets.base import DeployedModel, StepsResult, refuse_errors
from rsc.hw_targets.reference_check import check_program
from rsc.hw_targets.torch_module import TorchModule
from rsc.hw_targets.torch_state import TorchRun, TorchState
from rsc.program import Program
from rsc.results import Issue, Probe, SpikeRecord, Unavailable

_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_DEVICES = ("cpu", "cuda")


class TorchTarget:
    """Target `torch[:float32|float64][:cpu|cuda]`."""

    name = "torch"

    def __init__(self, *options: str) -> None:
        unknown = [option for option in options if option not in (*_DTYPES, *_DEVICES)]
        if unknown:
            raise UsageError(
                f"Target 'torch' has no option '{unknown[0]}'.",
                f"Options: {', '.join((*_DTYPES, *_DEVICES))}.",
                "Correct it.",
            )
        self.arithmetic = next((o for o in options if o in _DTYPES), "float32")
        self.device = next((o for o in options if o in _DEVICES), "cpu")

    def available(self) -> Unavailable | None:
        """None unless CUDA is asked for and absent."""
        if self.device == "cuda" and not torch.cuda.is_available():
            return Unavailable(
                "PyTorch finds no CUDA device.", "Install a CUDA build of torch, or use 'torch:cpu'."
            )
        return None

    def check(self, program: Program) -> list[Issue]:
        """See `check_program`."""
        return check_program(program)

    def compile(self, program: Program) -> TorchModel:
        """Build the module on its device; raises UnsupportedNode on any error of `check`."""
        refuse_errors(self.name, self.check(program))
        return TorchModel(program, self.arithmetic, self.device)


class TorchModel(DeployedModel):
    """A program on a device.

    Attributes:
        module: the `TorchModule`, for attacks and anything that needs gradients.
        memory_bytes: the batch is cut so that the values of one layer stay below it.
    """

    target, version = "torch", torch.__version__

    def __init__(self, program: Program, arithmetic: str, device: str, memory_bytes: int = 1 << 28) -> None:
        self.program, self.arithmetic, self.memory_bytes = program, arithmetic, memory_bytes
        self.module = TorchModule(program, _DTYPES[arithmetic]).to(device)
        self.device = torch.device(device)

    def run_state(
        self, frames: Mapping[str, np.ndarray], state: TorchState | None = None, probe: Probe | None = None
    ) -> tuple[StepsResult, TorchState]:
        """Run frames (Input node -> [T, B, ...]) from `state`; a long recording may come in chunks.

        Returns:
            the result of these steps alone, and the state to go on from.
        """
        probe = probe or Probe()
        tensors = {name: self._to_device(value) for name, value in frames.items()}
        nodes = self.module.graph.nodes
        spiking = {name for name, node in nodes.items() if isinstance(node, SPIKING)}
        watched = {name for name in probe.states if isinstance(nodes.get(name), NEURONS)}
        recorded = spiking if probe.counts else spiking & probe.spikes
        with torch.inference_mode():
            run = self.module.run(tensors, state, {*self.program.outputs, *recorded}, watched)
        return self._result(run, recorded, probe), run.state

    def _steps(self, frames: Mapping[str, np.ndarray], probe: Probe) -> StepsResult:
        steps, batch = next(iter(frames.values())).shape[:2]
        widest = max(math.prod(shape) for shape in self.module.shapes.values())
        size = max(
            1, self.memory_bytes // (steps * max(widest, 1) * torch.finfo(self.module.dtype).bits // 8)
        )
        parts = [
            self.run_state(
                {name: value[:, first : first + size] for name, value in frames.items()}, None, probe
            )[0]
            for first in range(0, batch, size)
        ]
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _to_device(self, value: np.ndarray) -> Tensor:
        """Frames on the device; constant ones are expanded over time, so they are computed once."""
        frames = torch.from_numpy(np.ascontiguousarray(value))
        if len(frames) > 1 and bool((frames == frames[:1]).all()):
            frames = frames[:1]
        return frames.to(self.device, self.module.dtype).expand(value.shape)

    def _result(self, run: TorchRun, recorded: set[str], probe: Probe) -> StepsResult:
        counts, rasters = {}, {}
        for name in sorted(recorded):
            spikes = run.values[name]
            if probe.counts:
                counts[name] = spikes.sum(0, dtype=torch.float64).to(torch.int64).cpu().numpy()
            if name in probe.spikes:
                rasters[name] = (spikes > 0).cpu().numpy()
        outputs = {name: _float64(run.values[name]) for name in self.program.outputs}
        states = {key: _float64(values) for key, values in run.states.items()}
        return StepsResult(outputs, SpikeRecord(counts, rasters, states))


def _float64(values: Tensor) -> np.ndarray:
    return values.to(torch.float64).cpu().numpy()


def _joined(parts: list[StepsResult]) -> StepsResult:
    """Results of several batches as one."""

    def join(maps: list[Mapping[str, np.ndarray]], axis: int) -> dict[str, np.ndarray]:
        return {key: np.concatenate([m[key] for m in maps], axis=axis) for key in maps[0]}

    record = SpikeRecord(
        counts=join([part.spikes.counts for part in parts], 0),
        rasters=join([part.spikes.rasters for part in parts], 1),
        states=join([part.spikes.states for part in parts], 1),
    )
    return StepsResult(join([part.outputs for part in parts], 1), record)
