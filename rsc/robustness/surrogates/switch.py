"""Another backward pass on a loaded network: weights are shared, the forward pass stays its own.

Spikes come from the network's own neurons; their membranes are recomputed along those spikes, and the rule
answers for the gradient. Neurons that can be switched: `rsc.neurons.LIF` (and IF) in networks of ours, and
neuron populations of programs in the `torch` target.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from rsc.errors import UsageError
from rsc.hw_targets.torch_module import TorchModule
from rsc.hw_targets.torch_neurons import Population
from rsc.neurons import LIF
from rsc.neurons.integrate import driver
from rsc.neurons.rule import Fire, Leak
from rsc.neurons.scan import leak_scan
from rsc.neurons.surrogates import SURROGATES, surrogate_of
from rsc.robustness.surrogates.rule import GradientRule, Memory, SpikeLayer
from rsc.robustness.surrogates.stbp import Stbp


def shared_copy(module: nn.Module) -> nn.Module:
    """A structural copy whose weights and buffers are the module's own."""
    return copy.deepcopy(module, {id(t): t for t in [*module.parameters(), *module.buffers()]})


def attack_through(module: nn.Module, rule: GradientRule) -> tuple[nn.Module, Memory]:
    """The same network with the backward pass of `rule`, and the memory that the rule keeps.

    Raises:
        UsageError: no neuron can be switched, or one cannot be described by `SpikeLayer`.
    """
    twin, memory = shared_copy(module), Memory()
    for part in twin.modules():
        if isinstance(part, TorchModule):
            _prepare(part, rule)
    found = 0
    for name, part in twin.named_modules():
        if isinstance(part, LIF):
            vars(part)["run"] = _LifRun(part, _Switch(name, rule, memory))
        elif isinstance(part, Population) and part.fires:
            _only_plain(name, part)
            vars(part)["forward"] = _PopulationRun(part, _Switch(name, rule, memory))
        else:
            continue
        found += 1
    if not found:
        raise UsageError(
            f"There are no neurons whose gradient '{rule.title}' could replace.",
            "Only rsc.neurons.LIF and the neurons of the torch target can be switched.",
            "Attack the network with a surrogate that it knows itself.",
        )
    return twin, memory


def _prepare(module: TorchModule, rule: GradientRule) -> None:
    """Whole runs at once, as rules look at all steps; thresholds without memory take a plain surrogate."""
    if any(module.graph.is_recurrent(part) for part in module.graph.components):
        raise UsageError(
            f"Gradient rule '{rule.title}' cannot be used on a recurrent program.",
            "It needs all steps of a layer at once, and these layers hear one another.",
            "Attack it with a plain surrogate (atan, triangle, ...).",
        )
    module.chunk_bytes = 1 << 62
    module.surrogate = surrogate_of(rule.surrogate) if isinstance(rule, Stbp) else SURROGATES["atan"]


def _only_plain(name: str, part: Population) -> None:
    if not part.fused:
        raise UsageError(
            f"The gradient of neuron '{name}' cannot be switched.",
            "It resets late, fires several times a step, or has a lower bound.",
            "Attack it with a plain surrogate (atan, triangle, ...).",
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Switch:
    """What stands in for the backward pass of one layer."""

    name: str
    rule: GradientRule
    memory: Memory

    def spikes(self, drive: Tensor, spikes: Tensor, v0: Tensor | None, leak: Leak, fire: Fire) -> Tensor:
        """The spikes, with the gradient of the rule for the drive."""
        with torch.no_grad():
            h = membranes(drive, spikes, v0, leak, fire)
            layer = SpikeLayer(
                self.name, drive.detach(), h, spikes, _still(leak.alpha), _still(fire.v_threshold), fire.reset
            )
            self.rule.observe(layer, self.memory)
        return _Ruled.apply(drive, layer, self.rule, self.memory)  # type: ignore[return-value]


class _LifRun:
    """Stands in for `LIF.run`."""

    def __init__(self, lif: LIF, switch: _Switch) -> None:
        self.lif, self.switch = lif, switch

    def __call__(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        lif = self.lif
        wanted = torch.is_grad_enabled() and x.requires_grad
        given = x.detach().clone() if wanted and lif.inplace else x.detach() if wanted else x
        with torch.set_grad_enabled(torch.is_grad_enabled() and not wanted):
            spikes, v = type(lif).run(lif, given, state)
        if not wanted:
            return spikes, v
        how: Any = (lif.reset, lif.comparison)
        fire = Fire(_still(lif.level.over(x)), 0.0, *how)
        return self.switch.spikes(x, spikes, state, Leak(_still(lif.leak.over(x)), 1.0, 0.0), fire), v


class _PopulationRun:
    """Stands in for `Population.forward`."""

    def __init__(self, part: Population, switch: _Switch) -> None:
        self.part, self.switch = part, switch

    def __call__(
        self, x: Tensor, v: Tensor, i: Tensor | None, surrogate: Any, detach_reset: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        part = self.part
        wanted = torch.is_grad_enabled() and x.requires_grad
        if not wanted:
            return type(part).forward(part, x, v, i, surrogate, detach_reset)
        with torch.no_grad():
            spikes, after, current = type(part).forward(part, x.detach(), v, i, surrogate, detach_reset)
        if part.synaptic and i is not None:
            before = i
            x, _ = leak_scan(x, i, part.synapse)
            if part.semantics.current == "old":
                x = torch.cat([before[None], x[:-1]])
        leak, fire = part.leak, part.fire(surrogate, detach_reset)
        return self.switch.spikes(driver(x, leak), spikes, v, leak, fire), after, current


class _Ruled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, drive: Tensor, layer: SpikeLayer, rule: GradientRule, memory: Memory) -> Tensor:
        ctx.layer, ctx.rule, ctx.memory = layer, rule, memory
        return layer.spikes.clone()  # a tensor of its own: the context keeps the layer's

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.rule.backward(ctx.layer, grads[0], ctx.memory), None, None, None


def membranes(drive: Tensor, spikes: Tensor, v0: Tensor | None, leak: Leak, fire: Fire) -> Tensor:
    """Membranes before the reset [T, B, ...] along known spikes."""
    h, v = torch.empty_like(drive), torch.zeros_like(drive[0]) if v0 is None else v0
    for t in range(len(drive)):
        h[t] = leak.alpha * v + drive[t]
        v = fire.after(h[t], spikes[t])
    return h


def _still(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
