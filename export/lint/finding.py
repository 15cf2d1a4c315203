"""What a lint rule gets and what it gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import msgspec
import nir
import numpy as np

from rsc.discretise import NEURONS, SYNAPTIC
from rsc.errors import InputRefused
from rsc.export.lint.tools import TOOLS, Tool
from rsc.graph import Topology, topology
from rsc.program import Program, walk
from rsc.results import Issue

Severity = Literal["error", "warning", "info"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that a target would refuse or change.

    Fields:
        rule: identifier of the rule, one of `RULES`.
        severity: "error" (refused, fails, or something else is run), "warning" (runs and deviates),
            "info" (good to know).
        target: the target it concerns; "" if it concerns every tool, or the file itself.
        node: dotted name of the node; "" if it concerns the whole graph.
        what: one sentence with the value found.
        why: what the target does, or what the format leaves open.
        fix: what the user can do.
    """

    rule: str
    severity: Severity
    target: str
    node: str
    what: str
    why: str
    fix: str


@dataclasses.dataclass(frozen=True)
class Activity:
    """Spikes of a run on a sample.

    Fields:
        counts: node -> int [B, ...], spikes per site summed over the steps.
        steps: T.
    """

    counts: Mapping[str, np.ndarray]
    steps: int


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is linted.

    Fields:
        program: graph and semantics.
        targets: names of targets to be judged, own and foreign.
        issues: own target -> what its `check` found.
        activity: of a run, or None if there was none.
        declared: whether the time step was stated (by the file or the user); False if it was assumed.
        told: whether the rules were stated (by the file's own metadata or a preset); False if they are ours.
    """

    program: Program
    targets: tuple[str, ...] = ()
    issues: Mapping[str, Sequence[Issue]] = dataclasses.field(default_factory=dict)
    activity: Activity | None = None
    declared: bool = True
    told: bool = False

    @property
    def dt(self) -> float:
        """Time step in seconds."""
        return self.program.semantics.dt

    @property
    def tools(self) -> list[Tool]:
        """The foreign tools among the targets."""
        return [TOOLS[name] for name in self.targets if name in TOOLS]

    @cached_property
    def nodes(self) -> list[tuple[str, Any]]:
        """Dotted name and node, nested graphs opened, without the graphs themselves."""
        return [(name, node) for name, node in walk(self.program.graph) if not isinstance(node, nir.NIRGraph)]

    @property
    def neurons(self) -> list[tuple[str, Any]]:
        """The nodes with a membrane."""
        return [(name, node) for name, node in self.nodes if isinstance(node, NEURONS)]

    @cached_property
    def flow(self) -> Topology | InputRefused:
        """The graph in evaluation order, or why there is none."""
        try:
            return topology(self.program.graph, self.program.semantics)
        except InputRefused as error:
            return error

    def read_by(self, tool: Tool) -> Iterator[tuple[str, Any]]:
        """The neurons that a tool imports at all."""
        return ((name, node) for name, node in self.neurons if kind(node) in tool.nodes)


def kind(node: Any) -> str:
    """Name of a node's primitive."""
    return type(node).__name__


def membrane_gain(node: Any, dt: float) -> np.ndarray:
    """What an input of 1 adds to v in one Euler step: r dt/tau, for I and IF r dt."""
    r = np.asarray(node.r, np.float64)
    if isinstance(node, nir.I | nir.IF):
        return r * dt
    return r * dt / np.asarray(node.tau_mem if isinstance(node, SYNAPTIC) else node.tau, np.float64)


def synapse_gain(node: Any, dt: float) -> np.ndarray:
    """What an input of 1 adds to the current of a Cuba neuron in one Euler step: w_in dt/tau_syn."""
    return np.asarray(node.w_in, np.float64) * dt / np.asarray(node.tau_syn, np.float64)


def span(values: Any) -> str:
    """An array in a sentence: its value, or its range."""
    array = np.asarray(values, np.float64)
    low, high = float(array.min()), float(array.max())
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
