"""A program as a PyTorch module: layer by layer over all steps, step by step only inside cycles.

No state is kept in the module: `run` takes a state and returns the next one.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator, Mapping

import nir
import torch
from torch import Tensor, nn

from rsc.discretise import NEURONS
from rsc.errors import UsageError
from rsc.graph import topology
from rsc.hw_targets.torch_neurons import Line, Population, Threshold
from rsc.hw_targets.torch_ops import STATELESS
from rsc.hw_targets.torch_state import TorchRun, TorchState, Walk, add, is_static
from rsc.neurons.surrogate import SURROGATES, Surrogate
from rsc.program import Program
from rsc.shapes import infer_shapes, input_shapes


class TorchModule(nn.Module):
    """Executes the graph of a program; differentiable in its input.

    Attributes that may be set at any time; they change gradients and speed, never the forward pass:
        surrogate: derivative of the spike in v - v_threshold; one of `SURROGATES` or your own.
        detach_reset: drop the gradient that flows through the reset.
        chunk_bytes: `forward` cuts the batch so that one layer's values stay below it; None is 16 MiB
            on a CPU (the size of a cache: measured x1.5 forward, x2 backward over 256 MiB), 1 GiB on CUDA.

    Args:
        program: checked before (`TorchTarget.check`).
        dtype: float32 or float64.
    """

    _anchor: Tensor

    def __init__(self, program: Program, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.program = program
        self.surrogate: Surrogate = SURROGATES["atan"]
        self.detach_reset = True
        self.chunk_bytes: int | None = None
        self.graph = topology(program.graph, program.semantics)
        self.shapes = infer_shapes(self.graph)
        self.arriving = input_shapes(self.graph, self.shapes)
        lowered = {name: self._lower(name, dtype) for name in self.graph.nodes}
        self._lowered = {name: module for name, module in lowered.items() if module is not None}
        self.layers = nn.ModuleList(self._lowered.values())
        self.register_buffer("_anchor", torch.empty(0, dtype=dtype), persistent=False)
        self._recurrent = {part for part in self.graph.components if self.graph.is_recurrent(part)}
        self._last_use = self._last_uses()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._anchor.device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self._anchor.dtype

    def forward(self, frames: Tensor) -> Tensor:
        """Frames [T, B, ...] of the only Input -> values [T, B, ...] of the only Output, from the zero state.

        Raises:
            UsageError: the graph has several inputs or outputs (use `run`).
        """
        inputs, outputs = self.program.inputs, self.program.outputs
        if len(inputs) != 1 or len(outputs) != 1:
            raise UsageError(
                f"The program has {len(inputs)} inputs and {len(outputs)} outputs.",
                "Calling the module takes one tensor and returns one.",
                "Use its method run.",
            )
        parts = [
            self.run({inputs[0]: part}, keep=outputs).values[outputs[0]]
            for part in frames.split(self.batch_size(len(frames)), 1)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def batch_size(self, steps: int) -> int:
        """How many samples at once keep the values of the widest layer within `chunk_bytes`."""
        sample = steps * max(map(math.prod, self.shapes.values())) * torch.finfo(self.dtype).bits // 8
        limit = self.chunk_bytes or (1 << 24 if self.device.type == "cpu" else 1 << 30)
        return max(1, limit // max(sample, 1))

    def initial_state(self, batch: int) -> TorchState:
        """All zeros, but for the membranes that start elsewhere by `Semantics.v0`; on the module's device."""
        v, i, lines = {}, {}, {}
        for name in self.graph.nodes:
            module = self._module(name)
            if isinstance(module, Population):
                v[name] = self._zeros(batch, *self.shapes[name])
                if "v0" in module.k:
                    v[name] = v[name] + module.k["v0"]
                if module.synaptic:
                    i[name] = self._zeros(batch, *self.shapes[name])
            elif isinstance(module, Line):
                lines[name] = self._zeros(module.longest, batch, *self.shapes[name])
        held = {source: self._zeros(batch, *self.shapes[source]) for source, _ in self.graph.delayed}
        return TorchState(v, i, held, lines)

    def run(
        self,
        frames: Mapping[str, Tensor],
        state: TorchState | None = None,
        keep: Collection[str] | None = None,
        count: Collection[str] = (),
        states: Collection[str] = (),
    ) -> TorchRun:
        """Run frames from `state`; a long recording may come in chunks.

        Args:
            frames: Input node -> [T, B, ...]. Frames expanded over T (stride 0) are computed once up
                to the first neuron.
            keep: nodes whose outputs are returned; the Output nodes by default.
            count: nodes whose outputs are returned summed over the steps.
            states: neuron nodes whose states are returned.
        """
        with _full_precision(self.device):
            return self._run(frames, state, keep, count, states)

    def _run(
        self,
        frames: Mapping[str, Tensor],
        state: TorchState | None,
        keep: Collection[str] | None,
        count: Collection[str],
        states: Collection[str],
    ) -> TorchRun:
        steps, batch = next(iter(frames.values())).shape[:2]
        keep = set(self.program.outputs) if keep is None else set(keep)
        walk = Walk(steps, batch, frames, state or self.initial_state(batch), frozenset(states))
        for position, component in enumerate(self.graph.components):
            if component in self._recurrent:
                self._step_by_step(component, walk)
            else:
                (name,) = component
                walk.values[name] = self._execute(name, self._input(name, walk), walk)
            for name in component:
                walk.close(name, name in count)
            for name in self._last_use.get(position, ()):
                if name not in keep:
                    del walk.values[name]
        return TorchRun(
            {name: walk.values[name] for name in keep}, walk.counts, walk.recorded(), walk.state()
        )

    def _lower(self, name: str, dtype: torch.dtype) -> nn.Module | None:
        node, semantics = self.graph.nodes[name], self.program.semantics
        if isinstance(node, nir.Input | nir.Output):
            return None
        if isinstance(node, NEURONS):
            return Population(node, semantics, dtype)
        if isinstance(node, nir.Delay):
            return Line(node, semantics, self.shapes[name])
        if isinstance(node, nir.Threshold):
            return Threshold(node, semantics, dtype)
        return STATELESS[type(node)](node, dtype)

    def _module(self, name: str) -> nn.Module | None:
        return self._lowered.get(name)

    def _last_uses(self) -> dict[int, list[str]]:
        """Position of a component -> nodes that nobody reads after it."""
        position = {name: i for i, part in enumerate(self.graph.components) for name in part}
        found: dict[int, list[str]] = {}
        for name, readers in self.graph.successors.items():
            last = max((position[reader] for reader in readers), default=position[name])
            found.setdefault(max(last, position[name]), []).append(name)
        return found

    def _zeros(self, *shape: int) -> Tensor:
        return self._anchor.new_zeros(shape)

    def _input(self, name: str, walk: Walk) -> Tensor:
        """What arrives at a node over all steps, [T, B, ...]."""
        if name in walk.frames:
            return walk.frames[name]
        total: Tensor | None = None
        for source in self.graph.predecessors[name]:
            series = walk.series(source, (source, name) in self.graph.delayed)
            total = series if total is None else add(total, series)
        if total is None:
            total = self._zeros(walk.batch, *self.arriving[name]).expand(
                walk.steps, walk.batch, *self.arriving[name]
            )
        return total

    def _execute(self, name: str, x: Tensor, walk: Walk) -> Tensor:
        """Run one node over x [T, B, ...] from its state in `walk`, which is updated."""
        module = self._module(name)
        if module is None:
            return x
        if isinstance(module, Population):
            return self._populate(name, module, x, walk)
        if isinstance(module, Line):
            out, walk.lines[name] = module(x, walk.lines[name])
            return out
        arguments = (self.surrogate,) if isinstance(module, Threshold) else ()
        if is_static(x):
            once = module(x[0], *arguments)
            return once.expand(len(x), *once.shape)
        return module(x.flatten(0, 1), *arguments).unflatten(0, x.shape[:2])

    def _populate(self, name: str, module: Population, x: Tensor, walk: Walk) -> Tensor:
        watched = name in walk.watched
        outs = []
        for part in x.split(1) if watched else (x,):
            out, walk.v[name], i = module(
                part, walk.v[name], walk.i.get(name), self.surrogate, self.detach_reset
            )
            outs.append(out)
            if i is not None:
                walk.i[name] = i
            if watched:
                walk.record(name)
        return torch.cat(outs) if watched else outs[0]

    def _step_by_step(self, component: tuple[str, ...], walk: Walk) -> None:
        """Run a cycle: all its nodes once per step."""
        inside = set(component)
        outer = {
            edge: walk.series(edge[0], edge in self.graph.delayed)
            for edge in self.graph.edges
            if edge[1] in inside and edge[0] not in inside
        }
        outs: dict[str, list[Tensor]] = {name: [] for name in component}
        last = {name: walk.held[name] for name in inside & set(walk.held)}
        late = {
            name: m for name in component if isinstance(m := self._module(name), Line) and m.shortest >= 1
        }
        for t in range(walk.steps):
            now: dict[str, Tensor] = {}
            for name, module in late.items():
                line = walk.lines[name]
                now[name] = module(torch.zeros_like(line[:1]), line)[0][0]
            for name in component:
                if name not in now:
                    x = self._gather(name, t, now, last, outer, walk)
                    now[name] = self._execute(name, x[None], walk)[0]
            for name in late:
                self._execute(name, self._gather(name, t, now, last, outer, walk)[None], walk)
            last = {name: now[name] for name in last}
            for name in component:
                outs[name].append(now[name])
        walk.values.update({name: torch.stack(series) for name, series in outs.items()})

    def _gather(
        self,
        name: str,
        t: int,
        now: Mapping[str, Tensor],
        last: Mapping[str, Tensor],
        outer: Mapping[tuple[str, str], Tensor],
        walk: Walk,
    ) -> Tensor:
        """What arrives at a node of a cycle at step t, [B, ...]."""
        total: Tensor | None = None
        for source in self.graph.predecessors[name]:
            edge = (source, name)
            if edge in outer:
                value = outer[edge][t]
            else:
                value = last[source] if edge in self.graph.delayed else now[source]
            total = value if total is None else total + value
        return self._zeros(walk.batch, *self.arriving[name]) if total is None else total


@contextlib.contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Keep cuDNN from rounding float32 products to TF32, which would flip spikes."""
    if device.type != "cuda":
        yield
        return
    flags = torch.backends.cudnn
    with flags.flags(
        flags.enabled, flags.benchmark, flags.benchmark_limit, flags.deterministic, allow_tf32=False
    ):
        yield
