"""A trained torch network becomes a NIR graph; batch norm is folded into the weights before it.

The network is followed on tensors without data (`rsc.export.to_nir_trace`), so it may be any module of the
layers that NIR carries: a chain, residual blocks, branches that are added. What it does must not depend on
the values of the frames.
"""

from __future__ import annotations

from torch import nn

from rsc.export.to_nir_graph import GraphBuilder
from rsc.export.to_nir_neurons import rule
from rsc.export.to_nir_trace import trace
from rsc.program import EncoderSpec, Program, Semantics


def to_program(
    network: nn.Module,
    input_shape: tuple[int, ...],
    encoder: EncoderSpec | None,
    *,
    steps: int | None = None,
    dt: float = 1e-3,
    bounds: tuple[float, float] | None = None,
    labels: tuple[str, ...] = (),
) -> Program:
    """Lower a network to the program that is deployed; it is not changed.

    Nodes of a plain chain are numbered by their kind (conv1, lif1, conv2, ...). Those of other networks have
    the path of their module with `_` for `.`, e.g. `stage1_block2_body_neuron1`; of a batch norm that is
    folded, the path of the weights before it.

    Args:
        network: maps frames [T, B, ...] to outputs [T, B, K], or to their mean, sum or last value over time.
            Layers: see `rsc.export.to_nir_layers.CARRIED`. An nn.Sequential of layers is taken as if each
            saw all frames.
        input_shape: (C, H, W) of one frame.
        encoder: how an image becomes frames; None if only ready-made frames are fed.
        steps: T of the frames that the network is followed on; that of the encoder by default, 1 without one.
        dt: time step in seconds; sets tau and has no influence on the spikes.

    Raises:
        UnsupportedNode: a layer or parameter that NIR cannot carry; says which, why, and what to do.
    """
    graph = GraphBuilder(tuple(input_shape), isinstance(network, nn.Sequential))
    traced = trace(network, graph, steps or (1 if encoder is None else encoder.steps), dt)
    semantics = Semantics(
        dt=dt,
        reset=rule(traced.neurons, "reset", "value", "reset rules"),
        comparison=rule(traced.neurons, "comparison", ">", "comparisons"),
        readout=traced.readout,
    )
    return Program(graph.finished(traced.output), semantics, encoder, bounds, labels)
