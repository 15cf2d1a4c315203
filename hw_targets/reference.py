"""The oracle: NIR interpreted in numpy float64, one step and one node at a time.

Slow and obvious on purpose. The equations are in `rsc.discretise` (neurons), `rsc.stateless`
(everything without state) and `rsc.graph` (order and delays).
"""

from __future__ import annotations

from collections.abc import Mapping

import nir
import numpy as np

from rsc.discretise import EVERY_RULE, NEURONS, SPIKING, Coefficients, coefficients, delay_steps
from rsc.errors import UsageError
from rsc.graph import topology
from rsc.hw_targets.base import State, StepsResult, StreamingModel, refuse_errors
from rsc.hw_targets.reference_check import check_program
from rsc.hw_targets.reference_fire import fire_step
from rsc.program import Program
from rsc.results import Issue, Probe, SpikeRecord, Unavailable
from rsc.shapes import infer_shapes, input_shapes
from rsc.stateless import STATELESS


class ReferenceState(State):
    """float64 arrays."""


class ReferenceTarget:
    """Target `reference`; it takes no options."""

    name, arithmetic = "reference", "float64"

    def __init__(self, *options: str) -> None:
        if options:
            raise UsageError(
                f"Target 'reference' has no option '{options[0]}'.", "It computes in float64.", "Drop it."
            )

    def available(self) -> Unavailable | None:
        """Always available: numpy is all it needs."""
        return None

    def check(self, program: Program) -> list[Issue]:
        """See `check_program`."""
        return check_program(program, EVERY_RULE)

    def compile(self, program: Program) -> ReferenceModel:
        """Prepare the graph; raises UnsupportedNode on any error of `check`."""
        refuse_errors(self.name, self.check(program))
        return ReferenceModel(program)


class ReferenceModel(StreamingModel):
    """A program ready to be stepped in numpy."""

    target, arithmetic, version = "reference", "float64", np.__version__

    def __init__(self, program: Program) -> None:
        self.program = program
        self.graph = topology(program.graph, program.semantics)
        self.shapes = infer_shapes(self.graph)
        self.arriving = input_shapes(self.graph, self.shapes)
        self.coefficients: dict[str, Coefficients] = {
            name: coefficients(node, program.semantics)
            for name, node in self.graph.nodes.items()
            if isinstance(node, NEURONS)
        }
        self.delays = {
            name: np.broadcast_to(delay_steps(node, program.semantics.dt), self.shapes[name])
            for name, node in self.graph.nodes.items()
            if isinstance(node, nir.Delay)
        }

    def initial_state(self, batch: int) -> ReferenceState:
        """All zeros, but for the membranes that start elsewhere by `Semantics.v0`."""

        def zeros(names: Mapping[str, object] | set[str]) -> dict[str, np.ndarray]:
            return {name: np.zeros((batch, *self.shapes[name])) for name in names}

        synaptic = {name for name, c in self.coefficients.items() if c.alpha_syn is not None}
        lines = {
            name: np.zeros((int(steps.max(initial=0)), batch, *self.shapes[name]))
            for name, steps in self.delays.items()
        }
        held = {a for a, _ in self.graph.delayed}
        v = zeros(self.coefficients)
        v |= {name: v[name] + k.v0 for name, k in self.coefficients.items() if k.v0 is not None}
        return ReferenceState(v, zeros(synaptic), zeros(held), lines)

    def _stream(
        self, frames: Mapping[str, np.ndarray], state: ReferenceState | None, probe: Probe
    ) -> tuple[StepsResult, ReferenceState]:
        frames = {name: np.asarray(value, np.float64) for name, value in frames.items()}
        steps, batch = next(iter(frames.values())).shape[:2]
        state = state or self.initial_state(batch)
        history: list[dict[str, np.ndarray]] = []
        states: list[dict[str, np.ndarray]] = []
        watched = probe.states & set(self.coefficients)
        for t in range(steps):
            values, state = self._step({name: value[t] for name, value in frames.items()}, state, batch)
            history.append(values)
            states.append({f"{name}.v": state.v[name] for name in watched})
            states[-1] |= {f"{name}.i": state.i[name] for name in watched & set(state.i)}
        return self._result(history, states, probe), state

    def _step(
        self, frames: Mapping[str, np.ndarray], state: ReferenceState, batch: int
    ) -> tuple[dict[str, np.ndarray], ReferenceState]:
        """All nodes once, in order; returns their outputs and the next state."""
        values: dict[str, np.ndarray] = {}
        v, i = dict(state.v), dict(state.i)
        for name in self.graph.order:
            node = self.graph.nodes[name]
            if self._is_late(name):
                values[name] = self._delayed(name, state.lines[name], np.zeros((batch, *self.shapes[name])))
                continue
            x = frames[name] if name in frames else self._arriving(name, values, state, batch)
            if isinstance(node, NEURONS):
                values[name] = self._neuron(name, x, v, i)
            elif isinstance(node, nir.Delay):
                values[name] = self._delayed(name, state.lines[name], x)
            else:
                values[name] = STATELESS[type(node)](node, x, self.program.semantics)
        lines = {
            name: np.concatenate([line, self._arriving(name, values, state, batch)[None]])[1:]
            for name, line in state.lines.items()
        }
        return values, ReferenceState(v, i, {name: values[name] for name in state.held}, lines)

    def _arriving(
        self, name: str, values: Mapping[str, np.ndarray], state: ReferenceState, batch: int
    ) -> np.ndarray:
        """Sum over the incoming edges; delayed ones hand over the value of the previous step."""
        total = np.zeros((batch, *self.arriving[name]))
        for source in self.graph.predecessors[name]:
            total = total + (state.held[source] if (source, name) in self.graph.delayed else values[source])
        return total

    def _neuron(
        self, name: str, x: np.ndarray, v: dict[str, np.ndarray], i: dict[str, np.ndarray]
    ) -> np.ndarray:
        """One step of a population; writes its new state into `v` and `i` and returns its output."""
        rules, k = self.program.semantics, self.coefficients[name]
        if k.alpha_syn is not None:
            before, i[name] = i[name], k.alpha_syn * i[name] + k.beta_syn * x
            x = i[name] if rules.current == "new" else before
        if k.v_threshold is None:
            v[name] = k.alpha * v[name] + k.beta * x + k.c
            return v[name]
        spikes, v[name] = fire_step(x, v[name], k, rules)
        return spikes

    def _is_late(self, name: str) -> bool:
        """Whether a node delays all its elements, so that its output is known before its input."""
        return name in self.delays and bool((self.delays[name] >= 1).all())

    def _delayed(self, name: str, line: np.ndarray, x: np.ndarray) -> np.ndarray:
        """x(t - d) per element, from the past inputs [D, B, ...] and the present one [B, ...]."""
        past = np.concatenate([line, x[None]])
        index = np.broadcast_to(len(line) - self.delays[name], x.shape)
        return np.take_along_axis(past, index[None], axis=0)[0]

    def _result(
        self, history: list[dict[str, np.ndarray]], states: list[dict[str, np.ndarray]], probe: Probe
    ) -> StepsResult:
        spiking = {name for name, node in self.graph.nodes.items() if isinstance(node, SPIKING)}
        wanted = spiking if probe.counts else spiking & probe.spikes
        trains = {name: np.stack([values[name] for values in history]) for name in wanted}
        keys = states[0] if states else ()
        return StepsResult(
            outputs={name: np.stack([values[name] for values in history]) for name in self.program.outputs},
            spikes=SpikeRecord(
                counts={k: z.sum(0).astype(np.int64) for k, z in trains.items()} if probe.counts else {},
                rasters={k: z > 0 for k, z in trains.items() if k in probe.spikes},
                states={key: np.stack([values[key] for values in states]) for key in keys},
            ),
        )
