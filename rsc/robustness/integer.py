"""The integer twin: a white-box attack on the exact arithmetic of the Loihi program.

Values are those of the deployed integers bit for bit; gradients pass straight through rounding and saturation
(`rsc.hw_targets.loihi_gradient`). Images that break it break the chip's program, not a float copy of it.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from rsc.errors import UsageError
from rsc.export import loihi as lowering
from rsc.hw_targets.base import refuse_errors
from rsc.hw_targets.loihi import LoihiModel
from rsc.neurons.surrogates import Surrogate
from rsc.program import Program
from rsc.robustness.model import ModuleModel
from rsc.robustness.surrogates import surrogate_named


class IntegerModule:
    """A quantised program, frames [T, B, ...] -> outputs [T, B, ...] float64 with gradients."""

    def __init__(self, model: LoihiModel) -> None:
        self.model = model

    def __call__(self, frames: Tensor) -> Tensor:
        name, out = self.model.program.inputs[0], self.model.program.outputs[0]
        if torch.is_grad_enabled() and frames.requires_grad:
            return self.model.forward({name: frames})[out]
        result = self.model.run_frames(frames.detach().cpu().numpy())  # in tiles, several times quicker
        return torch.from_numpy(np.asarray(result.outputs[out])).to(self.model.device)

    def with_surrogate(self, surrogate: Surrogate | str) -> IntegerModule:
        """The same integers with another derivative of the spike in v - v_threshold.

        Raises:
            UsageError: a rule for whole layers, which the integer model has no place for.
        """
        chosen: Any = surrogate_named(surrogate) if isinstance(surrogate, str) else surrogate
        if not callable(chosen):
            raise UsageError(
                f"The integer twin cannot be attacked through '{getattr(chosen, 'title', chosen)}'.",
                "Its gradient takes a derivative per neuron and step, no rule for whole layers.",
                "Use a plain surrogate (atan, triangle, rectangle, ...).",
            )
        twin = copy.copy(self.model)
        twin.surrogate = cast(Surrogate, chosen)
        return IntegerModule(twin)


def integer_twin(program: Program, name: str = "integer twin", device: str = "cpu") -> ModuleModel:
    """The Loihi form of a program as a model that every white-box attack can be run on.

    Raises:
        UsageError: the program names no encoder or no bounds, or has several inputs or outputs.
        UnsupportedNode: it has no form on Loihi.
    """
    if program.encoder is None or program.bounds is None or len(program.inputs) != 1:
        raise UsageError(
            "This program has no integer twin to attack.",
            "It names no encoder or no bounds, or has several inputs.",
            "Export it with one input, encoder and bounds.",
        )
    refuse_errors("loihi", [i for i in lowering.check(program) if i.severity == "error"])
    layered = lowering.lower(program, "integer")
    model = LoihiModel(program, layered, torch.device(device), straight_through=True)
    return ModuleModel(
        IntegerModule(model),
        program.encoder,
        program.bounds,
        program.semantics.readout,
        name,
        surrogate="atan",
    )
