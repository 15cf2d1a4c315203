"""What an attack needs of a network: encoder, bounds, and a core from frames to logits.

The encoder is applied by us, never inside the core, so noise can be fresh, shared, recorded or known.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from rsc.coding import encode_torch
from rsc.errors import UsageError
from rsc.front import HasFront, only_adds, outputs
from rsc.hw_targets.base import DeployedModel
from rsc.neurons.surrogates import surrogate_of
from rsc.program import EncoderSpec
from rsc.robustness.surrogates import GradientRule, Memory, attack_through, shared_copy, surrogate_text

READOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda out: out.mean(0),
    "sum": lambda out: out.sum(0),
    "last": lambda out: out[-1],
}


_MODE_DEPENDENT = (torch.nn.modules.batchnorm._NormBase, torch.nn.modules.dropout._DropoutNd)


@runtime_checkable
class StochasticModel(Protocol):
    """A classifier whose randomness is all in its encoder.

    Attributes:
        encoder: how images become frames.
        bounds: (lowest, highest) legal input value.
    """

    @property
    def encoder(self) -> EncoderSpec: ...

    @property
    def bounds(self) -> tuple[float, float]: ...

    def core(self, frames: Tensor) -> Tensor:
        """Logits [B, K] of frames [T, B, ...]; a fixed function of one run, row by row."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class ModuleModel:
    """A module over time, with the readout of its program.

    Fields:
        module: frames [T, B, ...] -> outputs [T, B, K], state reset at every call.
        readout: "mean", "sum" or "last" over T.
        name: for reports.
        differentiable: whether gradients flow from logits to frames.
        surrogate: surrogate gradient in use, for reports.
        memory: what the attacker's gradient rule remembers between steps, if it has one.
    """

    module: Callable[[Tensor], Tensor]
    encoder: EncoderSpec
    bounds: tuple[float, float]
    readout: str = "mean"
    name: str = "model"
    differentiable: bool = True
    surrogate: str = "model"
    memory: Memory | None = None

    def core(self, frames: Tensor) -> Tensor:
        """Logits [B, K] of frames [T, B, ...]."""
        return self._read(self.module(frames))

    def sensitive_logits(self, x: Tensor, noise: Tensor | None, n: int) -> Tensor:
        """`logits` of n copies of images x [B, ...], with gradients for x that cost one first layer."""
        copies = x.repeat(n, *[1] * (x.ndim - 1)) if n > 1 else x
        front = self.module.front() if isinstance(self.module, HasFront) and only_adds(self.encoder) else None
        if front is None:
            return logits(self, copies, noise)
        frames = encode_torch(self.encoder, copies.detach(), noise)
        return self._read(outputs(front, frames, encode_torch(self.encoder, x, None)[0]))

    def _read(self, out: Tensor) -> Tensor:
        return READOUTS[self.readout](out).flatten(1)


def from_module(
    module: Callable[[Tensor], Tensor],
    encoder: EncoderSpec,
    bounds: tuple[float, float],
    readout: Literal["mean", "sum", "last"] = "mean",
    name: str = "model",
) -> ModuleModel:
    """A model from a module that maps frames [T, B, ...] to outputs [T, B, K].

    Raises:
        UsageError: a part with batch statistics or dropout is in training mode, or the readout is not known.
    """
    parts = module.modules() if isinstance(module, torch.nn.Module) else ()
    if any(part.training and isinstance(part, _MODE_DEPENDENT) for part in parts):
        raise UsageError(
            f"Model '{name}' is in training mode.",
            "Its batch statistics or dropout would make the answer depend on the batch.",
            "Call module.eval() first.",
        )
    if readout not in READOUTS:
        raise UsageError(f"Readout '{readout}' is not known.", f"Known: {', '.join(READOUTS)}.", "Use one.")
    return ModuleModel(module, encoder, bounds, readout, name)


def from_deployed(deployed: DeployedModel) -> ModuleModel:
    """A deployed program as a model without gradients, for black-box attacks and scoring.

    Raises:
        UsageError: the program names no encoder or no bounds.
    """
    program = deployed.program
    if program.encoder is None or program.bounds is None:
        raise UsageError(
            "This program cannot be attacked.", "It names no encoder or no bounds.", "Export it with both."
        )

    def run(frames: Tensor) -> Tensor:
        result = deployed.run_frames(frames.detach().cpu().numpy())
        return torch.from_numpy(np.asarray(result.logits)).to(frames)[None]

    return ModuleModel(run, program.encoder, program.bounds, "last", deployed.target, differentiable=False)


def logits(model: StochasticModel, x: Tensor, noise: Tensor | None) -> Tensor:
    """Logits [B, K] of images [B, ...] under given noise (see `rsc.coding.draw_noise`)."""
    return model.core(encode_torch(model.encoder, x, noise))


def label_of(model: object) -> str:
    """Name for reports."""
    return str(getattr(model, "name", type(model).__name__))


def own_surrogate(model: object) -> str:
    """The surrogate that gradients of a model go through; "model" where its parts do not name one."""
    text = str(getattr(model, "surrogate", "model"))
    module: Any = getattr(model, "module", None)
    parts = module.modules() if isinstance(module, torch.nn.Module) else (module,)
    named = {surrogate_text(part.surrogate) for part in parts if hasattr(part, "surrogate")}
    return named.pop() if text == "model" and len(named) == 1 else text


def has_surrogates(model: object) -> bool:
    """Whether some part of a model has a surrogate gradient that could be another; an ANN has none."""
    module: Any = getattr(model, "module", None)
    parts = module.modules() if isinstance(module, torch.nn.Module) else (module,)
    return any(hasattr(part, "surrogate") or hasattr(part, "with_surrogate") for part in parts)


def device_of(model: object) -> torch.device:
    """Where a model computes: the device of its first weight or buffer, else the CPU."""
    module = getattr(model, "module", model)
    if not isinstance(module, torch.nn.Module):
        return torch.device("cpu")
    return next((t.device for t in (*module.parameters(), *module.buffers())), torch.device("cpu"))


def with_surrogate(model: ModuleModel, surrogate: Any) -> ModuleModel:
    """The same network attacked through another surrogate gradient; weights are shared, forward unchanged.

    A `GradientRule` (RGA, ASSG, ...) replaces the backward pass of whole layers. A plain surrogate goes to
    the module's own `with_surrogate` if it has one; else to the attribute `surrogate` of a structural copy
    of every part that has it.

    Args:
        surrogate: a rule, a function of v - v_threshold, its name, or what the module's parts take.

    Raises:
        UsageError: the module offers neither.
    """
    module: Any = model.module
    if isinstance(surrogate, GradientRule) and isinstance(module, torch.nn.Module):
        twin, memory = attack_through(module, surrogate)
        return dataclasses.replace(model, module=twin, surrogate=surrogate.title, memory=memory)
    name = surrogate_text(surrogate)
    if isinstance(surrogate, str):
        surrogate = surrogate_of(surrogate)
    if hasattr(module, "with_surrogate"):
        return dataclasses.replace(model, module=module.with_surrogate(surrogate), surrogate=name)
    parts = list(module.modules()) if isinstance(module, torch.nn.Module) else [module]
    if isinstance(surrogate, GradientRule) or not any(hasattr(part, "surrogate") for part in parts):
        raise UsageError(
            f"Model '{model.name}' cannot be attacked through '{name}'.",
            "None of its parts has an attribute 'surrogate' or a method 'with_surrogate'.",
            "Attack it with the surrogate it was built with.",
        )
    twin = shared_copy(module)
    for part in twin.modules():
        if hasattr(part, "surrogate"):
            part.surrogate = surrogate
    return dataclasses.replace(model, module=twin, surrogate=name)


def stream_generator(
    seed: int, stream: str, device: torch.device | str = "cpu", index: int = 0
) -> torch.Generator:
    """A generator for one purpose: streams ("attack", "score", ...) of one seed never share noise."""
    digest = hashlib.sha256(f"{stream}/{seed}/{index}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
