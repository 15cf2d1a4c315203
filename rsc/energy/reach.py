"""Which outputs of a node are reached by events: at least one of them through a weight other than zero.

An output is missed if all its active inputs meet zero weights. What tells that depends on the site:

1. no active input in its window: all its outputs are missed;
2. more active inputs than any output has zero weights: none is, as one of them meets another weight;
3. else every input has a set of outputs that it misses, as bits, and the site misses their intersection,

    missed[site] = AND over taps p, bytes q of TABLE[p, q, byte q of the active channels at site + p]

Active inputs are counted in packed bits, so the first two cost a few operations per site instead of per
synapse, and nothing else happens where no weight is zero. In the third, eight channels are looked up at once
(the method of four Russians) and sites drop out as soon as nothing is missed there. Exact for all weights.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import nir
import numpy as np

from rsc.energy.edges import Net
from rsc.energy.fanout import apply_mask
from rsc.shapes import window

CHUNK = 2**22  # input and output sites looked at together
NARROW = 8  # inputs of a group below which its synapses are gone through one by one


def reached(net: Net, name: str, mask: np.ndarray) -> np.ndarray:
    """Where the non-zero synapses of one node deliver something of `mask`, both bool [N, ...]."""
    found = (_reached(net, name, part) for part in _chunks(net, name, mask))
    return np.concatenate([np.zeros((0, *net.shapes[name]), dtype=bool), *found])


def reached_counts(net: Net, name: str, mask: np.ndarray) -> np.ndarray:
    """How many outputs `reached` finds in each of N, int64 [N]."""
    plan, found = _plan(net, name), [np.zeros(0, dtype=np.int64)]
    for part in _chunks(net, name, mask):
        if plan is None:
            found.append(_masked(net, name, part).reshape(len(part), -1).sum(1, dtype=np.int64))
        else:
            each = [group.counted(plan.view, bits) for group, bits in plan.split(part)]
            found.append(np.sum(each, axis=0))
    return np.concatenate(found)


def _reached(net: Net, name: str, mask: np.ndarray) -> np.ndarray:
    plan = _plan(net, name)
    if plan is None:
        return _masked(net, name, mask)
    found = [group.reached(plan.view, bits) for group, bits in plan.split(mask)]
    return np.moveaxis(np.concatenate(found, -1) if len(found) > 1 else found[0], -1, 1 + plan.channels)


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """The window of a node.

    Fields:
        output: sites of an output channel.
        padding, stride: per axis; offsets: of the taps, int64 [taps, axes], the nearest to the middle first.
    """

    output: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    stride: tuple[int, ...]
    offsets: np.ndarray

    def padded(self, sites: np.ndarray) -> np.ndarray:
        """[N, *sites, ...] with zeros around it."""
        rest = ((0, 0),) * (sites.ndim - 1 - len(self.padding))
        return np.pad(sites, ((0, 0), *self.padding, *rest)) if any(map(any, self.padding)) else sites

    def taps(self, padded: np.ndarray) -> Iterator[np.ndarray]:
        """For every tap, what it sees at the output sites, [N, *output, ...]."""
        for offset in self.offsets:
            cut = (
                slice(k, k + (size - 1) * step + 1, step)
                for k, size, step in zip(offset, self.output, self.stride, strict=True)
            )
            yield padded[(slice(None), *cut)]

    def reads(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Where the first tap of every output site lies in a flat array of that (padded) shape, [sites], and
        how far the taps are from there, [taps]; both int64."""
        strides = [math.prod(shape[k + 1 :]) for k in range(len(shape))]
        read = np.zeros((1,) * len(shape), dtype=np.int64)
        steps = zip((shape[0], *self.output), (1, *self.stride), strides, strict=True)
        for axis, (size, step, stride) in enumerate(steps):
            read = read + np.arange(size).reshape(-1, *(1,) * (len(shape) - axis - 1)) * (step * stride)
        return read.ravel(), self.offsets @ np.array(strides[1:], dtype=np.int64)


@dataclasses.dataclass(frozen=True, eq=False)
class Sets:
    """One group of channels by the three rules above; its events come as bits, uint8 [N, *sites, bytes].

    Fields:
        inputs, outputs: how many channels it has.
        live: outputs that have a weight other than zero; the others are never reached.
        zeros: most zero weights of a live output.
        table: uint64 [taps, bytes, words, 256], live outputs that all channels of a byte miss; without taps
            where `zeros` is 0.
        full: uint64 [words], all live outputs.
    """

    inputs: int
    outputs: int
    live: np.ndarray
    zeros: int
    table: np.ndarray
    full: np.ndarray

    def counted(self, view: View, events: np.ndarray) -> np.ndarray:
        """Outputs reached, int64 [N]."""
        silent, some, bits = self.missed(view, events)
        per_frame = math.prod(view.output)
        missed = np.bitwise_count(bits).sum(0, dtype=np.int64)
        lost = np.bincount(some // per_frame, weights=missed, minlength=len(events)).astype(np.int64)
        heard = per_frame - silent.reshape(len(events), -1).sum(1, dtype=np.int64)
        return heard * len(self.live) - lost

    def reached(self, view: View, events: np.ndarray) -> np.ndarray:
        """Where outputs are reached, bool [N, *output, outputs]."""
        silent, some, bits = self.missed(view, events)
        found = np.zeros((silent.size, self.outputs), dtype=bool)
        found[:, self.live] = ~silent[:, None]
        each = np.ascontiguousarray(bits.T).view(np.uint8)
        hit = np.unpackbits(each, axis=1, bitorder="little", count=len(self.live)) == 0
        found[some[:, None], self.live] = hit
        return found.reshape(len(events), *view.output, self.outputs)

    def missed(self, view: View, events: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sites without any active input, bool [N * sites]; the others where live outputs are missed, [K],
        and which, uint64 [words, K]."""
        most = self.inputs * len(view.offsets)
        there = view.padded(_ones(events).astype(np.uint16 if most < 2**16 else np.int64))
        active = np.zeros((len(events), *view.output), dtype=there.dtype)
        for seen in view.taps(there):
            active += seen
        silent = active.ravel() == 0
        some = np.flatnonzero((active.ravel() <= self.zeros) & ~silent) if self.zeros else np.arange(0)
        return silent, *self._look_up(view, view.padded(events), some)

    def _look_up(self, view: View, packed: np.ndarray, some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those of some sites where live outputs are missed, and which."""
        bits = np.repeat(self.full[:, None], some.size, axis=1)
        read, offsets = view.reads(packed.shape[:-1]) if some.size else (some, some)
        flat, read = packed.ravel(), read[some] * packed.shape[-1]
        for table, offset in zip(self.table, offsets * packed.shape[-1], strict=False):
            for byte, sets in enumerate(table):
                if not some.size:
                    return some, bits
                bits &= sets.take(flat.take(read + (offset + byte)), axis=1)
                left = bits.any(0) if len(bits) > 1 else bits[0] != 0
                if np.count_nonzero(left) <= 0.75 * left.size:
                    read, some, bits = read[left], some[left], bits[:, left]
        return some, bits


def _bytes(sites: np.ndarray) -> np.ndarray:
    """Eight channels to the byte, uint8 [..., C / 8] from bool [..., C]; packbits is fastest on one row."""
    channels = sites.shape[-1]
    full = -(-channels // 8) * 8
    if full != channels:
        some, sites = sites, np.zeros((*sites.shape[:-1], full), dtype=bool)
        sites[..., :channels] = some
    flat = np.packbits(np.ascontiguousarray(sites).reshape(-1), bitorder="little")
    return flat.reshape(*sites.shape[:-1], full // 8)


def _ones(packed: np.ndarray) -> np.ndarray:
    """How many bits are set, [...], of uint8 [..., bytes]."""
    counted = np.bitwise_count(_words(packed))
    return counted[..., 0] if counted.shape[-1] == 1 else counted.sum(-1, dtype=np.int32)


def _words(packed: np.ndarray) -> np.ndarray:
    """uint8 [..., bytes] as uint64 [..., words]."""
    if packed.shape[-1] % 8 == 0 and packed.flags.c_contiguous:
        return packed.view(np.uint64)
    words = np.zeros((*packed.shape[:-1], -(-packed.shape[-1] // 8) * 8), dtype=np.uint8)
    words[..., : packed.shape[-1]] = packed
    return words.view(np.uint64)


@dataclasses.dataclass(frozen=True, eq=False)
class Synapses:
    """All groups of a few channels each, by one OR per tap and channel of a group over all outputs at once.

    Its events come as bits, uint8 [channels of a group, N, *sites, bytes]: for every output, whether that
    channel of its group is active.

    Fields:
        outputs: of all groups.
        nonzero: uint64 [channels of a group, taps, words], bits of the outputs with a weight other than zero.
    """

    outputs: int
    nonzero: np.ndarray

    def counted(self, view: View, events: np.ndarray) -> np.ndarray:
        """Outputs reached, int64 [N]."""
        found = np.bitwise_count(self._bits(view, events))
        return found.reshape(len(found), -1).sum(1, dtype=np.int64)

    def reached(self, view: View, events: np.ndarray) -> np.ndarray:
        """Where outputs are reached, bool [N, *output, outputs]."""
        each = self._bits(view, events).view(np.uint8)
        return np.unpackbits(each, axis=-1, bitorder="little", count=self.outputs).view(bool)

    def _bits(self, view: View, events: np.ndarray) -> np.ndarray:
        found = np.zeros((events.shape[1], *view.output, self.nonzero.shape[-1]), dtype=np.uint64)
        for plane, masks in zip(events, self.nonzero, strict=True):
            for seen, mask in zip(view.taps(view.padded(_words(plane))), masks, strict=True):
                found |= seen & mask
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What does not depend on the events.

    Fields:
        channels: axis of the channels, not counting the first one.
        width: channels of a group.
    """

    view: View
    channels: int
    width: int
    groups: tuple[Sets | Synapses, ...]

    def split(self, mask: np.ndarray) -> Iterator[tuple[Sets | Synapses, np.ndarray]]:
        """Every group with its share of the events, bool [N, ...], as bits."""
        sites, width = np.moveaxis(mask, 1 + self.channels, -1), self.width
        if isinstance(self.groups[0], Synapses):
            times = self.groups[0].outputs * width // sites.shape[-1]
            planes = (sites[..., k::width] for k in range(width))
            yield (
                self.groups[0],
                np.stack([_bytes(np.repeat(p, times, -1) if times > 1 else p) for p in planes]),
            )
            return
        packed = _bytes(sites) if width % 8 == 0 or len(self.groups) == 1 else None
        for k, group in enumerate(self.groups):
            if packed is None:
                yield group, _bytes(sites[..., k * width : (k + 1) * width])
            else:
                few = packed.shape[-1] // len(self.groups)
                yield group, packed[..., k * few : (k + 1) * few]


def _plan(net: Net, name: str) -> Plan | None:
    """The plan of a node, made once per net; None if only the masked operator itself will do."""
    key = ("reach", name)
    if key not in net.maps:
        net.maps[key] = _make_plan(net, name)
    return net.maps[key]


def _make_plan(net: Net, name: str) -> Plan | None:
    node, shape = net.nodes[name], net.shapes[name]
    match node:
        case nir.Conv1d() | nir.Conv2d():
            look = window(node)
            grid = np.stack(np.meshgrid(*map(np.arange, look.kernel), indexing="ij"), -1)
            grid = grid.reshape(-1, len(look.kernel))
            order = np.argsort(np.abs(grid - (np.array(look.kernel) - 1) / 2).sum(1), kind="stable")
            zero = np.asarray(node.weight).reshape(*node.weight.shape[:2], -1)[:, :, order] == 0
            offsets = grid[order] * np.array(look.dilation)
            view = View(shape[1:], look.padding, look.stride, offsets)
            return Plan(view, 0, zero.shape[1], _groups(zero, int(node.groups)))
        case nir.Affine() | nir.Linear() if node.weight.ndim == 2:
            axes = len(shape) - 1
            view = View(shape[:-1], ((0, 0),) * axes, (1,) * axes, np.zeros((1, axes), int))
            zero = np.asarray(node.weight)[:, :, None] == 0
            return Plan(view, axes, zero.shape[1], _groups(zero, 1))
    return None


def _groups(zero: np.ndarray, groups: int) -> tuple[Sets | Synapses, ...]:
    """From zero bool [outputs, channels of a group, taps]."""
    if groups > 1 and zero.shape[1] < NARROW:
        words = math.ceil(len(zero) / 64)
        return (Synapses(len(zero), _packed(~zero.transpose(1, 2, 0), words)),)
    return tuple(map(_sets, zero.reshape(groups, -1, *zero.shape[1:])))


def _sets(zero: np.ndarray) -> Sets:
    live = np.flatnonzero(~zero.all((1, 2)))
    kept = zero[live]
    zeros = int(kept.sum((1, 2)).max(initial=0))
    words = max(1, math.ceil(len(live) / 64))
    full = _packed(np.ones((1, len(live)), dtype=bool), words)[0]
    return Sets(zero.shape[1], len(zero), live, zeros, _table(kept if zeros else kept[..., :0], words), full)


def _table(zero: np.ndarray, words: int) -> np.ndarray:
    """Outputs missed per tap, byte of channels and value of it, from zero bool [outputs, channels, taps]."""
    outputs, channels, taps = zero.shape
    sets = np.ones((taps, -(-channels // 8) * 8, outputs), dtype=bool)
    sets[:, :channels] = zero.transpose(2, 1, 0)
    bits = _packed(sets, words).reshape(taps, -(-channels // 8), 8, words)
    table = np.empty((taps, bits.shape[1], 256, words), dtype=np.uint64)
    table[:, :, 0] = _packed(np.ones((1, outputs), dtype=bool), words)
    for k in range(8):
        table[:, :, 2**k : 2 ** (k + 1)] = table[:, :, : 2**k] & bits[:, :, [k]]
    return np.ascontiguousarray(table.swapaxes(2, 3))


def _packed(sets: np.ndarray, words: int) -> np.ndarray:
    """bool [..., outputs] as uint64 [..., words]."""
    packed = np.zeros((*sets.shape[:-1], 8 * words), dtype=np.uint8)
    few = np.packbits(sets, axis=-1, bitorder="little")
    packed[..., : few.shape[-1]] = few
    return packed.view("<u8")


def _masked(net: Net, name: str, mask: np.ndarray) -> np.ndarray:
    """By the operator itself with its weights replaced by (w != 0); sums of ones are exact in float32."""
    import torch

    with torch.no_grad():
        x = torch.from_numpy(np.array(mask, dtype=np.float32))
        return (apply_mask(net, name, x, nonzero=True) > 0).numpy()


def _chunks(net: Net, name: str, mask: np.ndarray) -> Iterator[np.ndarray]:
    size = max(1, CHUNK // (math.prod(mask.shape[1:]) + math.prod(net.shapes[name])))
    return (mask[k : k + size] for k in range(0, len(mask), size))
