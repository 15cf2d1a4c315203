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
from rsc.front import Front
from rsc.graph import topology
from rsc.hw_targets.torch_cycle import Cycle
from rsc.hw_targets.torch_neurons import Line, Population, Threshold
from rsc.hw_targets.torch_ops import STATELESS
from rsc.hw_targets.torch_state import TorchRun, TorchState, Walk, add, is_static
from rsc.neurons.surrogates import SURROGATES, Surrogate
from rsc.program import Program
from rsc.shapes import infer_shapes, input_shapes


class TorchModule(nn.Module):
    """Executes the graph of a program; differentiable in its input.

    Attributes that may be set at any time; they change gradients and speed, never the forward pass:
        surrogate: derivative of the spike in v - v_threshold; one of `SURROGATES` or your own.
        detach_reset: drop the gradient that flows through the reset.
        chunk_bytes: a run is cut into tiles of some samples and some steps so that one layer's values stay
            below it; None is 8 MiB on a CPU (they stay in its cache, and the allocator keeps the memory
            between tiles: measured x1.5 forward, x2 backward over 256 MiB), 1 GiB on CUDA.

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
        self._cycles = {
            part: Cycle(part, self.graph, self._lowered)
            for part in self.graph.components
            if self.graph.is_recurrent(part)
        }
        self._last_use = self._last_uses()
        self._chain = self._leading_chain()

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
        return self.run({inputs[0]: frames}, keep=outputs).values[outputs[0]]

    def front(self) -> Front | None:
        """The affine layers between input and first neurons; None where another way leads to these."""
        if len(self._chain) < 3:
            return None
        layers = [self._lowered[name] for name in self._chain[1:-1]]
        (output,), first = self.program.outputs, self._chain[-1]

        def through(x: Tensor) -> Tensor:
            for layer in layers:
                x = layer(x)
            return x

        return Front(through, lambda currents: self.run({first: currents}).values[output])

    def tile(self, steps: int, batch: int, static: bool = False) -> tuple[int, int]:
        """(samples, steps) of the tiles that a run is cut into.

        A tile has few steps of many samples rather than the reverse, so that the work of a step is long
        against the overhead of its calls; `static` frames are computed once and not cut in time.
        """
        site = max(map(math.prod, self.shapes.values())) * torch.finfo(self.dtype).bits // 8
        limit = self.chunk_bytes or (1 << 23 if self.device.type == "cpu" else 1 << 30)
        most = max(1, limit // (site * (steps if static else min(steps, 4))))
        samples = math.ceil(batch / math.ceil(batch / most))  # all tiles alike
        return samples, steps if static else max(1, min(steps, limit // (site * samples)))

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
            frames: Input node -> [T, B, ...] on any device. Frames expanded over T (stride 0) are computed
                once up to the first neuron. Or what arrives at the neuron behind the `front`.
            keep: nodes whose outputs are returned; the Output nodes by default.
            count: nodes whose outputs are returned summed over the steps.
            states: neuron nodes whose states are returned.
        """
        steps, batch = next(iter(frames.values())).shape[:2]
        if state is not None and state.batch not in (None, batch):
            raise UsageError(
                f"The state is of {state.batch} samples, the frames are of {batch}.",
                "A recording goes on with the samples it began with.",
                "Slice the state: state[samples].",
            )
        samples, span = self.tile(steps, batch, all(map(is_static, frames.values())))
        keep = frozenset(self.program.outputs if keep is None else keep)
        parts = []
        with _full_precision(self.device):
            for first in range(0, batch, samples):
                mine = slice(first, first + samples)
                now = state[mine] if state is not None else self.initial_state(min(samples, batch - first))
                runs: list[TorchRun] = []
                for start in range(0, steps, span):
                    tile = {k: self._placed(x[start : start + span, mine]) for k, x in frames.items()}
                    runs.append(self._run(tile, now, keep, frozenset(count), frozenset(states)))
                    now = runs[-1].state
                parts.append(TorchRun.after(runs))
        return TorchRun.beside(parts)

    def _placed(self, frames: Tensor) -> Tensor:
        """Frames on the device; those that do not change stay a view of one step."""
        if is_static(frames):
            return frames[:1].to(self.device, self.dtype).expand(frames.shape)
        return frames.to(self.device, self.dtype)

    def _run(
        self,
        frames: Mapping[str, Tensor],
        state: TorchState,
        keep: frozenset[str],
        count: frozenset[str],
        states: frozenset[str],
    ) -> TorchRun:
        steps, batch = next(iter(frames.values())).shape[:2]
        walk = Walk(steps, batch, frames, state, states)
        passed = self._chain[:-1] if self._chain and self._chain[-1] in frames else ()
        for position, component in enumerate(self.graph.components):
            if component in self._cycles:
                self._step_by_step(self._cycles[component], walk, keep | count)
            elif component[0] not in passed:
                (name,) = component
                walk.values[name] = self._execute(name, self._input(name, walk), walk)
                walk.note({name: walk.values[name][-1]})
            counted = [name for name in component if name in count and name in walk.values]
            walk.counts.update({name: walk.values[name].sum(0) for name in counted})
            for name in self._last_use.get(position, ()):
                if name not in keep:
                    walk.values.pop(name, None)
        return TorchRun(
            {name: walk.values[name] for name in keep}, walk.counts, walk.recorded(), walk.state()
        )

    def _step_by_step(self, cycle: Cycle, walk: Walk, wanted: frozenset[str]) -> None:
        """Run a cycle; keep what nodes outside of it, or the caller, want."""
        delayed, inside = self.graph.delayed, set(cycle.names)
        outer = [walk.series(source, (source, name) in delayed) for source, name in cycle.outer]
        heard = {name for name in cycle.names if not inside.issuperset(self.graph.successors[name])}
        zeros = {name: self._zeros(walk.batch, *self.arriving[name]) for name in cycle.names}
        rule = self.surrogate, self.detach_reset
        walk.values.update(cycle.run(walk, outer, zeros, heard | wanted & inside, *rule))

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

    def _leading_chain(self) -> tuple[str, ...]:
        """The only input, the layers without state behind it, and the first node of another kind.

        Empty if there are several inputs or outputs, or if the way from one to the next is not the only one.
        """
        if len(self.program.inputs) != 1 or len(self.program.outputs) != 1:
            return ()
        chain = [self.program.inputs[0]]
        while len(chain) == 1 or type(self.graph.nodes[chain[-1]]) in STATELESS:
            following = self.graph.successors[chain[-1]]
            alone = len(following) == 1 and self.graph.predecessors[following[0]] == (chain[-1],)
            if not alone or (chain[-1], following[0]) in self.graph.delayed or following[0] in chain:
                return ()
            chain.append(following[0])
        return tuple(chain)

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
            state = walk.v[name], walk.i.get(name)
            out, v, i = module(part, *state, self.surrogate, self.detach_reset)
            walk.put(name, v, i)
            outs.append(out)
            if watched:
                walk.record(name)
        return torch.cat(outs) if watched else outs[0]


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
