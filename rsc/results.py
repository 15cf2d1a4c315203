"""What a run returns and what a check finds: plain frozen values, numpy only."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np

from rsc.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Keys:
    """Which noise a run draws: one key per sample.

    The noise of a frame depends on (seed, stream, sample id, draw, step) and on nothing else:
    not on the batch it travels in, not on the target.

    Args:
        seed: 64-bit seed of the experiment.
        samples: int64 [B], identity of each sample (its index in the data set).
        draw: which repetition for the same sample (vote k of K, EOT draw); scalar or [B].
        stream: purpose; attack, scoring, selection and estimation never share noise.
    """

    seed: int
    samples: np.ndarray
    draw: int | np.ndarray = 0
    stream: Literal["run", "train", "attack", "score", "select", "estimate"] = "run"

    def __post_init__(self) -> None:
        samples = np.atleast_1d(np.asarray(self.samples, dtype=np.int64))
        object.__setattr__(self, "samples", samples)
        if samples.ndim != 1 or (samples < 0).any() or np.min(self.draw) < 0 or self.seed < 0:
            raise UsageError(
                "Noise keys must be non-negative and one per sample.",
                f"samples has shape {samples.shape}.",
                "Give a 1-D array.",
            )

    def __len__(self) -> int:
        return len(self.samples)

    def replace(self, **changes: object) -> Keys:
        """A copy with other fields, e.g. the next draw."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Probe:
    """What a run records besides its output.

    Args:
        spikes: node names whose spike rasters [T, B, ...] are kept.
        states: node names whose states (v, and u or i where there is one) are kept, after reset.
        counts: spike counts per site of every event-carrying node (needed to count energy).
    """

    spikes: frozenset[str] = frozenset()
    states: frozenset[str] = frozenset()
    counts: bool = True

    @classmethod
    def everything(cls, names: list[str] | tuple[str, ...]) -> Probe:
        """Rasters and states of all `names`."""
        return cls(frozenset(names), frozenset(names))


@dataclasses.dataclass(frozen=True)
class SpikeRecord:
    """What the neurons did.

    Fields:
        counts: node -> int64 [B, ...], spikes per site summed over the steps.
        rasters: node -> bool [T, B, ...], for probed nodes.
        states: "node.v", and the synaptic current "node.i" (float targets) or "node.u" (Loihi)
            -> float64 or int64 [T, B, ...], after reset.
    """

    counts: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    rasters: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    states: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class RunStats:
    """Where and how a run was made.

    Fields:
        target, version: who ran it.
        arithmetic: "float64", "float32" or "integer".
        wall_s: seconds spent in the target, compilation excluded.
        saturated: how often a state or input hit the limits of its representation.
    """

    target: str
    version: str
    arithmetic: str
    wall_s: float = 0.0
    saturated: int = 0


@dataclasses.dataclass(frozen=True)
class RunResult:
    """The outcome of one run.

    Fields:
        outputs: Output node -> [T, B, ...] values at every step.
        logits: [B, K], the first output reduced over time by `Semantics.readout`.
        frames_digest: SHA-256 of the input frames (float32, C order): equal digests, equal input.
    """

    outputs: Mapping[str, np.ndarray]
    logits: np.ndarray
    spikes: SpikeRecord
    stats: RunStats
    frames_digest: str = ""

    @property
    def predictions(self) -> np.ndarray:
        """int64 [B], index of the largest logit."""
        return np.asarray(self.logits).reshape(len(self.logits), -1).argmax(1)


@dataclasses.dataclass(frozen=True)
class Issue:
    """One finding of a check before compilation.

    Fields:
        severity: "error" (the target will refuse), "warning" (it will run and deviate), "info".
        node: name of the node, "" if it concerns the whole program.
        what: one sentence with the value and the limit.
        fix: what the user can do.
    """

    severity: Literal["error", "warning", "info"]
    node: str
    what: str
    fix: str = ""


@dataclasses.dataclass(frozen=True)
class Unavailable:
    """Why a target cannot run here, and how to get it."""

    reason: str
    fix: str
