"""Which outputs of a node are reached by events: at least one of them through a weight other than zero.

An output is missed if all its active inputs meet zero weights. So every input has a set of outputs that it
misses, as bits, and an output site misses the intersection of the sets of its active inputs:

    missed[site] = AND over taps p, bytes q of TABLE[p, q, byte q of the active channels at site + p]

Eight channels are looked up at once (the method of four Russians), and sites drop out as soon as nothing is
missed there, usually after a few events, so no weighted sum is formed. Exact for all weights.
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


def reached(net: Net, name: str, mask: np.ndarray) -> np.ndarray:
    """Where the non-zero synapses of one node deliver something of `mask`, both bool [N, ...]."""
    plan = _plan(net, name)
    found = (
        _masked(net, name, part) if plan is None else _unpacked(plan, *_missed(plan, part), len(part))
        for part in _chunks(net, name, mask)
    )
    return np.concatenate([np.zeros((0, *net.shapes[name]), dtype=bool), *found])


def reached_counts(net: Net, name: str, mask: np.ndarray) -> np.ndarray:
    """How many outputs `reached` finds in each of N, int64 [N]."""
    plan = _plan(net, name)
    found = [np.zeros(0, dtype=np.int64)]
    for part in _chunks(net, name, mask):
        if plan is None:
            found.append(_flat(_masked(net, name, part)).sum(1, dtype=np.int64))
            continue
        sites, bits = _missed(plan, part)
        missed = np.bitwise_count(bits).sum(0, dtype=np.int64) * plan.times
        per_frame = math.prod(plan.output)
        lost = np.bincount(sites // per_frame, weights=missed, minlength=len(part))
        found.append(per_frame * len(plan.live) - lost.astype(np.int64))
    return np.concatenate(found)


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What does not depend on the events.

    Fields:
        table: uint64 [taps, bytes, words, 256], live outputs that all channels of a byte miss.
        channels: axis of the channels, not counting the first one: 0 of a convolution, else the last.
        outputs: number of output channels; output: sites of each.
        padding, stride, offsets: of the window; offsets int64 [taps, axes], the nearest to its middle first.
        live: channels of the output that have a weight other than zero; the others are never reached.
        times: outputs that one bit stands for: all live ones where none of their weights is zero, else 1.
    """

    table: np.ndarray
    channels: int
    outputs: int
    output: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    stride: tuple[int, ...]
    offsets: np.ndarray
    live: np.ndarray
    times: int


def _plan(net: Net, name: str) -> Plan | None:
    """The plan of a node, made once per net; None if only the masked operator itself will do."""
    key = ("reach", name)
    if key not in net.maps:
        net.maps[key] = _make_plan(net, name)
    return net.maps[key]


def _make_plan(net: Net, name: str) -> Plan | None:
    node, shape = net.nodes[name], net.shapes[name]
    match node:
        case nir.Conv1d() | nir.Conv2d() if int(node.groups) == 1:
            view = window(node)
            grid = np.stack(np.meshgrid(*map(np.arange, view.kernel), indexing="ij"), -1).reshape(
                -1, len(view.kernel)
            )
            order = np.argsort(np.abs(grid - (np.array(view.kernel) - 1) / 2).sum(1), kind="stable")
            zero = np.asarray(node.weight).reshape(*node.weight.shape[:2], -1)[:, :, order] == 0
            offsets = grid[order] * np.array(view.dilation)
            where = (0, shape[0], shape[1:], view.padding, view.stride, offsets)
        case nir.Affine() | nir.Linear() if node.weight.ndim == 2:
            axes = len(shape) - 1
            zero = np.asarray(node.weight)[:, :, None] == 0
            where = (axes, shape[-1], shape[:-1], ((0, 0),) * axes, (1,) * axes, np.zeros((1, axes), int))
        case _:
            return None
    live = np.flatnonzero(~zero.all((1, 2)))
    dense = not zero[live].any()
    kept = zero[live[:1]] if dense else zero[live]
    return Plan(_table(kept), *where, live, len(live) if dense else 1)


def _table(zero: np.ndarray) -> np.ndarray:
    """Outputs missed per tap, byte of channels and value of it, from zero bool [outputs, channels, taps]."""
    outputs, channels, taps = zero.shape
    words, sets = max(1, math.ceil(outputs / 64)), np.ones((taps, -(-channels // 8) * 8, outputs), dtype=bool)
    sets[:, :channels] = zero.transpose(2, 1, 0)
    bits = _packed(sets, words).reshape(taps, -1, 8, words)
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


def _missed(plan: Plan, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Output sites [K] where live outputs are missed, and which, uint64 [words, K]; sites count over N."""
    packed = _bytes(np.moveaxis(mask, 1 + plan.channels, 0).view(np.uint8))
    if plan.times > 1:  # then any event will do, of whatever channel
        packed = np.bitwise_or.reduce(packed, axis=0, keepdims=True)
    padded = np.pad(packed, ((0, 0), (0, 0), *plan.padding))
    strides = [math.prod(padded.shape[k + 1 :]) for k in range(1, padded.ndim)]
    read = np.zeros((1,) * (padded.ndim - 1), dtype=np.int64)
    steps = zip((len(mask), *plan.output), (1, *plan.stride), strides, strict=True)
    for axis, (size, step, stride) in enumerate(steps):
        read = read + np.arange(size).reshape(-1, *(1,) * (read.ndim - axis - 1)) * (step * stride)
    flat, read = padded.reshape(len(padded), -1), read.ravel()
    sites, bits = np.arange(read.size), np.repeat(plan.table[0, 0, :, :1], read.size, axis=1)
    for tap, offset in enumerate(plan.offsets @ np.array(strides[1:], dtype=np.int64)):
        for byte, values in enumerate(flat):
            bits &= plan.table[tap, byte].take(values[read + offset], axis=1)
            left = bits.any(0)
            if np.count_nonzero(left) <= 0.75 * left.size:
                read, sites, bits = read[left], sites[left], bits[:, left]
            if not sites.size:
                return sites, bits
    return sites, bits


def _bytes(values: np.ndarray) -> np.ndarray:
    """Eight channels to the byte, [C / 8, ...], from 0 or 1 in uint8 [C, ...].

    numpy's packbits takes four times as long along the first axis.
    """
    packed = np.zeros((-(-len(values) // 8), *values.shape[1:]), dtype=np.uint8)
    for k in range(7, -1, -1):
        part = values[k::8]
        packed <<= 1
        packed[: len(part)] |= part
    return packed


def _unpacked(plan: Plan, sites: np.ndarray, bits: np.ndarray, frames: int) -> np.ndarray:
    """bool [frames, ...] from the outputs that are missed."""
    shape = (frames, *plan.output, plan.outputs)
    found = np.zeros((math.prod(shape[:-1]), plan.outputs), dtype=bool)
    found[:, plan.live] = True
    each = np.ascontiguousarray(bits.T).view(np.uint8)
    missed = np.unpackbits(each, axis=1, bitorder="little", count=None if plan.times > 1 else len(plan.live))
    found[sites[:, None], plan.live] = missed[:, :1] == 0 if plan.times > 1 else missed == 0
    return np.moveaxis(found.reshape(shape), -1, 1 + plan.channels)


def _masked(net: Net, name: str, mask: np.ndarray) -> np.ndarray:
    """By the operator itself with its weights replaced by (w != 0); sums of ones are exact in float32."""
    import torch

    with torch.no_grad():
        x = torch.from_numpy(np.array(mask, dtype=np.float32))
        return (apply_mask(net, name, x, nonzero=True) > 0).numpy()


def _chunks(net: Net, name: str, mask: np.ndarray) -> Iterator[np.ndarray]:
    size = max(1, CHUNK // (math.prod(mask.shape[1:]) + math.prod(net.shapes[name])))
    return (mask[k : k + size] for k in range(0, len(mask), size))


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)
