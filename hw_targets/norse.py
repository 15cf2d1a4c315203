"""Target `norse`: the network as Norse imports it from NIR, an independent second opinion.

Options: `float64` (default) or `float32`. The modules and the graph executor are Norse's and
nirtorch's; see `norse_lower` for what is rewritten before and what is set right after the import.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import warnings
from collections.abc import Mapping
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor

from rsc.discretise import RESETTING
from rsc.errors import UsageError
from rsc.hw_targets.base import DeployedModel, StepsResult, refuse_errors
from rsc.hw_targets.norse_lower import KNOWN_RULES, Lowered, lower, norse_issues
from rsc.hw_targets.reference_check import check_program
from rsc.program import Program, walk
from rsc.results import Issue, Probe, SpikeRecord, Unavailable

_DTYPES = {"float64": torch.float64, "float32": torch.float32}


class NorseTarget:
    """Target `norse[:float64|float32]`, on the CPU."""

    name = "norse"

    def __init__(self, *options: str) -> None:
        unknown = [option for option in options if option not in _DTYPES]
        if unknown or len(options) > 1:
            raise UsageError(
                f"Target 'norse' has no option '{':'.join(unknown or options)}'.",
                f"Options: {', '.join(_DTYPES)}, one of them.",
                "Correct it.",
            )
        self.arithmetic = options[0] if options else "float64"

    def available(self) -> Unavailable | None:
        """None if the packages norse and nirtorch are installed."""
        missing = [name for name in ("norse", "nirtorch") if importlib.util.find_spec(name) is None]
        if missing:
            return Unavailable(f"The package '{missing[0]}' is not installed.", f"pip install {missing[0]}")
        return None

    def check(self, program: Program) -> list[Issue]:
        """What is wrong with the program, then what Norse cannot run exactly."""
        issues = check_program(program, KNOWN_RULES)
        if any(issue.severity == "error" for issue in issues):
            return issues
        return issues + norse_issues(program)

    def compile(self, program: Program) -> NorseModel:
        """Rewrite and import; raises UnsupportedNode on any error of `check`."""
        refuse_errors(self.name, self.check(program))
        return NorseModel(program, self.arithmetic)


class NorseModel(DeployedModel):
    """A program as a Norse network.

    Attributes:
        network: what `norse.torch.from_nir` gave: `y, state = network(x, state)` for one step.
    """

    target = "norse"

    def __init__(self, program: Program, arithmetic: str) -> None:
        self.program, self.arithmetic = program, arithmetic
        self.version = importlib.metadata.version("norse")
        self.dtype = _DTYPES[arithmetic]
        self.lowered = lower(program)
        self.network = imported(self.lowered, program, self.dtype)
        nodes = dict(walk(program.graph))
        self.neurons = {n: nodes[n] for n in self.lowered.names if isinstance(nodes[n], RESETTING)}

    def initial_state(self, batch: int) -> Any:
        """The executor's state: every held copy at 0, every neuron where the program starts it."""
        from nirtorch.graph_executor import GraphExecutorState

        state = GraphExecutorState()
        for name, node in self.neurons.items():
            zeros = torch.zeros(batch, *self.lowered.shapes[name], dtype=self.dtype)
            v = zeros
            if self.program.semantics.v0 == "v_leak" and not isinstance(node, nir.IF):
                v = v + _tensor(node.v_leak / self.lowered.gain[name], self.dtype)
            state.state[self.lowered.names[name]] = (_first_state(node, zeros, v),)
        for name, shape in self.lowered.held.items():
            state.cache[name] = torch.zeros(batch, *shape, dtype=self.dtype)
        return state

    def _steps(self, frames: Mapping[str, np.ndarray], probe: Probe) -> StepsResult:
        x = torch.from_numpy(np.array(next(iter(frames.values())))).to(self.dtype)
        state = self.initial_state(x.shape[1])
        outputs: dict[str, list[Tensor]] = {name: [] for name in self.program.outputs}
        rasters: dict[str, list[Tensor]] = {name: [] for name in self.neurons if name in probe.spikes}
        states: dict[str, list[Tensor]] = {}
        counts: dict[str, Tensor] = {}
        with torch.no_grad():
            for frame in x:
                _, state = self.network(frame, state)
                values = {name: state.cache[short] for name, short in self.lowered.names.items()}
                for kept in (outputs, rasters):
                    for name, history in kept.items():
                        history.append(values[name])
                for name in self.neurons if probe.counts else ():
                    counts[name] = values[name] + counts.get(name, 0)
                for key, value in self._states(state, probe).items():
                    states.setdefault(key, []).append(value)
        record = SpikeRecord(
            {name: value.to(torch.int64).numpy() for name, value in counts.items()},
            {name: (torch.stack(history) > 0).numpy() for name, history in rasters.items()},
            {key: _stacked(history) for key, history in states.items()},
        )
        return StepsResult({name: _stacked(history) for name, history in outputs.items()}, record)

    def _states(self, state: Any, probe: Probe) -> dict[str, Tensor]:
        """Membranes in the program's units, synaptic currents as they are, of the probed neurons."""
        found: dict[str, Tensor] = {}
        for name in sorted(probe.states & set(self.neurons)):
            (own,) = state.state[self.lowered.names[name]]
            if isinstance(self.neurons[name], nir.CubaLIF):
                found[f"{name}.i"], own = own[0].v, own[1]
            found[f"{name}.v"] = own.v * _tensor(self.lowered.gain[name], self.dtype)
        return found


def imported(lowered: Lowered, program: Program, dtype: torch.dtype) -> Any:
    """The network that Norse makes of a lowered graph, with exact parameters and a fixed order."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        # norse uses deprecated parts of torch and nirtorch; layers start at random before weights are set.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        import norse.torch

        network: Any = norse.torch.from_nir(lowered.graph, ignore_warnings=True, dt=program.semantics.dt)
    for name, node in lowered.graph.nodes.items():
        _set_exactly(getattr(network, name), node, program.semantics.reset, dtype)
    nodes = {node.name: node for node in network.graph.node_list}
    network.execution_order = [nodes[name] for name in lowered.order]
    return network


def _set_exactly(module: Any, node: Any, reset: str, dtype: torch.dtype) -> None:
    """Put in what the import rounds to float32 or leaves out."""
    import norse.torch.functional.reset as resets

    def tensor(value: Any) -> Tensor:
        return _tensor(value, dtype)

    if isinstance(node, nir.Affine | nir.Linear | nir.Conv2d):
        module.weight.data = tensor(node.weight)
        if not isinstance(node, nir.Linear):
            module.bias.data = tensor(node.bias)
    if not isinstance(node, RESETTING):
        return
    firing = {"v_th": tensor(node.v_threshold), "v_reset": tensor(node.v_reset)}
    if isinstance(node, nir.IF):
        module.p = module.p._replace(**firing)
        return
    cell = module
    if isinstance(node, nir.CubaLIF):
        module.w_in, module.r, cell = tensor(node.w_in), tensor(node.r), module.lif
        synapse = {"tau_mem_inv": 1 / tensor(node.tau_syn), "v_leak": torch.zeros((), dtype=dtype)}
        module.synapse.p = module.synapse.p._replace(**synapse)
    tau = node.tau_mem if isinstance(node, nir.CubaLIF) else node.tau
    leak = {"tau_mem_inv": 1 / tensor(tau), "v_leak": tensor(node.v_leak)}
    method = resets.reset_subtract if reset == "subtract" else resets.reset_value
    cell.p = cell.p._replace(**firing, **leak, reset_method=method)


def _first_state(node: Any, zeros: Tensor, v: Tensor) -> Any:
    """The state of one neuron node as Norse's cells take it: no current, membrane at v."""
    from norse.torch.functional.iaf import IAFFeedForwardState
    from norse.torch.functional.leaky_integrator_box import LIBoxState
    from norse.torch.functional.lif_box import LIFBoxFeedForwardState

    if isinstance(node, nir.IF):
        return IAFFeedForwardState(v)
    if isinstance(node, nir.CubaLIF):
        return LIBoxState(zeros), LIFBoxFeedForwardState(v)
    return LIFBoxFeedForwardState(v)


def _tensor(value: Any, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.array(value, np.float64)).to(dtype)


def _stacked(history: list[Tensor]) -> np.ndarray:
    return torch.stack(history).to(torch.float64).numpy()
