"""The one interface of all targets: `Target.compile` gives a `DeployedModel`, which runs frames.

A target writes one hook, `DeployedModel._steps`. Validation, encoding, input counts, readout and
sanity checks are done here, once, for all of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self, final, runtime_checkable

import numpy as np

from rsc.coding import encode
from rsc.errors import InputRefused, TargetFault, UnsupportedNode, UsageError
from rsc.program import Program
from rsc.results import Issue, Keys, Probe, RunResult, RunStats, SpikeRecord, Unavailable


@dataclasses.dataclass(frozen=True)
class StepsResult:
    """What the hook of a target returns.

    Fields:
        outputs: Output node -> [T, B, ...] float64 (dequantised where the target is integer).
        spikes: counts, rasters and states of the neurons.
        saturated: how often a state or an input hit the limits of its representation.
    """

    outputs: Mapping[str, np.ndarray]
    spikes: SpikeRecord
    saturated: int = 0


class DeployedModel(ABC):
    """A program compiled for one target; a context manager that owns the target's resources."""

    program: Program
    target: str
    arithmetic: str
    version: str = ""

    @abstractmethod
    def _steps(self, frames: Mapping[str, np.ndarray], probe: Probe) -> StepsResult:
        """Run frames (Input node -> float32 [T, B, ...], validated, finite) from the initial state."""

    def close(self) -> None:  # noqa: B027  # most targets hold nothing to free
        """Free what the target holds; called on leaving the context."""

    @final
    def __enter__(self) -> Self:
        return self

    @final
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @final
    def run(self, x: np.ndarray, keys: Keys, probe: Probe | None = None) -> RunResult:
        """Encode images under noise keys and run them.

        Args:
            x: [B, ...] images of the program's shape, inside its bounds.
            keys: one noise key per image.
            probe: what to record beside the output.

        Raises:
            InputRefused: wrong shape, out of bounds, not finite.
            UsageError: the program has no encoder.
            TargetFault: the target failed or returned something impossible.
        """
        if self.program.encoder is None:
            raise UsageError(
                "This program has no encoder.", "It can only be fed ready-made frames.", "Use run_frames."
            )
        x = checked_images(self.program, x)
        frames = checked_frames(self.program, encode(self.program.encoder, x, keys))
        return self._finished(frames, probe, lambda named, kept: self._run_images(x, keys, named, kept))

    @final
    def run_frames(
        self, frames: np.ndarray | Mapping[str, np.ndarray], probe: Probe | None = None
    ) -> RunResult:
        """Run ready-made frames [T, B, ...] (a mapping Input node -> frames if there are several inputs)."""
        return self._finished(checked_frames(self.program, frames), probe, self._steps)

    def _run_images(
        self, x: np.ndarray, keys: Keys, frames: Mapping[str, np.ndarray], probe: Probe
    ) -> StepsResult:
        """Run checked images; a target that draws its frames itself must draw these `frames`."""
        return self._steps(frames, probe)

    def _finished(
        self,
        named: Mapping[str, np.ndarray],
        probe: Probe | None,
        steps: Callable[[Mapping[str, np.ndarray], Probe], StepsResult],
    ) -> RunResult:
        """The result of checked frames, with what all targets add to it."""
        probe = probe or Probe()
        _known_nodes(self.program, probe)
        start = time.perf_counter()
        result = steps(named, probe)
        wall = time.perf_counter() - start
        _finite(self.target, result)
        counts = dict(result.spikes.counts)
        if probe.counts:
            counts |= {name: (f != 0).sum(0, dtype=np.int64) for name, f in named.items()}
        rasters = dict(result.spikes.rasters) | {n: f != 0 for n, f in named.items() if n in probe.spikes}
        first = result.outputs[self.program.outputs[0]]
        return RunResult(
            outputs=result.outputs,
            logits=readout(first, self.program.semantics.readout),
            spikes=dataclasses.replace(result.spikes, counts=counts, rasters=rasters),
            stats=RunStats(self.target, str(self.version), self.arithmetic, wall, result.saturated),
            frames_digest=frames_digest(named),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class State:
    """Everything a run carries from one step to the next; arrays or tensors [B, ...] by node.

    Fields:
        v, i: membrane potential and synaptic current, after the reset (before one due in the next step).
        held: last value of each node that a delayed edge leaves.
        lines: [longest delay, B, ...] past inputs of each Delay node, oldest first.
    """

    v: Mapping[str, Any]
    i: Mapping[str, Any]
    held: Mapping[str, Any]
    lines: Mapping[str, Any]

    @property
    def batch(self) -> int | None:
        """How many samples it is of; None where the program has no state."""
        sizes = [len(x) for part in (self.v, self.i, self.held) for x in part.values()]
        sizes += [x.shape[1] for x in self.lines.values()]
        return sizes[0] if sizes else None


class StreamingModel(DeployedModel):
    """A model that hands out its state, so that a long recording may come in chunks."""

    @abstractmethod
    def _stream(self, frames: Mapping[str, np.ndarray], state: Any, probe: Probe) -> tuple[StepsResult, Any]:
        """Run checked frames from `state` (None: the initial one); the result and the next state."""

    @final
    def run_state(
        self,
        frames: np.ndarray | Mapping[str, np.ndarray],
        state: Any = None,
        probe: Probe | None = None,
    ) -> tuple[StepsResult, Any]:
        """Run frames [T, B, ...] (by Input node if there are several) from `state`.

        Args:
            state: what an earlier call on a model of the same program returned; None to begin.

        Returns:
            the result of these steps alone, and the state to go on from.

        Raises:
            InputRefused: as `run_frames`; or the state is of another number of samples.
        """
        probe = probe or Probe()
        named = checked_frames(self.program, frames)
        _known_nodes(self.program, probe)
        batch = next(iter(named.values())).shape[1]
        if state is not None and state.batch not in (None, batch):
            raise InputRefused(
                f"The state is of {state.batch} samples, the frames are of {batch}.",
                "A recording goes on with the samples it began with.",
                "Give all chunks in the same batch.",
            )
        result, after = self._stream(named, state, probe)
        _finite(self.target, result)
        return result, after

    @final
    def _steps(self, frames: Mapping[str, np.ndarray], probe: Probe) -> StepsResult:
        return self._stream(frames, None, probe)[0]


def checked_images(program: Program, x: np.ndarray) -> np.ndarray:
    """Images float32 [B, ...] of the program's shape, inside its bounds.

    Raises:
        InputRefused: they are not.
    """
    x = _checked(x, program.input_shape, 1, "images [B, ...]")
    if program.bounds is not None and len(x):
        low, high = program.bounds
        if x.min() < low or x.max() > high:
            raise InputRefused(
                f"Images span [{x.min():g}, {x.max():g}].",
                f"The program was made for [{low:g}, {high:g}].",
                "Scale them as the model card says.",
            )
    return x


def checked_frames(program: Program, frames: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Input node -> frames float32 [T, B, ...] of the program's shape, finite.

    Raises:
        InputRefused: names, shapes, sizes or values do not fit.
    """
    inputs = program.inputs
    if not isinstance(frames, Mapping):
        if len(inputs) > 1:
            raise InputRefused(
                "One array was given for several inputs.", f"Inputs: {', '.join(inputs)}.", "Give a mapping."
            )
        frames = {inputs[0]: frames}
    if set(frames) != set(inputs):
        raise InputRefused(
            f"Frames were given for {sorted(frames)}.", f"The program has {list(inputs)}.", "Match the names."
        )
    checked = {}
    for name, value in frames.items():
        node = program.graph.nodes[name]
        shape = tuple(int(d) for d in np.atleast_1d(next(iter(node.input_type.values()))))
        checked[name] = _checked(value, shape, 2, f"frames [T, B, ...] of '{name}'")
    sizes = {v.shape[:2] for v in checked.values()}
    if len(sizes) > 1 or any(0 in s for s in sizes):
        raise InputRefused(
            f"Frames have [T, B] = {sorted(sizes)}.", "All inputs share T >= 1 and B >= 1.", "Match them."
        )
    return checked


def _finite(target: str, result: StepsResult) -> None:
    """Raise TargetFault unless all outputs are."""
    for name, values in result.outputs.items():
        if not np.isfinite(values).all():
            raise TargetFault(
                f"Target '{target}' returned values that are not finite.",
                f"Output '{name}' holds NaN or infinity.",
                "Check the weights and the time step of the program.",
            )


@runtime_checkable
class Target(Protocol):
    """Something that can run programs. Adding one: a file, a line in `TARGETS`."""

    name: str

    def available(self) -> Unavailable | None:
        """None if it can run here; else the reason and the way to get it. Never raises."""
        ...

    def check(self, program: Program) -> list[Issue]:
        """What the target would refuse or change, before compiling."""
        ...

    def compile(self, program: Program) -> DeployedModel:
        """Lower the program; raises UnsupportedNode on any "error" of `check`."""
        ...


def refuse_errors(target: str, issues: list[Issue]) -> None:
    """Raise UnsupportedNode naming every error among `issues`."""
    errors = [i for i in issues if i.severity == "error"]
    if errors:
        raise UnsupportedNode(
            f"Target '{target}' cannot run this program.",
            " ".join(f"{i.node + ': ' if i.node else ''}{i.what}" for i in errors),
            " ".join(dict.fromkeys(i.fix for i in errors if i.fix)),
        )


def readout(output: np.ndarray, rule: str) -> np.ndarray:
    """Logits [B, K] of an output [T, B, ...] by the program's readout rule."""
    flat = np.asarray(output, np.float64).reshape(*output.shape[:2], -1)
    return {"mean": lambda: flat.mean(0), "sum": lambda: flat.sum(0), "last": lambda: flat[-1]}[rule]()


def frames_digest(frames: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of named frames; equal digests mean equal inputs."""
    sha = hashlib.sha256()
    for name, value in sorted(frames.items()):
        sha.update(f"{name} {value.shape}".encode())
        sha.update(np.ascontiguousarray(value, np.float32).data)
    return sha.hexdigest()


def _checked(value: np.ndarray, shape: tuple[int, ...], lead: int, what: str) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise InputRefused(
            f"The {what} hold {array.dtype}.", "Real numbers are needed.", "Convert them to float32."
        )
    if array.shape[lead:] != shape or array.ndim != lead + len(shape):
        raise InputRefused(
            f"The {what} have shape {array.shape}.",
            f"The program takes {shape} after {lead} leading {'axis' if lead == 1 else 'axes'}.",
            "Reshape them or use the program made for them.",
        )
    with np.errstate(over="ignore"):  # infinite then, and refused
        single = np.require(array, np.float32, ["C", "W"])
    if not np.isfinite(single).all():
        large = "values beyond float32" if np.isfinite(array).all() else "NaN or infinity"
        raise InputRefused(f"The {what} are not finite.", f"They hold {large}.", "Clean the input.")
    return single


def _known_nodes(program: Program, probe: Probe) -> None:
    unknown = sorted((probe.spikes | probe.states) - set(program.node_names))
    if unknown:
        raise UsageError(
            f"There is no node {', '.join(unknown)} to probe.",
            f"Nodes: {', '.join(program.node_names)}.",
            "Check the spelling.",
        )
