"""Sinabs: `from_nir`, over [B * T, ...]. It counts time constants in time steps."""

from __future__ import annotations

from typing import Any

import nir
from torch import Tensor

from peers.target import Network
from peers.units import scale_time

TITLE, PACKAGE = "Sinabs", "sinabs"


def load(graph: nir.NIRGraph, dt: float) -> Network:
    """See `PeerTarget.load`."""
    from sinabs.nir import from_nir

    scaled, networks = scale_time(graph, 1 / dt), {}

    def run(x: Tensor) -> Tensor:
        steps, batch = x.shape[:2]
        if batch not in networks:
            networks[batch] = from_nir(scaled, batch_size=batch)
        network: Any = networks[batch]
        for module in network.modules():
            if hasattr(module, "reset_states"):
                module.reset_states()
        y = network(x.transpose(0, 1).flatten(0, 1))
        y = y[0] if isinstance(y, tuple) else y
        return y.unflatten(0, (batch, steps)).transpose(0, 1)

    run(_nothing(graph))  # it imports when it knows the batch: fail here if it fails
    return run


def _nothing(graph: nir.NIRGraph) -> Tensor:
    import torch

    (shape,) = (node.input_type["input"] for node in graph.nodes.values() if isinstance(node, nir.Input))
    return torch.zeros(1, 1, *(int(d) for d in shape))
