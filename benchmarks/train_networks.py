"""The networks of `train.py` in every tool: modules from frames [T, B, ...] to logits [B, K].

Each builder imports its tool itself. Nothing but torch is needed at import.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from train_workloads import Workload


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row: how it is built, and what is known of it.

    Fields:
        tool: package that must be installed; ours and torch are the project's own.
        comparison: at which its neurons fire.
        reset_gradient: "detached" or "kept".
        channels_last: memory format of its convolutions.
        keeps_memory: the process keeps freed memory, as that of `rsc train` does.
    """

    build: Callable[[Workload, Variant], nn.Module]
    tool: str
    comparison: str
    reset_gradient: str
    channels_last: bool = False
    keeps_memory: bool = False


class Forward(nn.Module):
    """A network with its parameters, and a function that runs it."""

    def __init__(self, network: Any, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.run = network, run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def stateless(kind: str, weight: Tensor | None, gain: float = 1.0) -> nn.Module:
    """A plain torch layer; its weight times `gain`."""
    if kind == "pool":
        return nn.AvgPool2d(2)
    if kind == "flatten":
        return nn.Flatten()
    assert weight is not None
    m, n = weight.shape[:2]
    layer = nn.Conv2d(n, m, 3, padding=1, bias=False) if kind == "conv" else nn.Linear(n, m, bias=False)
    layer.weight.data = weight * gain
    return layer


def stack(workload: Workload, neurons: Callable[[], nn.Module], gain: float = 1.0) -> list[nn.Module]:
    """All layers; `gain` for the weights of layers that feed neurons."""
    layers = workload.layers()
    return [
        neurons() if kind == "lif" else stateless(kind, weight, 1.0 if i + 1 == len(layers) else gain)
        for i, (kind, weight) in enumerate(layers)
    ]


def over_steps(layers: nn.Module, step: Callable[[Tensor, Any], tuple[Tensor, Any]]) -> nn.Module:
    """A network of one step (frame, state) -> (logits, state), from the state None."""

    def run(x: Tensor) -> Tensor:
        state, logits = None, []
        for frame in x:
            y, state = step(frame, state)
            logits.append(y)
        return torch.stack(logits).mean(0)

    return Forward(layers, run)


def ours(workload: Workload, variant: Variant) -> nn.Module:
    """Time folded into the batch for convolutions, neurons as fused scans that overwrite their currents."""
    from rsc.networks import SpikingSequential
    from rsc.neurons import LIF

    def neurons() -> nn.Module:
        return LIF(
            surrogate="fast_sigmoid",
            comparison=variant.comparison,
            detach_reset=variant.reset_gradient == "detached",
            inplace=True,
        )

    network = SpikingSequential(*stack(workload, neurons))
    return Forward(network, lambda x: network(x).mean(0))


class PlainSpike(torch.autograd.Function):
    """h >= 1 with the surrogate of the workloads."""

    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        ctx.save_for_backward(h)
        return (h >= 1).to(h.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (h,) = ctx.saved_tensors
        return grads[0] / (1 + (h - 1).abs()) ** 2


def plain(workload: Workload, variant: Variant) -> nn.Module:
    """A loop over the steps, written by hand."""
    layers = nn.ModuleList(stack(workload, nn.Identity))
    detached = variant.reset_gradient == "detached"

    def step(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        new = []
        for layer in layers:
            if not isinstance(layer, nn.Identity):
                x = layer(x)
                continue
            h = x if state is None else 0.5 * state[len(new)] + x
            s: Any = PlainSpike.apply(h)
            new.append(h * (1 - (s.detach() if detached else s)))
            x = s
        return x, new

    return over_steps(layers, step)


def norse(workload: Workload, variant: Variant) -> nn.Module:
    """LIFBoxCell; its step is v + (x - v)/2, so the weights that feed neurons are doubled."""
    from norse.torch import LIFBoxCell, LIFBoxParameters, SequentialState

    rate, one = torch.tensor(500.0), torch.tensor(1.0)
    p = LIFBoxParameters(tau_mem_inv=rate, v_th=one, method="super", alpha=1)  # type: ignore[arg-type]
    network = SequentialState(*stack(workload, lambda: LIFBoxCell(p, dt=0.001), gain=2.0))
    return over_steps(network, network)


def snntorch(workload: Workload, variant: Variant) -> nn.Module:
    """Leaky."""
    import snntorch as snn
    from snntorch import surrogate

    def neurons() -> nn.Module:
        grad = surrogate.fast_sigmoid(slope=1)
        rule = {"reset_mechanism": "zero", "reset_delay": False}
        return snn.Leaky(beta=0.5, threshold=1.0, spike_grad=grad, **rule)

    layers = nn.ModuleList(stack(workload, neurons))

    def step(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        state = {} if state is None else state
        for i, layer in enumerate(layers):
            if isinstance(layer, snn.Leaky):
                x, state[i] = layer(x, state[i] if i in state else layer.reset_mem())
            else:
                x = layer(x)
        return x, state

    return over_steps(layers, step)


def spikingjelly(workload: Workload, variant: Variant) -> nn.Module:
    """LIFNode, all layers in multi-step mode."""
    from spikingjelly.activation_based import functional, neuron, surrogate
    from spikingjelly.activation_based import layer as layers

    def neurons() -> nn.Module:
        rule = {"tau": 2.0, "decay_input": False, "v_threshold": 1.0, "v_reset": 0.0, "detach_reset": True}
        return neuron.LIFNode(surrogate_function=surrogate.SuperSpike(alpha=1.0), step_mode="m", **rule)

    def multi(layer: nn.Module) -> nn.Module:
        if isinstance(layer, nn.Conv2d):
            own = layers.Conv2d(
                layer.in_channels, layer.out_channels, 3, padding=1, bias=False, step_mode="m"
            )
        elif isinstance(layer, nn.Linear):
            own = layers.Linear(layer.in_features, layer.out_features, bias=False, step_mode="m")
        elif isinstance(layer, nn.AvgPool2d):
            return layers.AvgPool2d(2, step_mode="m")
        elif isinstance(layer, nn.Flatten):
            return layers.Flatten(step_mode="m")
        else:
            return layer
        own.weight.data = layer.weight.data
        return own

    network = nn.Sequential(*map(multi, stack(workload, neurons)))

    def run(x: Tensor) -> Tensor:
        functional.reset_net(network)
        return network(x).mean(0)

    return Forward(network, run)


class FastSigmoid:
    """The surrogate of the workloads, as sinabs calls it."""

    def __call__(self, v_mem: Tensor, spike_threshold: Tensor) -> Tensor:
        return 1 / (1 + (v_mem - spike_threshold).abs()) ** 2


def sinabs(workload: Workload, variant: Variant) -> nn.Module:
    """LIFSqueeze, samples before steps."""
    from sinabs.activation import MembraneReset, SingleSpike
    from sinabs.layers import LIFSqueeze

    def neurons() -> nn.Module:
        layer = LIFSqueeze(
            tau_mem=1 / math.log(2),
            spike_threshold=torch.tensor(1.0),
            spike_fn=SingleSpike,
            reset_fn=MembraneReset(),
            surrogate_grad_fn=FastSigmoid(),
            norm_input=False,
            batch_size=workload.batch,
        )
        return layer.requires_grad_(False)

    layers = stack(workload, neurons)
    network = nn.Sequential(*layers)

    def run(x: Tensor) -> Tensor:
        for layer in layers:
            if isinstance(layer, LIFSqueeze):
                layer.reset_states()
        logits = network(x.transpose(0, 1).flatten(0, 1))
        return logits.unflatten(0, (workload.batch, -1)).mean(1)

    return Forward(network, run)


PEERS = {
    "norse": Variant(norse, "norse", ">", "kept"),
    "snntorch": Variant(snntorch, "snntorch", ">", "kept"),
    "spikingjelly": Variant(spikingjelly, "spikingjelly", ">=", "detached"),
    "sinabs": Variant(sinabs, "sinabs", ">=", "detached"),
}
OURS = {
    "rsc": Variant(ours, "rsc", ">=", "detached", channels_last=True),
    "rsc, gradient through the reset": Variant(ours, "rsc", ">=", "kept", channels_last=True),
}


def _all(suffix: str, **fields: bool) -> dict[str, Variant]:
    """All tools with other settings of torch or of the process, which any user may choose."""
    return {f"{k}, {suffix}": dataclasses.replace(v, **fields) for k, v in {**OURS, **PEERS}.items()}


VARIANTS: dict[str, Variant] = {
    **OURS,
    "plain loop": Variant(plain, "torch", ">=", "detached"),
    "plain loop, gradient through the reset": Variant(plain, "torch", ">=", "kept"),
    **PEERS,
    **_all("channels_last", channels_last=True),
    **_all("memory kept", keeps_memory=True),
    **_all("channels_last, memory kept", channels_last=True, keeps_memory=True),
}
