"""Follow a network from layer to layer, and note what NIR node each of them is.

The network is copied without its data (tensors of device "meta", so nothing is computed) and called on frames
[T, B, ...]. In the copy, layers that have a NIR form note themselves instead of being computed; what the
network does between them is seen as calls of torch functions (`rsc.export.to_nir_between`).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from rsc.errors import RscError, UnsupportedNode
from rsc.export.to_nir_between import flat_value, follow
from rsc.export.to_nir_graph import GraphBuilder, Value
from rsc.export.to_nir_layers import CARRIED, CONVERTERS, NORMS, REMEDIES, UNCHANGED
from rsc.export.to_nir_neurons import is_neuron, neuron
from rsc.export.to_nir_values import BATCH, Values
from rsc.neurons import LI, LIF

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
Call = Callable[..., Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Traced:
    """What a network gives, how it is reduced over time, and its layers of neurons."""

    output: Value
    readout: Literal["mean", "sum", "last"]
    neurons: list[LIF | LI]


def trace(network: nn.Module, graph: GraphBuilder, steps: int, dt: float) -> Traced:
    """Note a network in a graph.

    Args:
        steps: T of the frames it is called on.

    Raises:
        UnsupportedNode: something in it has no NIR form, or it cannot take such frames.
    """
    network = getattr(network, "_orig_mod", network)  # what torch.compile was given
    tracer = _Tracer(Values(graph, steps), dt)
    blank = tracer.prepare(network)
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    frames = torch.empty(steps, BATCH, *graph.input.shape, dtype=dtype, device="meta")
    tracer.values.note(frames, graph.input)
    try:
        with torch.no_grad(), tracer:
            output = blank(frames)
    except RscError:
        raise
    except Exception as error:
        raise UnsupportedNode(
            f"The network could not be followed{tracer.values.place}.",
            f"On frames of shape {tuple(frames.shape)} without data: {error}",
            "Check input_shape; what a network does must not depend on the values of the frames.",
        ) from error
    value = tracer.values.of(output)
    if value is not None and value.reduced:
        return Traced(value, value.reduced, tracer.neurons)  # type: ignore[arg-type]
    value = tracer.values.usable(output, "The output of the network")
    tracer.values.layout(output)
    return Traced(value, "mean", tracer.neurons)


class _Tracer(TorchFunctionMode):
    """Sees all calls of torch functions; those inside of a layer that notes itself do not count."""

    def __init__(self, values: Values, dt: float) -> None:
        super().__init__()
        self.values, self.dt = values, dt
        self.neurons: list[LIF | LI] = []
        self._within_layers = 0

    def prepare(self, network: nn.Module) -> nn.Module:
        """A copy without data whose layers note themselves when they are called."""
        memo: dict[int, Any] = {}
        for module in network.modules():
            for tensor in (*module._parameters.values(), *module._buffers.values(), *vars(module).values()):
                if isinstance(tensor, Tensor) and id(tensor) not in memo:
                    memo[id(tensor)] = blank = _without_data(tensor)
                    self.values.originals[id(blank)] = tensor
        blank_network = copy.deepcopy(network, memo).eval()
        layers = dict(network.named_modules())
        for path, module in blank_network.named_modules():
            module.forward = partial(self._enter, path, self._call_of(layers[path], path, module.forward))
        return blank_network

    def _enter(self, path: str, call: Call, *args: Any, **kwargs: Any) -> Any:
        self.values.modules.append(path)
        try:
            return call(*args, **kwargs)
        except Exception:
            self.values.failed = self.values.failed or path
            raise
        finally:
            self.values.modules.pop()

    def _call_of(self, layer: nn.Module, path: str, forward: Call) -> Call:
        """What stands for a layer's forward: a note of it, or, where it has no form, the forward itself."""
        if is_neuron(layer):
            return partial(self._layer, self._neuron, layer, path)
        if _is(layer, UNCHANGED):
            return lambda x: x
        if _is(layer, NORMS):
            return partial(self._layer, self._norm, layer, path)
        if _is(layer, (nn.Flatten,)):
            return partial(self._layer, self._flatten, layer, path)
        if _is(layer, tuple(CONVERTERS)):
            return partial(self._layer, partial(self._stateless, forward), layer, path)
        if type(layer).__module__.startswith("torch.nn.modules.") and not isinstance(layer, CONTAINERS):
            return partial(_refuse, layer, path)
        return forward

    def _layer(self, note: Call, layer: nn.Module, path: str, x: Tensor) -> Tensor:
        value = self.values.usable(x, f"The input of a {type(layer).__name__}")
        self._within_layers += 1
        try:
            return note(layer, path, x, value)
        except UnsupportedNode as error:
            named = f"Layer '{path}': {error.what}" if path else error.what
            raise UnsupportedNode(named, error.why, error.fix) from error
        finally:
            self._within_layers -= 1

    def _neuron(self, layer: LIF | LI, path: str, x: Tensor, value: Value) -> Tensor:
        if len(self.values.layout(x)) != 2:
            raise UnsupportedNode(
                f"{type(layer).__name__} neurons are given time and batch in one axis.",
                "They would take samples for steps.",
                "Unfold first, x.unflatten(0, (T, B)), or use SpikingSequential.",
            )
        self.neurons.append(layer)
        kind, node = neuron(layer, value.shape, self.dt)
        given = self.values.graph.add(kind, path, node, value, value.shape)
        return self.values.note(torch.empty_like(x), given)

    def _norm(self, layer: nn.Module, path: str, x: Tensor, value: Value) -> Tensor:
        self.values.layout(x)
        return self.values.note(torch.empty_like(x), self.values.graph.add_norm(path, layer, value))

    def _flatten(self, layer: nn.Flatten, path: str, x: Tensor, value: Value) -> Tensor:
        leading = self.values.layout(x)
        # In an nn.Sequential of layers, which each see all frames, Flatten() leaves T and B alone.
        if layer.start_dim not in {1, len(leading)} or layer.end_dim not in (-1, x.ndim - 1):
            raise UnsupportedNode(
                f"A Flatten joins dims {layer.start_dim} to {layer.end_dim}.",
                "All dims of a sample are joined here.",
                "Use nn.Flatten().",
            )
        return self.values.note(x.reshape(*leading, -1), flat_value(self.values, value, path))

    def _stateless(self, forward: Call, layer: nn.Module, path: str, x: Tensor, value: Value) -> Tensor:
        leading = self.values.layout(x)
        out = forward(x.reshape(-1, *value.shape))
        convert = next(function for kind, function in CONVERTERS.items() if _is(layer, (kind,)))
        kind, node = convert(layer, value.shape)
        given = self.values.graph.add(kind, path, node, value, tuple(out.shape[1:]))
        return self.values.note(out.reshape(*leading, *out.shape[1:]), given)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", str(func))
        if not self._within_layers and name == "__setitem__" and self.values.of(args[0]) is not None:
            raise UnsupportedNode(
                f"Parts of values are set{self.values.place}.", "NIR cannot do that.", "Use layers and sums."
            )
        out = func(*args, **kwargs)
        if self._within_layers or not any(isinstance(x, Tensor) for x in tree_leaves(out)):
            return out
        if any(self.values.of(x) is not None for x in tree_leaves((args, kwargs))):
            follow(self.values, name, args, kwargs, out)
        return out


def _without_data(tensor: Tensor) -> Tensor:
    blank = tensor.detach().to("meta")
    return nn.Parameter(blank, requires_grad=False) if isinstance(tensor, nn.Parameter) else blank


def _is(layer: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether a layer is of one of some types and does what that type does."""
    return any(isinstance(layer, kind) and type(layer).forward is kind.forward for kind in kinds)


def _refuse(layer: nn.Module, path: str, *args: Any, **kwargs: Any) -> Any:
    name = type(layer).__name__
    raise UnsupportedNode(
        f"Layer '{path}' ({name}) cannot be exported." if path else f"Layer {name} cannot be exported.",
        f"NIR carries {CARRIED}.",
        REMEDIES.get(name, "Replace the layer."),
    )
