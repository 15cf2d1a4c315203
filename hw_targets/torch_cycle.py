"""A cycle of the torch module: the nodes of one strongly connected component, run together step by step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from rsc.graph import Topology
from rsc.hw_targets.torch_joint import Heard, Joint, JointWeight, find_joint, run_joint
from rsc.hw_targets.torch_neurons import Line, Population, Threshold
from rsc.hw_targets.torch_ops import Affine
from rsc.hw_targets.torch_state import Walk
from rsc.neurons.surrogates import Surrogate

Step = Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class _Place:
    """A node of the cycle.

    Fields:
        heard: where its input comes from: the series of an edge from outside (its number), or the value of
            another node of the cycle (its number) of this step or of the step before.
        late: it delays all its elements, so that its output is known before its input.
    """

    name: str
    heard: tuple[Heard, ...]
    late: bool


class Cycle:
    """One component of a topology, prepared for runs; it holds no state."""

    def __init__(self, names: tuple[str, ...], graph: Topology, modules: Mapping[str, nn.Module]) -> None:
        self.names = names
        number = {name: i for i, name in enumerate(names)}
        self.outer = [edge for edge in graph.edges if edge[1] in number and edge[0] not in number]
        self.modules = {name: modules[name] for name in names if name in modules}
        self.places = tuple(self._place(name, number, graph) for name in names)
        self.joints = self._find_joints(graph)

    def _find_joints(self, graph: Topology) -> list[tuple[Joint, JointWeight]]:
        modules, heard = [self.modules.get(name) for name in self.names], [p.heard for p in self.places]
        alone = {i for i, name in enumerate(self.names) if len(graph.successors[name]) == 1}
        joints = [find_joint(i, modules, heard, alone) for i in range(len(modules))]
        return [
            (joint, JointWeight(modules[joint.matrix], modules[joint.neuron]))  # type: ignore[arg-type]
            for joint in joints
            if joint is not None
        ]

    def _place(self, name: str, number: Mapping[str, int], graph: Topology) -> _Place:
        heard: list[Heard] = []
        for source in graph.predecessors[name]:
            if source not in number:
                heard.append(("outer", self.outer.index((source, name))))
            else:
                heard.append(("last" if (source, name) in graph.delayed else "now", number[source]))
        module = self.modules.get(name)
        return _Place(name, tuple(heard), isinstance(module, Line) and module.shortest >= 1)

    def run(
        self,
        walk: Walk,
        outer: list[Tensor],
        zeros: Mapping[str, Tensor],
        needed: Collection[str],
        surrogate: Surrogate,
        detach_reset: bool,
    ) -> dict[str, Tensor]:
        """All steps.

        Args:
            walk: its states are read and updated, its last values noted.
            outer: per edge of `self.outer` what arrives, [T, B, ...].
            zeros: node -> nothing, [B, ...], for nodes that hear nobody and for late ones.
            needed: nodes whose outputs are wanted.

        Returns:
            node -> [T, B, ...] of the needed ones.
        """
        finish: list[Callable[[], None]] = []
        now = [walk.held.get(place.name, zeros[place.name]) for place in self.places]
        last = now.copy()
        executed = [self._executor(p.name, walk, surrogate, detach_reset, finish) for p in self.places]
        series = [values.unbind() for values in outer]
        arriving = [_arriving(place, series, now, last, zeros) for place in self.places]
        idle = self._use_joints(walk, outer, (now, last), needed, executed, arriving, finish)
        early = [
            (i, executed[i], arriving[i])
            for i, place in enumerate(self.places)
            if not place.late and i not in idle
        ]
        late = [(i, executed[i], arriving[i], p.name) for i, p in enumerate(self.places) if p.late]
        kept = [(i, place.name) for i, place in enumerate(self.places) if place.name in needed]
        outs: dict[str, list[Tensor]] = {name: [] for _, name in kept}
        for t in range(walk.steps):
            last[:] = now
            for i, _, _, name in late:
                now[i] = self.modules[name](zeros[name][None], walk.lines[name])[0][0]
            for i, execute, heard in early:
                now[i] = execute(heard(t))
            for _, execute, heard, _ in late:
                execute(heard(t))
            for i, name in kept:
                outs[name].append(now[i])
        for matrix, source in idle.items():
            now[matrix] = executed[matrix](now[source])
        for store in finish:
            store()
        walk.note(dict(zip(self.names, now, strict=True)))
        return {name: torch.stack(series) for name, series in outs.items()}

    def _use_joints(
        self,
        walk: Walk,
        outer: list[Tensor],
        values: tuple[list[Tensor], list[Tensor]],
        needed: Collection[str],
        executed: list[Step],
        arriving: list[Callable[[int], Tensor]],
        finish: list[Callable[[], None]],
    ) -> dict[int, int]:
        """Put joints where this run allows them; number of each matrix that idles -> its source."""
        idle: dict[int, int] = {}
        for joint, weight in self.joints:
            name, matrix = self.names[joint.neuron], self.names[joint.matrix]
            v = walk.v[name]
            allowed = v.ndim == 2 and v.dtype == torch.float32 and not torch.is_grad_enabled()
            if not allowed or matrix in needed or name in walk.watched:
                continue
            outside = [outer[ref] for kind, ref in self.places[joint.neuron].heard if kind == "outer"]
            state, kept = (v, walk.i.get(name)), values[0][joint.matrix]
            run = run_joint(joint, weight, outside, state, kept, values, walk.steps)
            executed[joint.neuron], arriving[joint.neuron] = run.step, run.heard
            finish.append(functools.partial(_store, walk, name, run.state))
            idle[joint.matrix] = joint.source
        return idle

    def _executor(
        self,
        name: str,
        walk: Walk,
        surrogate: Surrogate,
        detach_reset: bool,
        finish: list[Callable[[], None]],
    ) -> Step:
        """One step of a node, [B, ...] -> [B, ...]; its state is in `walk`, at the latest after `finish`."""
        module = self.modules.get(name)
        if module is None:
            return lambda x: x
        if isinstance(module, Population):
            if torch.is_grad_enabled() or name in walk.watched:
                return _careful(name, module, walk, surrogate, detach_reset)
            step, last = module.stepper(walk.v[name], walk.i.get(name))
            finish.append(functools.partial(_store, walk, name, last))
            return step
        if isinstance(module, Line):

            def line(x: Tensor) -> Tensor:
                out, walk.lines[name] = module(x[None], walk.lines[name])
                return out[0]

            return line
        if isinstance(module, Threshold):
            return lambda x: module(x, surrogate)
        return module.stepper() if isinstance(module, Affine) else module.forward


def _store(walk: Walk, name: str, state: Callable[[], tuple[Tensor, Tensor | None]]) -> None:
    walk.put(name, *state())


def _arriving(
    place: _Place,
    outer: list[tuple[Tensor, ...]],
    now: list[Tensor],
    last: list[Tensor],
    zeros: Mapping[str, Tensor],
) -> Callable[[int], Tensor]:
    """Step -> what arrives at a node; `now` and `last` change under way."""

    def source(kind: str, ref: int) -> Callable[[int], Tensor]:
        if kind == "outer":
            return outer[ref].__getitem__
        values = now if kind == "now" else last
        return lambda t: values[ref]

    if not place.heard:
        return lambda t: zeros[place.name]
    first, *others = (source(*heard) for heard in place.heard)
    if not others:
        return first
    return lambda t: functools.reduce(torch.add, (other(t) for other in others), first(t))


def _careful(name: str, module: Population, walk: Walk, surrogate: Surrogate, detach_reset: bool) -> Step:
    """One step of a population with a gradient, or whose states are recorded."""

    def step(x: Tensor) -> Tensor:
        series, v, i = module(x[None], walk.v[name], walk.i.get(name), surrogate, detach_reset)
        walk.put(name, v, i)
        if name in walk.watched:
            walk.record(name)
        return series[0]

    return step
