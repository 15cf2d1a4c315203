"""What a run of the torch module carries along: its state, its values under way, its result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rsc.hw_targets.base import State


class TorchState(State):
    """Tensors."""

    def __getitem__(self, samples: slice) -> TorchState:
        """The state of some samples."""
        v, i, held = ({k: x[samples] for k, x in part.items()} for part in (self.v, self.i, self.held))
        return TorchState(v, i, held, {k: x[:, samples] for k, x in self.lines.items()})

    @classmethod
    def beside(cls, parts: Sequence[TorchState]) -> TorchState:
        """The state of all samples from those of some; the opposite of slicing."""
        axes = {"v": 0, "i": 0, "held": 0, "lines": 1}
        return cls(
            **{field: _joined([getattr(p, field) for p in parts], axis) for field, axis in axes.items()}
        )


@dataclasses.dataclass(frozen=True, eq=False)
class TorchRun:
    """What `TorchModule.run` returns.

    Fields:
        values: node -> [T, B, ...] output of the nodes asked for.
        counts: node -> [B, ...] sum over the steps of the nodes asked for.
        states: "node.v", "node.i" -> [T, B, ...] of the nodes asked for, after reset.
        state: to go on from.
    """

    values: dict[str, Tensor]
    counts: dict[str, Tensor]
    states: dict[str, Tensor]
    state: TorchState

    @classmethod
    def after(cls, parts: Sequence[TorchRun]) -> TorchRun:
        """One run from runs that went on from each other."""
        if len(parts) == 1:
            return parts[0]
        counts = {name: sum(part.counts[name] for part in parts) for name in parts[0].counts}
        values, states = (_joined([getattr(p, f) for p in parts], 0) for f in ("values", "states"))
        return cls(values, counts, states, parts[-1].state)  # type: ignore[arg-type]

    @classmethod
    def beside(cls, parts: Sequence[TorchRun]) -> TorchRun:
        """One run from runs of some samples each."""
        if len(parts) == 1:
            return parts[0]
        values, states = (_joined([getattr(p, f) for p in parts], 1) for f in ("values", "states"))
        counts, state = _joined([p.counts for p in parts], 0), TorchState.beside([p.state for p in parts])
        return cls(values, counts, states, state)


def _joined(parts: Sequence[Mapping[str, Tensor]], axis: int) -> dict[str, Tensor]:
    return {key: torch.cat([part[key] for part in parts], axis) for key in parts[0]}


class Walk:
    """The values of one run while it is under way."""

    def __init__(
        self, steps: int, batch: int, frames: Mapping[str, Tensor], state: TorchState, watched: frozenset[str]
    ) -> None:
        self.steps, self.batch, self.frames, self.watched = steps, batch, frames, watched
        self.values: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}
        self.v, self.i, self.lines = dict(state.v), dict(state.i), dict(state.lines)
        self.held = dict(state.held)
        self._last: dict[str, Tensor] = {}
        self._states: dict[str, list[Tensor]] = {}

    def series(self, source: str, delayed: bool) -> Tensor:
        """The outputs of a node over all steps, or those of the steps before."""
        values = self.values[source]
        return torch.cat([self.held[source][None], values[:-1]]) if delayed else values

    def put(self, name: str, v: Tensor, i: Tensor | None) -> None:
        """Keep the state of a neuron node."""
        self.v[name] = v
        if i is not None:
            self.i[name] = i

    def note(self, last: Mapping[str, Tensor]) -> None:
        """Keep the last outputs [B, ...] of the nodes that a delayed edge leaves."""
        self._last.update({name: value for name, value in last.items() if name in self.held})

    def state(self) -> TorchState:
        """The state after the last step."""
        return TorchState(self.v, self.i, self._last, self.lines)

    def record(self, name: str) -> None:
        """Note the state of a watched node after one step."""
        self._states.setdefault(f"{name}.v", []).append(self.v[name])
        if name in self.i:
            self._states.setdefault(f"{name}.i", []).append(self.i[name])

    def recorded(self) -> dict[str, Tensor]:
        """All noted states, [T, B, ...]."""
        return {key: torch.stack(series) for key, series in self._states.items()}


def add(a: Tensor, b: Tensor) -> Tensor:
    """a + b; once for all steps where both are constant in time."""
    return (a[0] + b[0])[None].expand(a.shape) if is_static(a) and is_static(b) else a + b


def is_static(x: Tensor) -> bool:
    """Whether x [T, ...] was expanded over T, so that one step stands for all."""
    return len(x) > 1 and x.stride(0) == 0
