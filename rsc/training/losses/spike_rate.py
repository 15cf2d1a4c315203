"""Few spikes, or few synaptic operations: differentiable through the surrogate gradient."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from rsc.errors import UsageError
from rsc.training.losses.passes import Passes
from rsc.training.losses.recording import spiking_modules
from rsc.training.losses.term import Need, Term


class SpikeRate(Term, frozen=True, tag="spike_rate", kw_only=True):
    """Mean activity of all neurons over T, B and sites, in [0, 1].

    "neuron": sum of spikes / (T B N), N neurons in all. "fan_out": the synaptic operations they cause,
    sum_i s_i F_i / (T B sum_i F_i), with the exact fan-out F_i of every neuron (`rsc.energy`); 1 means that
    every neuron fires at every step. Networks that cannot be exported have no fan-out maps.

    Fields:
        weighting: which of the two.
    """

    always: ClassVar[frozenset[Need]] = frozenset({"spikes"})
    weight: float = 0.1
    weighting: Literal["neuron", "fan_out"] = "fan_out"

    def value(self, passes: Passes) -> Tensor:
        """The loss of the step."""
        spikes = passes.of(self.on).spikes
        if not spikes:
            raise UsageError(
                "spike_rate found no spikes.", "The network has no spiking neurons.", "Drop the term."
            )
        step = passes.step
        frame = step.x.new_empty((1, *step.frame_shape))
        if self.weighting == "neuron":
            return torch.stack([s.sum() for s in spikes]).sum() / sum(s.numel() for s in spikes)
        return operation_share(
            spikes, passes.shared("fan-out maps", lambda: fan_out_maps(step.network, frame))
        )


def operation_share(spikes: Sequence[Tensor], maps: Sequence[Tensor]) -> Tensor:
    """Synaptic operations of spikes [T, B, ...] over those of neurons that always fire; maps [...]."""
    from rsc.energy import synops_loss

    by_name = {str(k): s for k, s in enumerate(spikes)}
    most = len(spikes[0]) * sum(float(f.sum()) for f in maps)
    return synops_loss(by_name, {str(k): f for k, f in enumerate(maps)}) / most


def fan_out_maps(network: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """Synapses behind every neuron, one map [...] per layer in module order, from the exported graph.

    Args:
        x: [B, C, H, W], of the shape of a frame.

    Raises:
        UnsupportedNode: the network has no NIR form.
        UsageError: its neuron layers are not those of the graph.
    """
    from rsc.energy import emitter_fan_outs
    from rsc.energy.edges import SPIKING
    from rsc.export.to_nir import to_program

    plain = _exportable(copy.deepcopy(network).cpu()).eval()
    program = to_program(plain, tuple(x.shape[1:]), None)
    found = emitter_fan_outs(program)
    layers: dict[str, Any] = {k: n for k, n in program.graph.nodes.items() if isinstance(n, SPIKING)}
    spiking = spiking_modules(network)
    paths = [path.replace(".", "_") for path, module in network.named_modules() if module in spiking]
    names = paths if set(paths) == set(layers) else list(layers)  # a plain chain numbers its nodes in order
    if len(names) != len(spiking):
        raise UsageError(
            "spike_rate cannot tell which fan-out belongs to which layer.",
            f"The network has {len(spiking)} neuron layers, its graph {len(names)}.",
            "Use weighting = 'neuron'.",
        )
    return tuple(
        torch.as_tensor(found.get(name, np.zeros_like(layers[name].v_threshold)), device=x.device).to(x.dtype)
        for name in names
    )


def _exportable(network: nn.Module) -> nn.Module:
    """The network without what is not exported: batch norms that speak to other ranks, a rounded input."""
    for name, child in network.named_children():
        if isinstance(child, nn.SyncBatchNorm):
            setattr(network, name, nn.BatchNorm2d(child.num_features))
        elif getattr(child, "rounds_input", False):
            setattr(network, name, nn.Identity())
        else:
            _exportable(child)
    return network
