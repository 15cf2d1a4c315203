"""Everything about a run that changes while it trains, and its way into a snapshot and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rsc.errors import MalformedFile, RscError
from rsc.training.checkpoint import Snapshot
from rsc.training.metrics import EpochStats
from rsc.training.objective import Objective
from rsc.training.optimiser import moments, set_moments

VERSION = 1


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a run stands.

    Fields:
        epoch: epochs that are over, evaluated and logged.
        step: optimiser steps done in the epoch at hand.
        loss_sum, hits, seconds, terms: of the epoch at hand, over the images met so far; terms are the sums
            of each loss term, empty where there is one alone.
        best: highest vote on the held-out images, of epoch `best_epoch` (from 1); -1 before the first.
        stale: validations since then.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    hits: int = 0
    seconds: float = 0.0
    best: float = -1.0
    best_epoch: int = 0
    stale: int = 0
    terms: tuple[float, ...] = ()


@dataclasses.dataclass(eq=False)
class TrainState:
    """A run between two steps.

    Fields:
        network, optimiser, objective: as far as they have come.
        average: moving average of the network, if one is kept.
        generator: noise of the epoch at hand.
        best: weights of the best validated epoch by name; empty before, or where none is kept.
    """

    network: nn.Module
    optimiser: Optimizer
    objective: Objective
    generator: torch.Generator
    average: nn.Module | None = None
    position: Position = Position()
    history: list[EpochStats] = dataclasses.field(default_factory=list)
    best: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and returned."""
        return self.network if self.average is None else self.average

    def move(self, **changes: Any) -> None:
        """Change the position."""
        self.position = dataclasses.replace(self.position, **changes)

    def require_finite(self) -> None:
        """Refuse weights that are not finite, so that none are ever saved.

        Raises:
            RscError: some are not.
        """
        for name, value in self.network.state_dict().items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                at = self.position
                where = f"in epoch {at.epoch + 1}" if at.step or not at.epoch else f"after epoch {at.epoch}"
                raise RscError(
                    f"Training stopped {where}.",
                    f"'{name}' holds values that are not finite.",
                    "Lower the learning rate, or set optimiser.clip_norm.",
                )


def to_snapshot(state: TrainState, made_by: Mapping[str, Any]) -> Snapshot:
    """All of a state. `made_by` identifies the run: its configuration and data.

    Raises:
        RscError: the weights are not finite.
    """
    state.require_finite()
    tensors: dict[str, Tensor] = {"noise": state.generator.get_state()}
    for prefix, module in (("network", state.network), ("average", state.average)):
        if module is not None:
            tensors |= {f"{prefix}/{k}": v for k, v in module.state_dict().items()}
    tensors |= {f"best/{k}": v for k, v in state.best.items()}
    numbers: dict[str, dict[str, Any]] = {}
    for index, entry in moments(state.optimiser).items():
        tensors |= {f"optimiser/{index}/{k}": v for k, v in entry.items() if isinstance(v, Tensor)}
        numbers[index] = {k: v for k, v in entry.items() if not isinstance(v, Tensor)}
    facts = {
        "version": VERSION,
        "run": dict(made_by),
        "position": dataclasses.asdict(state.position),
        "history": [dataclasses.asdict(stats) for stats in state.history],
        "optimiser": numbers,
        "objective": state.objective.state(),
    }
    return Snapshot(tensors, facts)


def restore(state: TrainState, snapshot: Snapshot, made_by: Mapping[str, Any]) -> None:
    """Put a state back to where a snapshot was taken.

    Raises:
        MalformedFile: it is of another run or version.
    """
    facts = snapshot.facts
    if facts.get("version") != VERSION:
        raise MalformedFile(
            "The checkpoint has another format.", f"Version {facts.get('version')}.", "Start a new run."
        )
    _require_same(facts["run"], made_by)
    try:
        state.network.load_state_dict(_under(snapshot, "network"))
        if state.average is not None:
            state.average.load_state_dict(_under(snapshot, "average"))
        state.best = _under(snapshot, "best")
        state.generator.set_state(snapshot.tensors["noise"])
        entries: dict[str, dict[str, Any]] = {k: dict(v) for k, v in facts["optimiser"].items()}
        for name, value in _under(snapshot, "optimiser").items():
            index, _, key = name.partition("/")
            entries[index][key] = value
        set_moments(state.optimiser, entries)
        state.objective.load_state(facts["objective"])
        state.position = msgspec.convert(facts["position"], Position)
        state.history = msgspec.convert(facts["history"], list[EpochStats])
    except (KeyError, RuntimeError, ValueError, msgspec.ValidationError) as error:
        raise MalformedFile(
            "The checkpoint does not fit the network.", " ".join(str(error).split())[:300], "Start a new run."
        ) from error


def _under(snapshot: Snapshot, prefix: str) -> dict[str, Tensor]:
    start = f"{prefix}/"
    return {k.removeprefix(start): v for k, v in snapshot.tensors.items() if k.startswith(start)}


def _require_same(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with a run under other settings: it would be neither of the two."""
    differing = sorted(_differences(saved, now))
    if differing:
        raise MalformedFile(
            "The run was started with other settings.",
            f"Different: {'; '.join(differing[:5])}.",
            "Resume with the old config (resolved.toml), or start a new run elsewhere.",
        )


def _differences(a: Any, b: Any, name: str = "") -> list[str]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        keys = sorted({*a, *b})
        inner = (_differences(a.get(k), b.get(k), f"{name}.{k}".lstrip(".")) for k in keys)
        return [found for part in inner for found in part]
    return [] if a == b else [f"{name} {a!r}, now {b!r}"]
