"""Fan-out maps: how many synapses one event at a site reaches.

The map of an edge is the vector-Jacobian product of its masked linear operator with ones,

    F[site] = sum over outputs of d(output)/d(site),   weights replaced by 1 (structural) or by (w != 0),

which needs no case analysis for borders, stride, dilation, groups or pooling folded in between. It is
evaluated in float64 and is exact below 2^53. Synaptic operations are then the dot product <counts, F>.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import nir
import numpy as np

from rsc.energy.edges import NEURONS, POOLS, SPIKING, WEIGHTED, Edge, Net, open_net
from rsc.errors import UsageError
from rsc.program import Program
from rsc.shapes import Window, window

if TYPE_CHECKING:
    from torch import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class FanOut:
    """Fan-out maps of one edge, int64, in the shape of its source.

    Fields:
        structural: in-bounds synapses per site, zero weights included.
        nonzero: synapses with a weight other than zero.
    """

    edge: Edge
    structural: np.ndarray
    nonzero: np.ndarray


def fan_out(net: Net, edge: Edge, fold: bool = True) -> FanOut:
    """Maps of an edge; with `fold` pooling on the way is part of the synapse, else the map is that of the
    values arriving at the target, in their shape. Made once per net; the arrays are read-only."""
    known = net.maps.get((edge, fold))
    if known is None:
        known = net.maps[edge, fold] = _fan_out(net, edge, fold)
    return known


def _fan_out(net: Net, edge: Edge, fold: bool) -> FanOut:
    nodes = (*edge.path, edge.target) if fold else (edge.target,)
    shape = net.shapes[edge.source] if fold else _arriving_shape(net, edge)
    return FanOut(edge, *(_pullback(net, nodes, shape, nonzero) for nonzero in (False, True)))


def fan_outs(program: Program) -> dict[str, tuple[FanOut, ...]]:
    """Target -> maps of its edges: all into weighted nodes, those from events straight into neurons.

    Raises:
        UnsupportedNode, InputRefused: the graph cannot be counted.
    """
    net = open_net(program)
    found: dict[str, tuple[FanOut, ...]] = {}
    for name, edges in net.arrivals.items():
        node = net.nodes[name]
        kept = edges if isinstance(node, WEIGHTED) else tuple(e for e in edges if _sends(net, e.source))
        if isinstance(node, (*WEIGHTED, *NEURONS)) and kept:
            found[name] = tuple(fan_out(net, edge) for edge in kept)
    return found


def _sends(net: Net, name: str) -> bool:
    """Whether a node can send events."""
    return name in net.inputs or isinstance(net.nodes[name], SPIKING)


def emitter_fan_outs(program: Program) -> dict[str, np.ndarray]:
    """Spiking node or Input -> int64 map of all synapses that one event reaches, for `synops_loss`."""
    net = open_net(program)
    total: dict[str, np.ndarray] = {}
    for maps in fan_outs(program).values():
        for found in maps:
            source = found.edge.source
            if _sends(net, source):
                total[source] = total.get(source, 0) + found.structural
    return total


def synops_loss(spikes: Mapping[str, Tensor], fan_out: Mapping[str, np.ndarray | Tensor]) -> Tensor:
    """Mean number of synaptic operations per sample, differentiable in the spikes.

    Args:
        spikes: node -> [T, B, ...], 0 or 1 (with a surrogate gradient behind).
        fan_out: node -> map in the shape [...], see `emitter_fan_outs`.

    Returns:
        Scalar sum over nodes, steps and sites of s * F, divided by B.
    """
    import torch

    if not spikes:
        raise UsageError("synops_loss got no spikes.", "The mapping is empty.", "Give node -> [T, B, ...].")
    missing = sorted(set(spikes) - set(fan_out))
    if missing:
        raise UsageError(
            f"There is no fan-out map for '{missing[0]}'.",
            f"Maps: {', '.join(sorted(fan_out))}.",
            "Give spikes of emitters that feed synapses.",
        )
    terms = []
    for name, s in spikes.items():
        f = torch.as_tensor(fan_out[name], device=s.device).to(s.dtype)
        if tuple(f.shape) != tuple(s.shape[2:]):
            raise UsageError(
                f"Spikes of '{name}' have shape {tuple(s.shape)}.",
                f"The fan-out map is {tuple(f.shape)}.",
                "Give [T, B, ...].",
            )
        terms.append((s * f).sum() / s.shape[1])
    return torch.stack(terms).sum()


def _arriving_shape(net: Net, edge: Edge) -> tuple[int, ...]:
    return net.shapes[edge.path[-1] if edge.path else edge.source]


def _pullback(net: Net, nodes: tuple[str, ...], shape: tuple[int, ...], nonzero: bool) -> np.ndarray:
    import torch

    with torch.enable_grad():
        x = torch.ones((1, *shape), dtype=torch.float64, requires_grad=True)
        y = x
        for name in nodes:
            y = apply_mask(net, name, y, nonzero)
        (gradient,) = torch.autograd.grad(y.sum(), x)
    found = np.rint(gradient[0].numpy()).astype(np.int64)
    found.setflags(write=False)
    return found


def apply_mask(net: Net, name: str, x: Tensor, nonzero: bool) -> Tensor:
    """One node with its weights replaced by a mask; neurons and markers pass their input on."""
    import torch
    from torch.nn import functional

    node = net.nodes[name]
    match node:
        case nir.Affine() | nir.Linear():
            w = _mask(node.weight, nonzero, x)
            return functional.linear(x, w) if w.ndim == 2 else torch.matmul(w, x[..., None])[..., 0]
        case nir.Conv1d() | nir.Conv2d():
            return _convolve(node, x, nonzero)
        case nir.SumPool2d() | nir.AvgPool2d():
            view = window(node)
            x = functional.pad(x, pads(view))
            return functional.avg_pool2d(x, view.kernel, view.stride, divisor_override=1)  # type: ignore[arg-type]
        case nir.Flatten():
            return x.reshape(len(x), *net.shapes[name])
        case nir.Scale():
            return x * _mask(node.scale, nonzero, x)
        case _:
            return x


def _convolve(node: Any, x: Tensor, nonzero: bool) -> Tensor:
    from torch.nn import functional

    w, view = _mask(node.weight, nonzero, x), window(node)
    run: Any = functional.conv2d if w.ndim == 4 else functional.conv1d
    return run(functional.pad(x, pads(view)), w, None, view.stride, 0, view.dilation, int(node.groups))


def pads(view: Window) -> list[int]:
    """Padding as torch's pad wants it: last axis first."""
    return [p for axis in reversed(view.padding) for p in axis]


def _mask(values: np.ndarray, nonzero: bool, like: Tensor) -> Tensor:
    import torch

    ones = values != 0 if nonzero else np.ones_like(values)
    return torch.from_numpy(np.array(ones, dtype=np.float64)).to(like.dtype)


def has_pool(net: Net, edge: Edge) -> bool:
    """Whether values are pooled on the way."""
    return any(isinstance(net.nodes[n], POOLS) for n in edge.path)
