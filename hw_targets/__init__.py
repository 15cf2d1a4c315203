"""Targets by name. Adding one: a file in this folder and a line in `TARGETS`.

A target is chosen by a spec `name[:option...]`, e.g. `torch:float64`, `lava:float`, `lava:runtime`.
"""

from __future__ import annotations

import importlib

from rsc.errors import TargetUnavailable, unknown_name
from rsc.hw_targets.base import DeployedModel, StepsResult, Target
from rsc.program import Program

__all__ = ["TARGETS", "DeployedModel", "StepsResult", "Target", "deploy", "get_target"]

# name -> (module, class); modules are imported when asked for, so `rsc targets` stays quick.
TARGETS: dict[str, tuple[str, str]] = {
    "reference": ("rsc.hw_targets.reference", "ReferenceTarget"),
    "torch": ("rsc.hw_targets.torch", "TorchTarget"),
    "norse": ("rsc.hw_targets.norse", "NorseTarget"),
    "onnxruntime": ("rsc.hw_targets.onnxruntime", "OnnxRuntimeTarget"),
    "loihi": ("rsc.hw_targets.loihi", "LoihiTarget"),
    "lava": ("rsc.hw_targets.lava", "LavaTarget"),
}


def get_target(spec: str) -> Target:
    """The target of a spec `name[:option...]`.

    Raises:
        UsageError: unknown name or option.
    """
    name, *options = spec.split(":")
    if name not in TARGETS:
        raise unknown_name("target", name, TARGETS, "See `rsc targets`.")
    module, cls = TARGETS[name]
    return getattr(importlib.import_module(module), cls)(*options)


def deploy(program: Program, on: str) -> DeployedModel:
    """Compile `program` for the target spec `on`, ready to run.

    Raises:
        UsageError, TargetUnavailable, UnsupportedNode.
    """
    target = get_target(on)
    missing = target.available()
    if missing is not None:
        raise TargetUnavailable(f"Target '{on}' cannot run here.", missing.reason, missing.fix)
    return target.compile(program)
