"""Synaptic sums of a connection in a layout and in numbers that a CPU multiplies quickly, proven exact.

A layer [C, H, W] lies in memory as [H, W, C], one behind another by sample and step, so that no convolution
reorders its operands; matrices have their rows and columns in that order. Spikes are bytes.

Sums come out as 64 a in float32: whole multiples of 64 whose 64th parts stay below 2^24 with all their parts,
so that every order of adding is exact. Where all products fit, oneDNN multiplies bytes: weights on an even
grid are halved to fit, and two neighbouring products must not exceed 2^15, because AVX2 adds pairs in 16 bits
that saturate. Its kernel is tried on extreme and random values first, and is not used unless it is exact.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rsc.hw_targets.loihi_synapses import WRAP, Synapses
from rsc.layered import CONSTANT, Connection

EXACT = 1 << 24
_UNCHANGED = (1.0, 0, torch.float32, "none", [], "")  # products are given out as they are, in float32
_PAIR = (1 << 15) - 1


@dataclasses.dataclass(frozen=True, eq=False)
class Activity:
    """What a source sends during some steps.

    Fields:
        values: [T, B, ...] in the layout of the source; bool, uint8, or whole numbers in float32 or float64.
        least, most: proven bounds of the values.
    """

    values: Tensor
    least: float
    most: float

    @property
    def folded(self) -> Tensor:
        """[T B, ...]; bool as bytes."""
        x = self.values.flatten(0, 1)
        return x.view(torch.uint8) if x.dtype == torch.bool else x

    def binary(self) -> Activity:
        """1 where something is sent."""
        if self.values.dtype == torch.bool or (self.values.dtype == torch.uint8 and self.most <= 1):
            return self
        return Activity(self.values != 0, 0, 1)


def stored_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """[H, W, C] of [C, H, W]; others as they are."""
    return (*shape[1:], shape[0]) if len(shape) == 3 else shape


def stored(values: Tensor, lead: int) -> Tensor:
    """[..., C, H, W] -> [..., H, W, C] behind `lead` leading axes, contiguous; others as they are."""
    if values.ndim - lead == 3:
        values = values.movedim(lead, -1)
    return values.contiguous()


def restored(values: Tensor, lead: int = 2) -> Tensor:
    """The reverse of `stored`, a view."""
    return values.movedim(-1, lead) if values.ndim - lead == 3 else values


class Drive:
    """A connection on its way to 64 a.

    Args:
        synapses: those that it has to equal.
        channels_last: whether the source lies in memory as `stored` (else in C order).
    """

    def __init__(self, synapses: Synapses, channels_last: bool) -> None:
        self.synapses, self.channels_last = synapses, channels_last
        c = self.connection = synapses.connection
        self.device = synapses.terms[0][1].device
        self.exponent = c.weight_exp if c.kind == "dense" else 0
        self.pooled = math.prod(c.pool[0]) if c.pool else 1
        rows = c.weight.reshape(len(c.weight), -1).astype(np.int64)
        self.positive, self.negative = np.maximum(rows, 0).sum(1), np.maximum(-rows, 0).sum(1)
        self.largest_row = int((self.positive + self.negative).max(initial=0))
        self.heaviest = int(np.abs(rows).max(initial=0))
        self.span = functools.lru_cache(64)(self._span)
        self._bytes: dict[int, _Bytes | None] = {}

    def _span(self, least: float, most: float) -> tuple[int, int]:
        """Proven bounds of a, for values within least..most."""
        least, most = (int(x) * self.pooled for x in (min(least, 0), max(most, 0)))
        low = min(int((self.positive * least - self.negative * most).min(initial=0)), 0)
        high = max(int((self.positive * most - self.negative * least).max(initial=0)), 0)
        shift = self.exponent
        return (low << shift, high << shift) if shift > 0 else (low >> -shift, high >> -shift)

    def fits(self, least: float, most: float) -> bool:
        """Whether 64 a is exact in float32 for such values, and wraps nowhere."""
        largest = max(-least, most) * self.pooled
        sum_most = largest * self.largest_row
        if sum_most >= (EXACT if self.connection.kind == "dense" else WRAP):
            return False
        if self.exponent > 0 and int(sum_most) << self.exponent >= 1 << 31:
            return False  # Lava's int32 wraps
        if self.device.type != "cuda":
            return True
        # As in `Synapses`: TF32 and transforms round there.
        return self.connection.kind == "dense" and max(largest, self.heaviest) < 1 << 11

    def sums(self, source: Activity) -> Tensor:
        """64 a, float32 [N, ...] in the layout of the target, of a source that `fits`."""
        x = source.folded
        if self.connection.pool:
            x = self._pool(x)
        kernel = self._kernel(source.least, source.most)
        y = kernel(x) if kernel is not None else self._product(x.float())
        return y.floor_().mul_(64) if self.exponent < 0 else y

    def integers(self, source: Activity) -> Tensor:
        """a, int32 [T, B, ...] in the layout of the target, of any source."""
        x = source.values
        a = self.synapses.over_time(restored(x) if self.channels_last else x)
        return stored(a, 2)

    def constant(self) -> Tensor:
        """a of the constant 1, int32 [...] in the layout of the target."""
        one = torch.ones((1, 1, 1), dtype=torch.bool, device=self.device)
        return stored(self.synapses.over_time(one)[0, 0], 0)

    def _pool(self, x: Tensor) -> Tensor:
        assert self.connection.pool is not None
        summed = F.avg_pool2d(x.float().movedim(-1, 1), *self.connection.pool, divisor_override=1)
        return summed.movedim(1, -1)

    @functools.cached_property
    def _matrix(self) -> np.ndarray:
        """Weight as `_product` takes it: [out, in] in the layouts of both sides, or [C_out, C_in, Kh, Kw]."""
        c = self.connection
        if c.kind == "conv":
            return c.weight
        weight = c.weight.reshape(len(c.weight), -1)
        shape = self.synapses.shape
        if len(shape) == 3:
            weight = weight.reshape(*shape, -1).transpose(1, 2, 0, 3).reshape(len(weight), -1)
        if c.source != CONSTANT and self.channels_last and len(c.source_shape) == 3:
            channels = c.source_shape[0]
            weight = weight.reshape(len(weight), channels, -1).transpose(0, 2, 1).reshape(len(weight), -1)
        return np.ascontiguousarray(weight)

    @functools.cached_property
    def _weight(self) -> Tensor:
        """Float32, times what makes 64 a of the product (or a, before it is rounded down)."""
        scaled = self._matrix * 2.0 ** (self.exponent + (6 if self.exponent >= 0 else 0))
        weight = torch.from_numpy(scaled).to(self.device, torch.float32)
        return weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight

    def _product(self, x: Tensor) -> Tensor:
        c = self.connection
        if c.kind == "dense":
            y = F.linear(x.flatten(1), self._weight)
            return y.reshape(len(x), *stored_shape(self.synapses.shape))
        x = x.movedim(-1, 1)
        y = F.conv2d(x, self._weight, None, c.stride, c.padding, c.dilation, c.groups)
        return y.movedim(1, -1).contiguous()

    def _kernel(self, least: float, most: float) -> Callable[[Tensor], Tensor] | None:
        """The product in bytes, where it is exact."""
        most = int(most) * self.pooled
        if self.device.type != "cpu" or least < 0 or not 0 < most <= 127:
            return None
        top = 1 if most == 1 else 127
        if top not in self._bytes:
            self._bytes[top] = _Bytes.of(self.connection, self._matrix, self.exponent, top)
        kernel = self._bytes[top]
        if kernel is None:
            return None
        return lambda x: kernel.product(x).reshape(len(x), *stored_shape(self.synapses.shape))


class _Bytes:
    """Products of unsigned and signed bytes through oneDNN, in float32.

    Args:
        weight: int8 [out, in], or [C_out, C_in, Kh, Kw].
        scale: power of two that the whole sums are multiplied by.
    """

    def __init__(self, connection: Connection, weight: Tensor, scale: float) -> None:
        self.c, self.weight, self.scale = connection, weight, scale
        self._ones, self._zeros = torch.ones(len(weight)), torch.zeros(len(weight), dtype=torch.int32)
        self._packed: dict[tuple[int, ...], Tensor] = {}

    @classmethod
    def of(cls, c: Connection, weight: np.ndarray, exponent: int, top: int) -> _Bytes | None:
        """None where weights or sums do not fit, or where oneDNN is not there or not exact.

        Args:
            top: largest value of the source.
        """
        heaviest, halvings = _bytes_of(weight)
        rows = np.abs(weight.reshape(len(weight), -1).astype(np.int64)).sum(1)
        fits = heaviest <= 127 and 2 * top * (heaviest + 1) <= _PAIR and top * int(rows.max()) < EXACT
        if not fits or not torch.backends.mkldnn.is_available():
            return None
        narrow = torch.from_numpy(np.ascontiguousarray(weight >> halvings, np.int8))
        scale = 2.0 ** (halvings + exponent + (6 if exponent >= 0 else 0))
        made = cls(c, narrow, scale)
        return made if made._is_exact(top) else None

    def product(self, x: Tensor) -> Tensor:
        """x: [N, ...] uint8 or whole numbers in 0..127 of another type; channels last for a convolution."""
        if x.dtype != torch.uint8:
            x = x.to(torch.int8).view(torch.uint8)
        if self.weight.ndim == 2:
            return self._linear(x.flatten(1))
        return self._convolve(x.movedim(-1, 1)).movedim(1, -1).contiguous()

    def _linear(self, x: Tensor) -> Tensor:
        if x.shape not in self._packed:
            self._keep(x, torch.ops.onednn.qlinear_prepack(self.weight, list(x.shape)))
        return torch.ops.onednn.qlinear_pointwise(
            x,
            self.scale,
            0,
            self._packed[x.shape],
            self._ones,
            self._zeros,
            None,
            *_UNCHANGED,
        )

    def _convolve(self, x: Tensor) -> Tensor:
        where = [list(self.c.stride), list(self.c.padding), list(self.c.dilation), self.c.groups]
        if x.shape not in self._packed:
            pack = torch.ops.onednn.qconv_prepack
            self._keep(x, pack(self.weight, self._ones, self.scale, 0, *where, list(x.shape)))
        return torch.ops.onednn.qconv2d_pointwise(
            x,
            self.scale,
            0,
            self._packed[x.shape],
            self._ones,
            self._zeros,
            None,
            *where,
            *_UNCHANGED,
        )

    def _keep(self, x: Tensor, packed: Tensor) -> None:
        """oneDNN lays weights out for one shape of input; the last tiles of a run have others."""
        if len(self._packed) >= 8:
            self._packed.clear()
        self._packed[x.shape] = packed

    def _is_exact(self, top: int) -> bool:
        """Whether the kernel is there and multiplies zeros, extremes and random values as float64 does."""
        shape = (4, *self._source_shape())
        x = torch.from_numpy(np.random.default_rng(0).integers(0, top + 1, shape, np.uint8))
        x[0], x[1] = top, top * (x[1] > 0).to(torch.uint8)
        weight = self.weight.double() * self.scale
        c = self.c
        try:
            found = self.product(x)
        except (RuntimeError, AttributeError, NotImplementedError):
            return False
        finally:
            self._packed.clear()
        if self.weight.ndim == 2:
            expected = F.linear(x.flatten(1).double(), weight)
        else:
            expected = F.conv2d(
                x.double().movedim(-1, 1), weight, None, c.stride, c.padding, c.dilation, c.groups
            )
            expected = expected.movedim(1, -1)
        return torch.equal(found.double(), expected)

    def _source_shape(self) -> tuple[int, ...]:
        if self.weight.ndim == 2:
            return (self.weight.shape[1],)
        channels, height, width = self.c.source_shape
        if self.c.pool:
            (kh, kw), (sh, sw) = self.c.pool
            height, width = (height - kh) // sh + 1, (width - kw) // sw + 1
        return height, width, channels


def _bytes_of(weight: np.ndarray) -> tuple[int, int]:
    """(largest magnitude less one for -128, halvings) after halving even weights as far as a byte needs."""
    halvings = 0
    while (weight.min() < -128 or weight.max() > 127) and not (weight % 2).any():
        weight, halvings = weight // 2, halvings + 1
    return int(max(-1 - weight.min(), weight.max(), 0)), halvings
