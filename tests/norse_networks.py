"""Small networks for Norse, and how they are run."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any

import nir
import numpy as np

from rsc.hw_targets import deploy
from rsc.program import Program, Semantics
from rsc.results import Probe, RunResult

DT = 1e-3
EULER = Semantics(dt=DT)


def port(*shape: int) -> np.ndarray:
    return np.array(shape)


def chain(shape: tuple[int, ...], out: tuple[int, ...], **nodes: nir.NIRNode) -> nir.NIRGraph:
    ends: dict[str, Any] = {"input": nir.Input({"input": port(*shape)}), **nodes}
    ends["output"] = nir.Output({"output": port(*out)})
    return nir.NIRGraph(ends, list(pairwise(ends)), type_check=False)


def lif(*shape: int, **changes: Any) -> nir.LIF:
    values = {"tau": 2e-3, "r": 2.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0} | changes
    fields: Any = {k: np.broadcast_to(v, shape).astype(float) for k, v in values.items()}
    return nir.LIF(**fields)


def flat() -> nir.Flatten:
    return nir.Flatten(None, 0, -1)  # type: ignore[arg-type]


def run(
    graph: nir.NIRGraph, frames: np.ndarray, semantics: Semantics = EULER, spec: str = "norse"
) -> RunResult:
    """All rasters and states, under warnings as errors."""
    program = Program(graph, semantics)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return deploy(program, spec).run_frames(frames, Probe.everything(program.node_names))


def fire(h: np.ndarray, threshold: Any, reset: Any, rule: str = "value") -> tuple[np.ndarray, np.ndarray]:
    spikes = h > threshold
    return spikes, np.where(spikes, reset if rule == "value" else h - threshold, h)
