"""SpikingJelly: `import_from_nir`, told the time step; all steps at once where it can do that.

It cannot with cycles, and not with SumPool2d, for which nirtorch's own layer is taken.
"""

from __future__ import annotations

from typing import Any

import nir
from torch import Tensor

from peers.target import Network, steps

TITLE, PACKAGE = "SpikingJelly", "spikingjelly"


def load(graph: nir.NIRGraph, dt: float) -> Network:
    """See `PeerTarget.load`."""
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    if any(isinstance(node, nir.SumPool2d) for node in graph.nodes.values()):
        return steps(import_from_nir(graph, dt=dt, step_mode="s"))
    try:
        network: Any = import_from_nir(graph, dt=dt, step_mode="m")
    except NotImplementedError:
        return steps(import_from_nir(graph, dt=dt, step_mode="s"))

    def run(x: Tensor) -> Tensor:
        y = network(x)
        return y[0] if isinstance(y, tuple) else y

    return run
