"""Tiny integer programs, all inputs of a box, and what the integer model does with them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from lava_networks import Kit

from rsc.hw_targets.base import StepsResult
from rsc.hw_targets.loihi import LoihiModel
from rsc.layered import LayeredProgram, Source
from rsc.results import Probe

CPU = torch.device("cpu")
STEPS, INPUTS = 2, 3


def tiny(seed: int, hidden: int = 4) -> LayeredProgram:
    """Two layers and a readout of three; with loops, exponents, spiking inputs and leaky readouts by seed."""
    kit = Kit(np.random.default_rng(seed))
    loop = [kit.dense("b", hidden, hidden, 1)] if seed % 2 else []
    end = kit.sum if seed % 4 else kit.state
    return LayeredProgram(
        "integer",
        (
            kit.lif("a", (hidden,), kit.dense("x", hidden, INPUTS, graded=bool(seed % 5))),
            kit.lif("b", (hidden,), kit.dense("a", hidden, hidden, weight_exp=(0, -1, 1)[seed % 3]), *loop),
            end("r", (3,), kit.dense("b", 3, hidden)),
        ),
        (Source("x", (INPUTS,), 1.0, 20),),
        (("output", ("r",)),),
    )


def box(seed: int, wide: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Ends [T, 1, n] of frames of whole numbers; each spans up to `wide` values."""
    rng = np.random.default_rng(seed)
    low = rng.integers(-3, 3, (STEPS, 1, INPUTS)).astype(np.float32)
    return low, low + rng.integers(0, wide, low.shape).astype(np.float32)


def points(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """All frames [T, N, ...] of whole numbers between two [T, 1, ...]."""
    ranges = [np.arange(a, b + 1) for a, b in zip(low.ravel(), high.ravel(), strict=True)]
    every = np.array(list(itertools.product(*ranges)), np.float32)
    return np.moveaxis(every.reshape(len(every), *low[:, 0].shape), 0, 1)


def run(layered: LayeredProgram, frames: Any, names: tuple[str, ...] = ()) -> StepsResult:
    """What target `loihi` does."""
    fed = frames if isinstance(frames, dict) else {layered.inputs[0].name: frames}
    return LoihiModel(None, layered, CPU)._steps(fed, Probe.everything(names))
