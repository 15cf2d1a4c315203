"""A population and the matrix that it alone hears, run as one product with a sum per step.

In a cycle most of the time of small networks goes into calls. Here the input from outside, the bias, the
gain and the leak are put together over all steps before; what is left of a step is
`h = driven_t + z (beta W)^T` and the population's own two or three operations. Without gradient, in
float32, over vectors; elsewhere the two nodes are run one after the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from rsc.hw_targets.torch_neurons import Population
from rsc.hw_targets.torch_ops import Affine
from rsc.hw_targets.torch_state import add
from rsc.neurons.scan import Leak, driver

Heard = tuple[Literal["outer", "now", "last"], int]


@dataclasses.dataclass(frozen=True)
class Joint:
    """Numbers of nodes in a cycle.

    Fields:
        neuron, matrix, source: the source is what the matrix hears.
        kind: whether the population hears the source of this step or of the step before.
        held: the delay is behind the matrix, so that the first step hears a value kept of it.
    """

    neuron: int
    matrix: int
    source: int
    kind: Literal["now", "last"]
    held: bool


def find_joint(
    neuron: int, modules: Sequence[nn.Module | None], heard: Sequence[tuple[Heard, ...]], alone: set[int]
) -> Joint | None:
    """The joint of a population, if it hears one matrix of the cycle and nothing else of it.

    Args:
        modules, heard: of all nodes of the cycle; where their input comes from, see `Cycle`.
        alone: nodes that exactly one node hears.
    """
    module = modules[neuron]
    inner = [place for place in heard[neuron] if place[0] != "outer"]
    if not isinstance(module, Population) or not (module.fused or not module.fires) or len(inner) != 1:
        return None
    kind, matrix = inner[0]
    weight, source = modules[matrix], heard[matrix]
    if not isinstance(weight, Affine) or not weight.plain or matrix not in alone or len(source) != 1:
        return None
    before, number = source[0]
    if before == "outer" or before == kind == "last":
        return None
    return Joint(neuron, matrix, number, "last" if "last" in (kind, before) else "now", kind == "last")


@dataclasses.dataclass(frozen=True, eq=False)
class JointRun:
    """One run of a joint.

    Fields:
        step: what arrives, driven -> output of the population.
        heard: step number -> what arrives, driven.
        state: how to get the last state.
    """

    step: Callable[[Tensor], Tensor]
    heard: Callable[[int], Tensor]
    state: Callable[[], tuple[Tensor, Tensor | None]]


class JointWeight:
    """The matrix of a joint times the gain of its population, transposed; made again where it has moved."""

    def __init__(self, matrix: Affine, module: Population) -> None:
        self.matrix, self.module = matrix, module
        self._made: tuple[object, Tensor] | None = None

    def __call__(self) -> Tensor:
        """[in, out], contiguous."""
        weight = self.matrix.weight
        version = 0 if weight.is_inference() else weight._version
        stamp = (weight.data_ptr(), weight.device, version)
        if self._made is None or self._made[0] != stamp:
            gain = Leak(0.0, self.module.entry.beta, 0.0)
            self._made = stamp, driver(weight.detach().t(), gain).contiguous()
        return self._made[1]


def run_joint(
    joint: Joint,
    weight: JointWeight,
    outside: Sequence[Tensor],
    state: tuple[Tensor, Tensor | None],
    kept: Tensor,
    values: tuple[list[Tensor], list[Tensor]],
    steps: int,
) -> JointRun:
    """Prepare a run.

    Args:
        outside: what arrives from outside the cycle, [T, B, n] each.
        state: v and i before the first step.
        kept: last value of the matrix, if `joint.held`.
        values: outputs of all nodes at this step and at the step before, which change under way.
        steps: T.
    """
    entry = weight.module.entry
    v, _ = state
    total = v.new_zeros(()).expand(steps, *v.shape) if not outside else outside[0]
    for series in outside[1:]:
        total = add(total, series)
    first, rest = total[:1], total[1:]
    if joint.held:
        first = first + kept
    elif weight.matrix.bias is not None:
        first = first + weight.matrix.bias
    if weight.matrix.bias is not None:
        rest = rest + weight.matrix.bias
    driven = (*driver(first, entry).unbind(), *driver(rest, entry).unbind())
    product, source = weight(), values[0] if joint.kind == "now" else values[1]

    def heard(t: int) -> Tensor:
        if t == 0 and joint.held:
            return driven[0]
        return torch.addmm(driven[t], source[joint.source], product)

    step, last = weight.module.stepper(*state, driven=True)
    return JointRun(step, heard, last)
