"""Layers cut into blocks of neurons that each fit one core, and what blocks on a core take of its limits.

The model of the synaptic memory: for each source neuron (input axon) and connection, a core keeps a list of
its synapses into the block, in groups as `rsc.export.chips.SynapseFormat` says. An entry is weight, delay (if
any synapse of the connection waits) and target index; or, if that is cheaper for the connection as a whole,
the list is a run over all neurons of the block, zeros included, without indices. With shared kernels, lists
of a convolution that differ by a shift are kept once.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rsc.errors import UnsupportedNode
from rsc.export.chips import Chip, longest_wait
from rsc.export.placement_counts import Box, Grid, Wiring, sites, volume, wire
from rsc.layered import Connection, Layer, LayeredProgram
from rsc.results import Issue


@dataclasses.dataclass(frozen=True, eq=False)
class Wired:
    """A layer with counted synapses.

    Fields:
        grid: [C, H, W] of its convolution, else [n, 1, 1]; its C order is that of the neurons.
        wirings: (connection, its synapses, delay bits).
        configs, vths: (du, dv) [n, 2] and thresholds [n] of the neurons, or of one for all ([1, 2], [1]).
    """

    layer: Layer
    grid: Grid
    wirings: tuple[tuple[Connection, Wiring, int], ...]
    configs: np.ndarray
    vths: np.ndarray

    def block(self, box: Box, chip: Chip, shared: bool) -> Block:
        """The neurons of a box and what they take; without `shared`, shared lists are not counted."""
        lists, sources = [], {}
        for connection, wiring, delay in self.wirings:
            found = wiring.reach(box, self.grid, shared)
            before = sources.get(connection.source)
            sources[connection.source] = (
                found.sources if before is None else np.union1d(before, found.sources)
            )
            entry = chip.synapses.weight_size(wiring.bits) + delay
            exponent = wiring.exponent + connection.weight_exp
            single = wiring.present.dtype == bool
            lengths, kept = _histogram(found.lengths), _histogram(found.shared)
            lists.append(Lists(entry, (exponent, entry, delay), single, lengths, kept))
        at = sites(box, self.grid)
        configs = self.configs if len(self.configs) == 1 else np.unique(self.configs[at], axis=0)
        vths = self.vths if len(self.vths) == 1 else np.unique(self.vths[at])
        return Block(
            self.layer.name,
            box,
            self.grid,
            tuple(lists),
            sources,
            frozenset((int(du), int(dv)) for du, dv in configs),
            frozenset(int(v) for v in vths),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Lists:
    """Synapse lists of one connection into a block.

    Fields:
        entry_bits: weight and delay of a synapse; config: what tells its format from others.
        single: no neuron has two synapses onto another, so that runs are possible.
        lengths, shared: (length, how many) of all and of the distinct lists, int64 [k] each.
    """

    entry_bits: int
    config: tuple[int, ...]
    single: bool
    lengths: tuple[np.ndarray, np.ndarray]
    shared: tuple[np.ndarray, np.ndarray]

    def bits(self, chip: Chip, block: int, core: int) -> tuple[tuple[int, bool], tuple[int, bool]]:
        """(bits, whether as runs) without and with shared kernels.

        Args:
            block, core: neurons of the block and of the core.
        """
        width = self.entry_bits + chip.synapses.index_size(core)
        run = int(chip.synapses.bits(block, self.entry_bits) * self.lengths[1].sum())
        found = []
        for lengths, counts in (self.lengths, self.shared):
            listed = int((chip.synapses.bits(lengths, width) * counts).sum())
            runs = self.single and run < listed
            found.append((run if runs else listed, runs))
        return found[0], found[1]


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """Neurons of one layer for one core; `sources`: name -> flat indices of its neurons that reach it."""

    layer: str
    box: Box
    grid: Grid
    lists: tuple[Lists, ...]
    sources: Mapping[str, np.ndarray]
    configs: frozenset[tuple[int, int]]
    vths: frozenset[int]

    @property
    def neurons(self) -> int:
        """How many."""
        return volume(self.box)

    @property
    def synapses(self) -> int:
        """Synapses into the block."""
        return sum(int((lengths * counts).sum()) for lengths, counts in (x.lengths for x in self.lists))

    def halves(self) -> tuple[Box, Box]:
        """The box cut in two along its longest axis."""
        axis = max(range(3), key=lambda i: self.box[i][1] - self.box[i][0])
        first, end = self.box[axis]
        middle = (first + end) // 2
        return (
            _replaced(self.box, axis, (first, middle)),
            _replaced(self.box, axis, (middle, end)),
        )


def wired(layered: LayeredProgram, layer: Layer) -> Wired:
    """Count the synapses into a layer."""
    made = [wire(connection) for connection in layer.connections]
    grids = {w.grid for w, c in zip(made, layer.connections, strict=True) if c.kind == "conv"}
    size = math.prod(layer.shape)
    grid = grids.pop() if grids else (size, 1, 1)
    made = [w if w.grid in (grid, (size, 1, 1)) else w.flattened() for w in made]
    both = [np.broadcast_to(value, layer.shape).ravel() for value in (layer.du, layer.dv)]
    alike = all(np.size(value) == 1 for value in (layer.du, layer.dv))
    vths = np.broadcast_to(layer.vth, layer.shape).ravel()
    return Wired(
        layer,
        grid,
        tuple((c, w, _delay_bits(layered, layer, c)) for c, w in zip(layer.connections, made, strict=True)),
        np.stack(both, 1)[: 1 if alike else size],
        vths[: 1 if np.size(layer.vth) == 1 else size],
    )


def demand(blocks: Sequence[Block], chip: Chip, shared: bool) -> dict[str, int]:
    """What blocks on one core take together, by the names of `PER_CORE` without output axons; and
    "unshared_bits" and "shared_bits", of which "synaptic_bits" is one."""
    neurons = sum(block.neurons for block in blocks)
    unshared = kept = 0
    formats = set()
    for block in blocks:
        for lists in block.lists:
            plain, less = lists.bits(chip, block.neurons, neurons)
            unshared, kept = unshared + plain[0], kept + less[0]
            if lists.lengths[0].size:
                formats.add((*lists.config, (less if shared else plain)[1]))
    return {
        "neurons": neurons,
        "synaptic_bits": kept if shared else unshared,
        "input_axons": sum(len(index) for index in union(blocks).values()),
        "compartment_configs": len(frozenset().union(*(block.configs for block in blocks))),
        "vth_configs": len(frozenset().union(*(block.vths for block in blocks))),
        "synapse_configs": len(formats),
        "unshared_bits": unshared,
        "shared_bits": kept,
    }


def union(blocks: Sequence[Block]) -> dict[str, np.ndarray]:
    """Source -> flat indices of its neurons with a synapse into any of the blocks."""
    if len(blocks) == 1:
        return dict(blocks[0].sources)
    names = dict.fromkeys(name for block in blocks for name in block.sources)
    return {
        name: np.unique(np.concatenate([b.sources[name] for b in blocks if name in b.sources]))
        for name in names
    }


def exceeded(taken: Mapping[str, int], chip: Chip) -> str | None:
    """The first limit of a core that is exceeded."""
    for name, value in taken.items():
        limit = chip.of(name) if hasattr(chip, name) else None
        if limit is not None and value > limit:
            return name
    return None


_ALONE = {
    "input_axons": "source neurons each; a core of {} takes {} input axons",
    "synaptic_bits": "bits of synapses each; a core of {} holds {}",
    "synapse_configs": "synapse formats each; a core of {} holds {}",
}


def impossible(layer: Wired, chip: Chip) -> Iterator[Issue]:
    """Limits that single neurons exceed, each with the worst value."""
    known = {name: limit for name in _ALONE if (limit := chip.of(name)) is not None}
    taken = _alone(layer, chip)
    over = np.any([taken[name] > limit for name, limit in known.items()], axis=0)
    sources = [connection.source for connection, _, _ in layer.wirings]
    if len(set(sources)) < len(sources) or any(w.present.dtype != bool for _, w, _ in layer.wirings):
        for index in np.flatnonzero(over):  # those sums count a source twice that comes twice
            c, y, x = (int(i) for i in np.unravel_index(index, layer.grid))
            block = layer.block(((c, c + 1), (y, y + 1), (x, x + 1)), chip, False)
            for name, value in demand([block], chip, False).items():
                if name in taken:
                    taken[name][index] = value
    for name, limit in known.items():
        count = int((taken[name] > limit).sum())
        if count:
            yield Issue(
                "error",
                layer.layer.name,
                f"{count} of {len(over)} neurons have up to {taken[name].max()} "
                f"{_ALONE[name].format(chip.title, limit)}.",
                "Give these neurons fewer inputs: groups, a smaller kernel, pruning, or a layer between.",
            )


def _alone(layer: Wired, chip: Chip) -> dict[str, np.ndarray]:
    """What each neuron takes on a core of its own, at most (exact if no source comes twice); int64 [n]."""
    taken = {name: np.zeros(math.prod(layer.grid), np.int64) for name in _ALONE}
    formats: dict[tuple[int, ...], np.ndarray] = {}
    for connection, wiring, delay in layer.wirings:
        into = wiring.fan_in().ravel()
        entry = chip.synapses.weight_size(wiring.bits) + delay
        config = (wiring.exponent + connection.weight_exp, entry, delay)
        taken["input_axons"] += into
        taken["synaptic_bits"] += into * chip.synapses.bits(1, entry)
        formats[config] = formats.get(config, np.zeros(len(into), bool)) | (into > 0)
    for some in formats.values():
        taken["synapse_configs"] += some
    return taken


def cut(layer: Wired, chip: Chip, shared: bool) -> list[Block]:
    """Blocks that fit a core each, in C order, output axons aside; every neuron must fit alone."""
    if layer.grid[1] == layer.grid[2] == 1:
        return _runs(layer, chip, shared)
    return _tiles(layer, chip, shared)


def _runs(layer: Wired, chip: Chip, shared: bool) -> list[Block]:
    """Greedy: each block takes as many of the next neurons as fit."""
    size, limit = layer.grid[0], chip.of("synaptic_bits")
    least = np.zeros(size, np.int64)
    for _, wiring, delay in layer.wirings:
        least += wiring.fan_in().ravel() * (chip.synapses.weight_size(wiring.bits) + delay)
    filled = np.cumsum(least)
    blocks, first = [], 0
    while first < size:
        most = min(size - first, chip.of("neurons") or size)
        if limit is not None:
            before = int(filled[first - 1]) if first else 0
            most = min(most, int(np.searchsorted(filled, before + limit, "right")) - first)
        best = layer.block(((first, first + 1), (0, 1), (0, 1)), chip, shared)
        low, high, count = 2, most, most
        while low <= high:
            block = layer.block(((first, first + count), (0, 1), (0, 1)), chip, shared)
            if exceeded(demand([block], chip, shared), chip) is None:
                best, low = block, count + 1
            else:
                high = count - 1
            count = (low + high + 1) // 2
        blocks.append(best)
        first += best.neurons
    return blocks


def _tiles(layer: Wired, chip: Chip, shared: bool) -> list[Block]:
    """Boxes of nearly equal size, as few as fit: each axis is cut into equal parts."""
    probes = [tuple(n // 2 for n in layer.grid)]
    for parts in _partitions(layer, chip, shared):
        cuts = [_equal(n, p) for n, p in zip(layer.grid, parts, strict=True)]
        if any(not _fits(layer, _around(cuts, site), chip, shared) for site in reversed(probes)):
            continue
        blocks = []
        for c, h, w in itertools.product(*cuts):
            block = layer.block((c, h, w), chip, shared)
            if exceeded(demand([block], chip, shared), chip) is not None:
                probes.append((c[0], h[0], w[0]))
                break
            blocks.append(block)
        else:
            return blocks
    singles = itertools.product(*(_equal(n, n) for n in layer.grid))
    return [layer.block((c, h, w), chip, shared) for c, h, w in singles]


def _equal(size: int, parts: int) -> list[tuple[int, int]]:
    return [(size * i // parts, size * (i + 1) // parts) for i in range(parts)]


def _fits(layer: Wired, box: Box, chip: Chip, shared: bool) -> bool:
    return exceeded(demand([layer.block(box, chip, shared)], chip, shared), chip) is None


def _around(cuts: Sequence[Sequence[tuple[int, int]]], site: tuple[int, ...]) -> Box:
    """The box of the partition that holds a site."""
    c, h, w = (
        next(part for part in axis if part[0] <= at < part[1]) for axis, at in zip(cuts, site, strict=True)
    )
    return (c, h, w)


def _partitions(layer: Wired, chip: Chip, shared: bool) -> list[Grid]:
    """Numbers of parts per axis that limits on sums allow, fewest boxes first."""
    options = [{-(-n // size) for size in range(1, n + 1)} for n in layer.grid]
    fewest, limit = 1, chip.of("synaptic_bits")
    if limit is not None and not shared:
        widths = ((w, chip.synapses.weight_size(w.bits) + delay) for _, w, delay in layer.wirings)
        fewest = -(-sum(int(w.fan_in().sum()) * width for w, width in widths) // limit)
    most = chip.of("neurons") or math.prod(layer.grid)
    c, h, w = layer.grid
    found = [
        (pc, ph, pw)
        for pc, ph, pw in itertools.product(*options)
        if pc * ph * pw >= fewest and -(-c // pc) * -(-h // ph) * -(-w // pw) <= most
    ]
    return sorted(found, key=lambda p: (math.prod(p), p[2], p[1], p[0]))


def _delay_bits(layered: LayeredProgram, layer: Layer, connection: Connection) -> int:
    try:
        return longest_wait(layered, layer, connection).bit_length()
    except UnsupportedNode:
        return 0


def _histogram(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    counts = np.bincount(lengths)
    used = np.flatnonzero(counts)
    return used, counts[used]


def _replaced(box: Box, axis: int, part: tuple[int, int]) -> Box:
    c, h, w = (part if i == axis else old for i, old in enumerate(box))
    return (c, h, w)
