"""snnTorch: `import_from_nir`. Its time step is 1e-4 s always, so time is scaled in the graph."""

from __future__ import annotations

from typing import Any

import nir
from torch import Tensor

from peers.target import Network, steps
from peers.units import scale_time

TITLE, PACKAGE = "snnTorch", "snntorch"


def load(graph: nir.NIRGraph, dt: float) -> Network:
    """See `PeerTarget.load`."""
    from snntorch import utils
    from snntorch.import_nir import import_from_nir

    network: Any = import_from_nir(scale_time(graph, 1e-4 / dt))
    run = steps(network)

    def fresh(x: Tensor) -> Tensor:
        utils.reset(network)  # its neurons keep their membranes
        return run(x)

    return fresh
