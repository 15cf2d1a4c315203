"""Networks by name. Adding one: a file and a line in `NETWORKS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from rsc.errors import unknown_name
from rsc.networks.convnet import convnet
from rsc.networks.mlp import mlp
from rsc.networks.sequential import SpikingSequential

NETWORKS: dict[str, Callable[..., SpikingSequential]] = {"convnet": convnet, "mlp": mlp}

__all__ = ["NETWORKS", "NetworkSpec", "SpikingSequential", "build", "convnet", "mlp"]


class NetworkSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which network: name in `NETWORKS`, hidden channels, neuron ("lif" or "relu") and its constants."""

    name: str = "convnet"
    channels: tuple[int, ...] = (16, 32)
    neuron: str = "lif"
    decay: float = 0.5
    surrogate: str = "atan"


def build(spec: NetworkSpec, input_shape: Sequence[int], classes: int) -> SpikingSequential:
    """The network that `spec` names, with fresh weights from torch's global generator (seed it)."""
    if spec.name not in NETWORKS:
        raise unknown_name("network", spec.name, NETWORKS)
    fields = {f: getattr(spec, f) for f in ("channels", "neuron", "decay", "surrogate")}
    return NETWORKS[spec.name](input_shape, classes, **fields)
