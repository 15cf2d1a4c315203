"""Target `torch`: NIR on PyTorch, CPU or CUDA, fast and differentiable.

Options: `float32` (default) or `float64`, `cpu` (default) or `cuda`. In float64 it agrees with
`reference` spike for spike, up to the order in which a matrix product is summed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from rsc.discretise import EVERY_RULE, NEURONS, SPIKING
from rsc.errors import UsageError
from rsc.hw_targets.base import StepsResult, StreamingModel, refuse_errors
from rsc.hw_targets.reference_check import beyond, check_program, leaves
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
        twice = any(sum(option in kind for option in options) > 1 for kind in (_DTYPES, _DEVICES))
        if unknown or twice:
            raise UsageError(
                f"Target 'torch' has no option '{unknown[0] if unknown else ':'.join(options)}'.",
                f"Options: {', '.join((*_DTYPES, *_DEVICES))}, one of each kind.",
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
        """See `check_program`; and numbers that the arithmetic cannot hold."""
        issues = check_program(program, EVERY_RULE)
        if self.arithmetic == "float64" or any(issue.severity == "error" for issue in issues):
            return issues
        rules, fix = program.semantics, "Use 'torch:float64', or check the units of dt and tau."
        large = [(name, text) for name, node in leaves(program) for text in beyond(node, rules, np.float32)]
        return issues + [Issue("error", name, text, fix) for name, text in large]

    def compile(self, program: Program) -> TorchModel:
        """Build the module on its device; raises UnsupportedNode on any error of `check`."""
        refuse_errors(self.name, self.check(program))
        return TorchModel(program, self.arithmetic, self.device)


class TorchModel(StreamingModel):
    """A program on a device.

    Attributes:
        module: the `TorchModule`, for attacks and anything that needs gradients.
    """

    target, version = "torch", torch.__version__

    def __init__(self, program: Program, arithmetic: str, device: str) -> None:
        self.program, self.arithmetic = program, arithmetic
        self.module = TorchModule(program, _DTYPES[arithmetic]).to(device)
        self.device = torch.device(device)

    def _stream(
        self, frames: Mapping[str, np.ndarray], state: TorchState | None, probe: Probe
    ) -> tuple[StepsResult, TorchState]:
        tensors = {name: _tensor(value) for name, value in frames.items()}
        nodes = self.module.graph.nodes
        spiking = {name for name, node in nodes.items() if isinstance(node, SPIKING)}
        watched = {name for name in probe.states if isinstance(nodes.get(name), NEURONS)}
        rasters = spiking & probe.spikes
        keep, count = {*self.program.outputs, *rasters}, spiking if probe.counts else ()
        with torch.inference_mode():
            run = self.module.run(tensors, state, keep, count, watched)
        return _result(run, self.program.outputs, rasters), run.state


def _tensor(value: np.ndarray) -> Tensor:
    """Frames as a tensor; constant ones are expanded over time, so they are computed once."""
    frames = torch.from_numpy(np.require(value, requirements=["C", "W"]))
    if len(frames) > 1 and torch.equal(frames[0], frames[-1]) and bool((frames == frames[:1]).all()):
        return frames[:1].expand(frames.shape)
    return frames


def _result(run: TorchRun, outputs: tuple[str, ...], rasters: set[str]) -> StepsResult:
    record = SpikeRecord(
        counts={name: total.to(torch.int64).cpu().numpy() for name, total in sorted(run.counts.items())},
        rasters={name: (run.values[name] > 0).cpu().numpy() for name in sorted(rasters)},
        states={key: _float64(values) for key, values in run.states.items()},
    )
    return StepsResult({name: _float64(run.values[name]) for name in outputs}, record)


def _float64(values: Tensor) -> np.ndarray:
    return values.to(torch.float64).cpu().numpy()
