"""Messages between cores: a spike sends one to each core that holds a target of its neuron."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from rsc.errors import UsageError
from rsc.export.placement import Placement
from rsc.export.placement_blocks import wired
from rsc.layered import LayeredProgram
from rsc.results import SpikeRecord


@dataclasses.dataclass(frozen=True, eq=False)
class Traffic:
    """Messages of a run, summed over its samples.

    Fields:
        cores: how many there are, numbered over all chips.
        samples: B.
        links: (from, to), int64 [L, 2], the pairs of cores with a synapse between them, sorted; from = to are
            messages of a core to itself. Inputs and the constant come from outside and are not counted.
        total: int64 [L]; steps: int64 [T, L] (step t of a layer, as in the record), or None if the record has
            no rasters of some layer that sends.
    """

    cores: int
    samples: int
    links: np.ndarray
    total: np.ndarray
    steps: np.ndarray | None

    def matrix(self, step: int | None = None) -> np.ndarray:
        """Messages from core (row) to core (column) in all, or at one step; int64 [cores, cores].

        Raises:
            UsageError: the record has no steps, or not that one.
        """
        values = self.total
        if step is not None:
            if self.steps is None or not 0 <= step < len(self.steps):
                raise UsageError(
                    f"There are no messages of step {step}.",
                    f"The record has rasters of {0 if self.steps is None else len(self.steps)} steps.",
                    "Run with Probe(spikes=...) of all layers.",
                )
            values = self.steps[step]
        matrix = np.zeros((self.cores, self.cores), np.int64)
        matrix[self.links[:, 0], self.links[:, 1]] = values
        return matrix

    @property
    def largest(self) -> tuple[int, int, int] | None:
        """(from, to, messages) of the busiest link between different cores; None if none carries any."""
        between = np.where(self.links[:, 0] != self.links[:, 1], self.total, 0)
        if not between.any():
            return None
        link = int(between.argmax())
        return (int(self.links[link, 0]), int(self.links[link, 1]), int(between[link]))


def traffic(layered: LayeredProgram, placement: Placement, record: SpikeRecord) -> Traffic:
    """Count messages.

    Args:
        layered: what was placed.
        record: counts [B, ...], or rasters [T, B, ...], of every layer with targets on a core.

    Raises:
        UsageError: the record does not fit the program.
    """
    core_of = placement.core_of()
    reached = list(_reached(layered, placement))
    senders = dict.fromkeys(name for _, sources in reached for name in sources if name in core_of)
    counts, rasters = _activity(record, {name: core_of[name] for name in senders})
    timed = bool(senders) and len(rasters) == len(senders)
    links, totals, steps = [], [], []
    number = len(placement.cores)
    for target, sources in reached:
        linked = np.zeros(number, bool)
        total = np.zeros(number, np.int64)
        moving = np.zeros((len(next(iter(rasters.values()))) if timed else 0, number), np.int64)
        for name, index in sources.items():
            if name not in core_of:
                continue
            origin = core_of[name][index]
            linked[origin] = True
            np.add.at(total, origin, counts[name][index])
            if timed:
                order = np.argsort(origin, kind="stable")
                some, starts = np.unique(origin[order], return_index=True)
                if len(some):
                    moving[:, some] += np.add.reduceat(rasters[name][:, index[order]], starts, axis=1)
        found = np.flatnonzero(linked)
        links.append(np.stack([found, np.full_like(found, target)], 1))
        totals.append(total[found])
        steps.append(moving[:, found])
    pairs = np.concatenate([np.zeros((0, 2), np.int64), *links])
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    samples = next(
        (len(record.counts[n]) if n in record.counts else record.rasters[n].shape[1] for n in senders), 0
    )
    return Traffic(
        number,
        samples,
        pairs[order],
        np.concatenate([np.zeros(0, np.int64), *totals])[order],
        np.concatenate(steps, 1)[:, order] if timed else None,
    )


def _reached(layered: LayeredProgram, placement: Placement) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """(core, source -> flat indices of its neurons with a target on the core)."""
    known = {use.name: use.grid for use in placement.layers}
    layers = {layer.name: wired(layered, layer) for layer in layered.layers}
    if {name: layer.grid for name, layer in layers.items()} != known:
        raise UsageError(
            "The placement is of another program.",
            f"It has the layers {', '.join(known)}; the program {', '.join(layers)}.",
            "Place this program.",
        )
    for number, core in enumerate(placement.cores):
        found: dict[str, list[np.ndarray]] = {}
        for part in core.slices:
            layer = layers[part.layer]
            for connection, wiring, _ in layer.wirings:
                reach = wiring.reach(part.box, layer.grid, shared=False)
                found.setdefault(connection.source, []).append(reach.sources)
        yield number, {name: np.unique(np.concatenate(some)) for name, some in found.items()}


def _activity(
    record: SpikeRecord, senders: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(spikes int64 [n], spikes per step int64 [T, n] where there are rasters), summed over the samples."""
    counts, rasters = {}, {}
    for name, cores in senders.items():
        if name in record.rasters:
            raster = record.rasters[name]
            rasters[name] = raster.sum(1, dtype=np.int64).reshape(len(raster), -1)
        if name in record.counts:
            spikes = record.counts[name]
            counts[name] = spikes.sum(0, dtype=np.int64).ravel()
        elif name in rasters:
            counts[name] = rasters[name].sum(0)
        found = counts.get(name)
        if found is None or len(found) != len(cores):
            raise UsageError(
                f"The record does not have the spikes of layer '{name}'.",
                "It has none." if found is None else f"It has {len(found)} sites, the layer {len(cores)}.",
                "Run the program with counts, or with rasters of all its layers.",
            )
    return counts, rasters
