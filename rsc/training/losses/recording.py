"""Currents and spikes of a forward pass, through hooks that are gone afterwards."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from rsc.errors import UsageError
from rsc.neurons import Neurons


def spiking_modules(network: nn.Module) -> list[nn.Module]:
    """Spiking layers in module order: neurons that have a surrogate gradient."""
    return [m for m in network.modules() if isinstance(m, Neurons) and hasattr(m, "surrogate")]


def neuron_modules(network: nn.Module) -> list[nn.Module]:
    """Spiking layers in module order; the ReLU layers of a network that has none (an ANN)."""
    return spiking_modules(network) or [m for m in network.modules() if isinstance(m, nn.ReLU)]


def readout_neurons(network: nn.Module) -> list[nn.Module]:
    """The layer of neurons that nothing follows in module order, if there is one."""
    modules = list(network.modules())
    return [m for m in modules if isinstance(m, Neurons) and list(m.modules())[-1] is modules[-1]]


@dataclasses.dataclass(frozen=True, eq=False)
class Recording:
    """What went in and out of the neuron layers, by layer in module order, each in order of calls.

    Fields:
        inputs, outputs: tensors as the layer saw them.
        readout: inputs of the neurons that make the network's outputs, if its last layer is of neurons.
        spiking: whether the layers are spiking (time first) or ReLU (time and batch may be joined).
    """

    inputs: tuple[list[Tensor], ...]
    outputs: tuple[list[Tensor], ...]
    readout: list[Tensor]
    spiking: bool

    def currents(self, steps: int, batch: int) -> tuple[Tensor, ...]:
        """Inputs [B, ...] averaged over time, one per layer and call."""
        return tuple(self._timed(i, steps, batch).mean(0) for layer in self.inputs for i in layer)

    def spikes(self) -> tuple[Tensor, ...]:
        """Outputs [T, B, ...] of spiking layers."""
        return tuple(out for layer in self.outputs for out in layer) if self.spiking else ()

    def _timed(self, value: Tensor, steps: int, batch: int) -> Tensor:
        """`value` as [T, B, ...]."""
        if not self.spiking and len(value) == steps * batch:
            return value.unflatten(0, (steps, batch))
        if tuple(value.shape[:2]) != (steps, batch):
            raise UsageError(
                f"A neuron layer got currents of shape {tuple(value.shape)}.",
                f"They start with T = {steps} and B = {batch}.",
                "Give layers [T, B, ...].",
            )
        return value


@contextlib.contextmanager
def recording(network: nn.Module) -> Iterator[Recording]:
    """Record the neuron layers of `network` while the block runs."""
    modules = neuron_modules(network)
    into = [tuple([] for _ in modules) for _ in range(2)]
    made = Recording(into[0], into[1], [], bool(spiking_modules(network)))
    handles: list[Any] = []
    try:
        for module in readout_neurons(network):
            handles += [module.register_forward_pre_hook(_keep_input(made.readout))]
        for module, inputs, outputs in zip(modules, made.inputs, made.outputs, strict=True):
            handles += [module.register_forward_pre_hook(_keep_input(inputs))]
            handles += [module.register_forward_hook(_keep_output(outputs))]
        yield made
    finally:
        for handle in handles:
            handle.remove()


def _keep_input(into: list[Tensor]) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        into.append(args[0].clone() if getattr(module, "inplace", False) else args[0])

    return hook


def _keep_output(into: list[Tensor]) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        into.append(output[0] if isinstance(output, tuple) else output)

    return hook
