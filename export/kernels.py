"""Convolutions one behind the other as a single one, where one of the two takes pixels as they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import nir
import numpy as np

from rsc.shapes import window

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """A convolution without bias; weight [C_out, C_in/groups, Kh, Kw], pairs are (h, w)."""

    weight: np.ndarray
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    @property
    def pointwise(self) -> bool:
        """Whether every output hears a single pixel, and none from outside."""
        return self.weight.shape[2:] == (1, 1) and self.padding == (0, 0) and self.groups == 1


def kernel_of(node: nir.Conv2d) -> Kernel | None:
    """The kernel of a node; None where it pads one side more than the other."""
    view = window(node)
    if any(before != after for before, after in view.padding):
        return None
    padding = pair([before for before, _ in view.padding])
    weight = np.asarray(node.weight, np.float64)
    return Kernel(weight, pair(view.stride), padding, pair(view.dilation), int(node.groups))


def joined_kernel(nodes: Iterable[Any]) -> Kernel | None:
    """Convolutions in the order of the flow as one; None where there is no such kernel."""
    made: Kernel | None = None
    for node in nodes:
        kernel = kernel_of(node)
        made = kernel if made is None or kernel is None else join(made, kernel)
        if made is None:
            return None
    return made


def join(first: Kernel, second: Kernel) -> Kernel | None:
    """second(first(x)) as one kernel: either hears single pixels, the second, or the first and at every site.

    With y[j] = sum_a B[a] x'[s j] and x'[i] = sum_cu A[a, c, u] x[c, i r + u d - p], the composite is
    y[j] = sum_cu (B A)[c, u] x[c, j s r + u d - p]. Zeros that the second would pad with are those that the
    first makes of zeros. A second that looks around behind a first that pads would see other zeros.
    """
    if first.groups != 1 or second.groups != 1:
        return None
    if second.pointwise:
        weight = np.tensordot(second.weight[:, :, 0, 0], first.weight, 1)
        (a, b), (c, d) = first.stride, second.stride
        return dataclasses.replace(first, weight=weight, stride=(a * c, b * d))
    if first.pointwise and first.stride == (1, 1):
        weight = np.einsum("omhw,mc->ochw", second.weight, first.weight[:, :, 0, 0])
        return dataclasses.replace(second, weight=weight)
    return None


def pair(value: object) -> Pair:
    """(h, w) of a number or two."""
    array = np.broadcast_to(np.asarray(value, np.int64), (2,))
    return int(array[0]), int(array[1])
