"""What a run of the torch module carries along: its state, its values under way, its result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class TorchState:
    """Everything a run carries from one step to the next; tensors [B, ...] by node.

    Fields:
        v, i: membrane potential and synaptic current, after the reset.
        held: last value of each node that a delayed edge leaves.
        lines: [longest delay, B, ...] past inputs of each Delay node, oldest first.
    """

    v: Mapping[str, Tensor]
    i: Mapping[str, Tensor]
    held: Mapping[str, Tensor]
    lines: Mapping[str, Tensor]

    def __getitem__(self, samples: slice) -> TorchState:
        """The state of some samples."""
        v, i, held = ({k: x[samples] for k, x in part.items()} for part in (self.v, self.i, self.held))
        return TorchState(v, i, held, {k: x[:, samples] for k, x in self.lines.items()})


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

    def close(self, name: str, count: bool) -> None:
        """Note the sum of a node's outputs, and the last one if a delayed edge leaves it."""
        if count:
            self.counts[name] = self.values[name].sum(0)
        if name in self.held:
            self._last[name] = self.values[name][-1]

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
