"""Whether and how a lowered program fits on Loihi: neurons on cores, cores on chips, shares of every limit.

Greedy and deterministic. Each layer is cut into blocks that fit a core: of a layer without convolution as
many next neurons (C order) as fit, of a convolution boxes of channels, rows and columns of nearly equal size,
as few as fit. Blocks whose neurons have too many target cores are halved. Then blocks go in order to the
current core if they fit beside what is there, else to the next. Inputs and the constant stay outside: they
take input axons where they arrive and no output axons. Limits that are not public are not checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np

from rsc.errors import UnsupportedNode, UsageError
from rsc.export.chips import PER_CORE, Chip, limits, number_issues, synapse_issues
from rsc.export.placement_blocks import Block, Wired, cut, demand, exceeded, impossible, union, wired
from rsc.export.placement_counts import Box, Grid, sites
from rsc.layered import LayeredProgram
from rsc.results import Issue


class Slice(msgspec.Struct, frozen=True):
    """Neurons of a layer on a core: a box (first, end) of channels, rows and columns of its grid."""

    layer: str
    box: Box

    @property
    def neurons(self) -> int:
        """How many."""
        (a, b), (c, d), (e, f) = self.box
        return (b - a) * (d - c) * (f - e)


class CoreUse(msgspec.Struct, frozen=True):
    """A core.

    Fields:
        chip, core: number of the chip, and of the core on it, from 0.
        neurons, synapses: on it, and into it.
        synaptic_bits: `shared_bits` where kernels are shared, else `unshared_bits`.
        input_axons: distinct source neurons that reach it.
        output_axons: sum over its neurons of their distinct target cores, itself among them.
        compartment_configs, vth_configs, synapse_configs: distinct (du, dv), thresholds, synapse formats.
        occupancy: limit -> share of it, of the limits that are public.
    """

    chip: int
    core: int
    slices: tuple[Slice, ...]
    neurons: int
    synapses: int
    synaptic_bits: int
    unshared_bits: int
    shared_bits: int
    input_axons: int
    output_axons: int
    compartment_configs: int
    vth_configs: int
    synapse_configs: int
    occupancy: dict[str, float]

    @property
    def fullest(self) -> tuple[str, float]:
        """The limit that is closest, and its share."""
        return max(self.occupancy.items(), key=lambda item: item[1])


class LayerUse(msgspec.Struct, frozen=True):
    """A layer.

    Fields:
        grid: [C, H, W] of its convolution, else [n, 1, 1]; slices are boxes of it.
        cores: that hold neurons of it; 0 if it could not be placed.
        weight_bits: of the widest connection, with sign.
        fan_in_max, fan_out_max: synapses into and out of one neuron.
    """

    name: str
    grid: Grid
    neurons: int
    cores: int
    synapses: int
    weight_bits: int
    fan_in_max: int
    fan_out_max: int


class Placement(msgspec.Struct, frozen=True):
    """Where the neurons are.

    Fields:
        chip, title, cores_per_chip: of the chip.
        shared_kernels: whether shifted lists of a convolution were kept once.
        cores, layers: in order.
        issues: what the chip cannot hold; layers named by `unplaced` are on no core.
        unknown: limits that are not public and were not checked.
    """

    chip: str
    title: str
    cores_per_chip: int
    shared_kernels: bool
    cores: tuple[CoreUse, ...]
    layers: tuple[LayerUse, ...]
    issues: tuple[Issue, ...]
    unplaced: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def chips(self) -> int:
        """Chips in use."""
        return self.cores[-1].chip + 1 if self.cores else 0

    @property
    def fits(self) -> bool:
        """No known limit is exceeded."""
        return not any(issue.severity == "error" for issue in self.issues)

    def core_of(self) -> dict[str, np.ndarray]:
        """Layer -> number of the core of each neuron, counted over all chips, C order; int64 [n]."""
        found = {
            layer.name: np.full(layer.neurons, -1, np.int64)
            for layer in self.layers
            if layer.name not in self.unplaced
        }
        grids = {layer.name: layer.grid for layer in self.layers}
        for number, core in enumerate(self.cores):
            for part in core.slices:
                found[part.layer][sites(part.box, grids[part.layer])] = number
        return found


def place(layered: LayeredProgram, chip: Chip, shared_kernels: bool = False) -> Placement:
    """Put every neuron on a core.

    Args:
        layered: an integer program.
        shared_kernels: keep synapse lists of a convolution that differ by a shift once per core.

    Raises:
        UsageError: the program is in floating point.
    """
    if layered.arithmetic != "integer":
        raise UsageError(
            "A program in floating point has no place on a chip.",
            "Its weights have no number of bits.",
            "Lower it with arithmetic='integer'.",
        )
    layers = [wired(layered, layer) for layer in layered.layers]
    issues = [*number_issues(layered, chip), *_connection_issues(layered, layers, chip)]
    blocks: dict[str, list[Block]] = {}
    for layer in layers:
        found = list(impossible(layer, chip))
        issues += found
        if not found:
            blocks[layer.layer.name] = cut(layer, chip, shared_kernels)
    issues += _spread(layers, blocks, chip, shared_kernels)
    cores = _pack([block for some in blocks.values() for block in some], layers, chip, shared_kernels)
    uses = _uses(cores, layers, chip, shared_kernels)
    if uses and chip.chips.value is not None and uses[-1].chip >= chip.chips.value:
        issues.append(
            Issue(
                "error",
                "",
                f"The program takes {uses[-1].chip + 1} chips; {chip.title} joins up to {chip.chips.value}.",
                "Make the network smaller.",
            )
        )
    return Placement(
        chip.name,
        chip.title,
        chip.cores.value or max(len(cores), 1),
        shared_kernels,
        uses,
        _layer_uses(layers, uses),
        tuple(issues),
        tuple(layer.layer.name for layer in layers if layer.layer.name not in blocks),
        chip.unknown,
    )


def chip_issues(layered: LayeredProgram, chip_name: str) -> list[Issue]:
    """What stands against a chip, for `rsc lint --for loihi1`; and, if nothing does, what the program takes.

    Raises:
        UsageError: no such chip, or the program is in floating point.
    """
    chip = limits(chip_name)
    placement = place(layered, chip)
    found = list(placement.issues)
    if placement.fits and placement.cores:
        fullest = max(placement.cores, key=lambda core: core.fullest[1])
        name, share = fullest.fullest
        found.append(
            Issue(
                "info",
                "",
                f"{chip.title}: {len(placement.cores)} cores, {placement.chips} of its chips "
                f"({chip.cores.value} cores each); the fullest core uses {share:.0%} of its "
                f"{name.replace('_', ' ')}.",
            )
        )
    if placement.unknown:
        names = ", ".join(name.replace("_", " ") for name in placement.unknown)
        found.append(
            Issue("info", "", f"{chip.title}: limits on {names} are not public and were not checked.")
        )
    return found


def _connection_issues(layered: LayeredProgram, layers: Sequence[Wired], chip: Chip) -> list[Issue]:
    found = []
    try:
        layered.levels()
    except UnsupportedNode as error:
        found.append(Issue("error", "", f"{error.what} {error.why}", error.fix))
    for layer in layers:
        for c, wiring, _ in layer.wirings:
            found += synapse_issues(layered, layer.layer, c, wiring.bits, wiring.exponent, chip)
    return found


def _targets(parts: Sequence[Sequence[Block]], layers: Sequence[Wired]) -> dict[str, np.ndarray]:
    """Layer -> of how many parts each neuron has a target, int64 [n]."""
    counts = {layer.layer.name: np.zeros(np.prod(layer.grid), np.int64) for layer in layers}
    for part in parts:
        for name, index in union(part).items():
            if name in counts:
                counts[name][index] += 1
    return counts


def _out(block: Block, targets: dict[str, np.ndarray]) -> int:
    return int(targets[block.layer][sites(block.box, block.grid)].sum())


def _spread(layers: Sequence[Wired], blocks: dict[str, list[Block]], chip: Chip, shared: bool) -> list[Issue]:
    """Halve, in place, blocks with too many output axons; layers where that does not help leave `blocks`."""
    limit, issues = chip.of("output_axons"), []
    by_name = {layer.layer.name: layer for layer in layers}
    changed = limit is not None
    while changed and limit is not None:
        changed = False
        targets = _targets([[b] for some in blocks.values() for b in some], layers)
        for name in list(blocks):
            kept: list[Block] = []
            single = 0
            for block in blocks[name]:
                out = _out(block, targets)
                if out <= limit:
                    kept.append(block)
                elif block.neurons == 1:
                    single = max(single, out)
                else:
                    kept += [by_name[name].block(half, chip, shared) for half in block.halves()]
                    changed = True
            blocks[name] = kept
            if single:
                del blocks[name]
                changed = True
                issues.append(
                    Issue(
                        "error",
                        name,
                        f"A neuron reaches {single} cores; a core of {chip.title} has {limit} output axons.",
                        "Give its targets fewer neurons or fewer synapses.",
                    )
                )
                break
    return issues


def _pack(blocks: Sequence[Block], layers: Sequence[Wired], chip: Chip, shared: bool) -> list[list[Block]]:
    """Blocks on cores in order: beside the ones before them if they fit there, else on the next core."""
    targets = _targets([[b] for b in blocks], layers)
    limit = chip.of("output_axons")
    most = chip.of("neurons")
    cores: list[list[Block]] = []
    for block in blocks:
        together = [*cores[-1], block] if cores else [block]
        room = bool(cores) and (most is None or sum(b.neurons for b in together) <= most)
        room = room and (limit is None or sum(_out(b, targets) for b in together) <= limit)
        if room and exceeded(demand(together, chip, shared), chip) is None:
            cores[-1] = together
        else:
            cores.append([block])
    return cores


def _uses(
    cores: Sequence[Sequence[Block]], layers: Sequence[Wired], chip: Chip, shared: bool
) -> tuple[CoreUse, ...]:
    targets = _targets(cores, layers)
    by_name = {layer.layer.name: layer for layer in layers}
    per_chip = chip.cores.value or max(len(cores), 1)
    found = []
    for number, blocks in enumerate(cores):
        full = [b if shared else by_name[b.layer].block(b.box, chip, True) for b in blocks]
        taken = demand(full, chip, shared) | {"output_axons": sum(_out(b, targets) for b in blocks)}
        shares = {name: taken[name] / limit for name in PER_CORE if (limit := chip.of(name)) is not None}
        found.append(
            CoreUse(
                chip=number // per_chip,
                core=number % per_chip,
                slices=tuple(Slice(b.layer, b.box) for b in blocks),
                synapses=sum(b.synapses for b in blocks),
                occupancy=shares,
                **taken,
            )
        )
    return tuple(found)


def _layer_uses(layers: Sequence[Wired], cores: Sequence[CoreUse]) -> tuple[LayerUse, ...]:
    used = Counter(name for core in cores for name in {part.layer for part in core.slices})
    fan_out: dict[str, np.ndarray] = {}
    for layer in layers:
        for connection, wiring, _ in layer.wirings:
            out = wiring.fan_out().ravel()
            fan_out[connection.source] = fan_out.get(connection.source, 0) + out
    found = []
    for layer in layers:
        name, size = layer.layer.name, int(np.prod(layer.grid))
        into = sum((w.fan_in().ravel() for _, w, _ in layer.wirings), np.zeros(size, np.int64))
        found.append(
            LayerUse(
                name=name,
                grid=layer.grid,
                neurons=size,
                cores=used[name],
                synapses=int(into.sum()),
                weight_bits=max((w.bits for _, w, _ in layer.wirings), default=0),
                fan_in_max=int(into.max(initial=0)),
                fan_out_max=int(fan_out[name].max(initial=0)) if name in fan_out else 0,
            )
        )
    return tuple(found)
