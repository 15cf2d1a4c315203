"""Placement on chips, against loops over matrices that torch makes of unit vectors."""

from __future__ import annotations

import itertools
import math
import tracemalloc
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from placement_loops import (
    convnet,
    core_by_loops,
    entry_bits,
    lif,
    list_bits,
    matrices,
    mlp,
    neurons_of,
    odd,
    out_shape,
    program,
    random_conv,
    random_program,
    weights,
    with_limits,
)

from rsc.errors import UsageError
from rsc.export.chips import CHIPS, PER_CORE, limits
from rsc.export.placement import chip_issues, place
from rsc.export.placement_counts import wire
from rsc.export.placement_drawing import drawing
from rsc.export.placement_traffic import traffic
from rsc.layered import Connection, LayeredProgram
from rsc.results import SpikeRecord

SMALL = {
    "neurons": 20,
    "synaptic_bits": 9000,
    "input_axons": 60,
    "output_axons": 60,
    "compartment_configs": 4,
    "vth_configs": 3,
    "synapse_configs": 4,
    "cores": 5,
}


@pytest.mark.parametrize("seed", range(24))
def test_a_placement_is_what_loops_count(seed: int) -> None:
    layered = random_program(seed)
    chip = with_limits(limits("loihi1"), **SMALL)
    placement = place(layered, chip, shared_kernels=seed % 4 == 3)
    assert placement == place(layered, chip, shared_kernels=seed % 4 == 3)
    cores = [core_by_loops(layered, placement, k) for k in range(len(placement.cores))]
    for layer in layered.layers:
        parts = [p for core in placement.cores for p in core.slices if p.layer == layer.name]
        found = sorted(n for p in parts for n in neurons_of(p, placement))
        assert found == ([] if layer.name in placement.unplaced else list(range(math.prod(layer.shape))))
    for number, (use, counted) in enumerate(zip(placement.cores, cores, strict=True)):
        assert (use.chip, use.core) == divmod(number, SMALL["cores"])
        mine = [(p.layer, n) for p in use.slices for n in neurons_of(p, placement)]
        counted["output_axons"] = sum(source in other["axons"] for source in mine for other in cores)
        for name in ("synapses", *PER_CORE):
            if name == "synaptic_bits":
                assert use.unshared_bits == counted[name]
            elif name != "synapse_configs" or not placement.shared_kernels:
                assert getattr(use, name) == counted[name], name
        assert use.synaptic_bits == (use.shared_bits if placement.shared_kernels else use.unshared_bits)
        assert use.shared_bits <= use.unshared_bits
        for name in PER_CORE:
            assert getattr(use, name) <= SMALL[name]
            assert use.occupancy[name] == getattr(use, name) / SMALL[name]
    for layer in layered.layers:
        use = next(u for u in placement.layers if u.name == layer.name)
        into = np.sum([(m != 0).sum(1) for c in layer.connections for m in matrices(c)], axis=0)
        heard_by = [c for la in layered.layers for c in la.connections if c.source == layer.name]
        out = [(m != 0).sum(0) for c in heard_by for m in matrices(c)]
        assert (use.synapses, use.fan_in_max) == (into.sum(), into.max())
        assert use.fan_out_max == (np.sum(out, axis=0).max() if out else 0)


def test_random_placements_exercise_several_cores_and_chips() -> None:
    chip = with_limits(limits("loihi1"), **SMALL)
    made = [place(random_program(seed), chip) for seed in range(12)]
    assert max(p.chips for p in made) > 1
    assert sum(p.fits for p in made) > 6
    assert any(len(c.slices) > 1 for p in made for c in p.cores)


@pytest.mark.parametrize("seed", range(12))
def test_a_layer_is_left_out_only_if_a_neuron_cannot_be_placed(seed: int) -> None:
    layered = random_program(seed)
    tight = {"input_axons": 8, "synaptic_bits": 700}
    placement = place(layered, with_limits(limits("loihi1"), **tight))
    for layer in layered.layers:
        worst = {"input_axons": 0, "synaptic_bits": 0}
        for i in range(math.prod(layer.shape)):
            heard, bits = set(), 0
            for c in layer.connections:
                found, (entry, _, _) = matrices(c), entry_bits(layered, layer, c)
                for j in range(found[0].shape[1]):
                    synapses = sum(int(m[i, j] != 0) for m in found)
                    heard |= {(c.source, j)} if synapses else set()
                    bits += list_bits(synapses, entry)
            for name, value in (("input_axons", len(heard)), ("synaptic_bits", bits)):
                worst[name] = max(worst[name], value)
        over = {name for name, value in worst.items() if value > tight[name]}
        told = [i.what for i in placement.issues if i.node == layer.name and i.severity == "error"]
        assert (layer.name in placement.unplaced) == bool(over)
        assert len(told) == len(over)
        for name in over:
            assert any(f" {worst[name]} " in what and str(tight[name]) in what for what in told)


@pytest.mark.parametrize("seed", range(8))
def test_traffic_is_what_loops_count(seed: int) -> None:
    layered = random_program(seed)
    placement = place(layered, with_limits(limits("loihi1"), **(SMALL if seed % 4 else {})))
    rng = np.random.default_rng(seed)
    rasters = {la.name: rng.random((5, 2, *la.shape)) < 0.3 for la in layered.layers}
    heard = [core_by_loops(layered, placement, k)["axons"] for k in range(len(placement.cores))]
    expected = np.zeros((5, len(heard), len(heard)), int)
    for a, core in enumerate(placement.cores):
        for part in core.slices:
            spikes = rasters[part.layer].reshape(5, 2, -1)
            for n in neurons_of(part, placement):
                for b, axons in enumerate(heard):
                    if (part.layer, n) in axons:
                        expected[:, a, b] += spikes[:, :, n].sum(1)
    found = traffic(layered, placement, SpikeRecord(rasters=rasters))
    assert found.samples == 2
    assert np.array_equal(found.matrix(), expected.sum(0))
    assert all(np.array_equal(found.matrix(t), expected[t]) for t in range(5))
    between = expected.sum(0) * ~np.eye(len(heard), dtype=bool)
    if between.any():
        assert found.largest is not None
        a, b, most = found.largest
        assert most == between.max() == between[a, b]
    else:
        assert found.largest is None
    counts = {name: raster.sum(0) for name, raster in rasters.items()}
    summed = traffic(layered, placement, SpikeRecord(counts=counts))
    assert summed.steps is None
    assert np.array_equal(summed.matrix(), expected.sum(0))
    with pytest.raises(UsageError, match="no messages of step 0"):
        summed.matrix(0)


def test_traffic_needs_the_spikes_and_the_program_that_was_placed() -> None:
    layered = random_program(0)
    placement = place(layered, limits("loihi1"))
    with pytest.raises(UsageError, match="does not have the spikes"):
        traffic(layered, placement, SpikeRecord())
    with pytest.raises(UsageError, match="another program"):
        traffic(random_program(1), placement, SpikeRecord())


@pytest.mark.parametrize("seed", range(60))
def test_synapses_of_convolutions(seed: int) -> None:
    rng = np.random.default_rng(1000 + seed)
    c = random_conv(rng, (int(rng.integers(1, 7)), *rng.integers(3, 9, 2).tolist()), float(rng.random()))
    (matrix,), wiring = matrices(c), wire(c)
    assert wiring.grid == out_shape(c)
    assert np.array_equal(wiring.fan_in().ravel(), (matrix != 0).sum(1))
    assert np.array_equal(wiring.fan_out().ravel(), (matrix != 0).sum(0))
    grid = np.arange(len(matrix)).reshape(wiring.grid)
    for _ in range(4):
        first = [int(rng.integers(0, n)) for n in wiring.grid]
        box = tuple((a, int(rng.integers(a + 1, n + 1))) for a, n in zip(first, wiring.grid, strict=True))
        rows = grid[tuple(slice(*bounds) for bounds in box)].ravel()
        lengths = (matrix[rows] != 0).sum(0)
        found = wiring.reach((box[0], box[1], box[2]))
        assert np.array_equal(found.sources, np.flatnonzero(lengths))
        assert np.array_equal(found.lengths, lengths[lengths > 0])


@pytest.mark.parametrize("seed", range(20))
def test_shared_lists_are_the_distinct_shifted_ones(seed: int) -> None:
    """With weights whose sums all differ, two lists of a channel are shifted ones only if their taps are."""
    rng = np.random.default_rng(seed)
    c = random_conv(rng, (2, *rng.integers(4, 9, 2).tolist()), 1.0)
    values = rng.integers(1, 1 << 28, c.weight.size)
    c = Connection(**{**c.__dict__, "weight": values.reshape(c.weight.shape).astype(np.int32)})
    (matrix,), shape = matrices(c), out_shape(c)
    box = tuple((n // 4, n) for n in shape)
    seen = {}
    for j in range(matrix.shape[1]):
        entries = []
        for co, y, x in itertools.product(*(range(*bounds) for bounds in box)):
            if matrix[(co * shape[1] + y) * shape[2] + x, j]:
                entries.append((co, y, x, int(matrix[(co * shape[1] + y) * shape[2] + x, j])))
        if entries:
            y0, x0 = min(e[1] for e in entries), min(e[2] for e in entries)
            channel = j // math.prod(c.source_shape[1:])
            seen[channel, tuple((co, y - y0, x - x0, w) for co, y, x, w in entries)] = len(entries)
    found = wire(c).reach((box[0], box[1], box[2]))
    assert sorted(found.shared.tolist()) == sorted(seen.values())


def test_synapses_of_several_delays_behind_overlapping_pooling() -> None:
    """Windows 2 wide, 1 apart: a pair of neurons has a synapse for each delay, and a run cannot hold two."""
    rng = np.random.default_rng(2)
    delay = rng.integers(0, 2, (6, 9)).astype(np.int32)
    pool = ((2, 2), (1, 1))
    c = Connection("x", "dense", weights(rng, 6, 9) | 2, (1, 4, 4), pool=pool, delay=delay)
    layered = program(lif("a", (6,), c), shape=(1, 4, 4))
    assert np.sum([m != 0 for m in matrices(c)], axis=0).max() == 2
    for most in (1, 4, 6):
        placement = place(layered, with_limits(limits("loihi1"), neurons=most))
        for number, use in enumerate(placement.cores):
            counted = core_by_loops(layered, placement, number)
            assert use.synapses == counted["synapses"]
            assert use.synaptic_bits == counted["synaptic_bits"]


def test_a_layer_with_convolutions_of_different_shapes_counts_them_all() -> None:
    rng = np.random.default_rng(5)
    two = (
        Connection("x", "conv", weights(rng, 4, 1, 2, 2), (1, 3, 3)),
        Connection("x", "conv", weights(rng, 16, 1, 3, 3, density=0.5), (1, 3, 3)),
    )
    layered = program(lif("a", (16,), *two), shape=(1, 3, 3))
    placement = place(layered, with_limits(limits("loihi1"), neurons=5))
    for number, use in enumerate(placement.cores):
        counted = core_by_loops(layered, placement, number)
        assert (use.synapses, use.input_axons) == (counted["synapses"], counted["input_axons"])
    assert sum(use.neurons for use in placement.cores) == 16


def test_784_256_10_by_hand() -> None:
    """An axon's run of n 8-bit weights takes 576 bits per 64; 1048576 // 784 bits hold two of them and 128
    bits more, that is 14 weights: 142 neurons on the first core, 114 and the readout on the second."""
    placement = place(mlp(), limits("loihi1"))
    first, second = placement.cores
    assert placement.fits
    assert [(p.layer, p.neurons) for c in placement.cores for p in c.slices] == [
        ("hidden", 142),
        ("hidden", 114),
        ("out", 10),
    ]
    assert first.synaptic_bits == 784 * (2 * 576 + 128)
    assert second.synaptic_bits == 784 * (576 + 448) + 256 * 128
    assert (first.input_axons, second.input_axons) == (784, 784 + 256)
    assert (first.output_axons, second.output_axons) == (142, 114)
    assert [layer.synapses for layer in placement.layers] == [784 * 256, 2560]
    (info,) = chip_issues(mlp(), "loihi1")
    assert (info.severity, "2 cores" in info.what, "96%" in info.what) == ("info", True, True)


@pytest.mark.parametrize("name", CHIPS)
def test_convolutional_net(name: str) -> None:
    placement = place(convnet(), limits(name))
    first, second, out = placement.layers
    assert placement.fits
    assert placement.chips == 1
    assert first.synapses == 8 * (3 * 28 - 2) ** 2
    assert second.synapses == 16 * 8 * (3 * 14 - 1) ** 2
    assert (out.synapses, out.fan_in_max) == (31360, 3136)
    assert second.fan_in_max == 72
    assert len(place(convnet(), limits(name), shared_kernels=True).cores) <= len(placement.cores)


@pytest.mark.parametrize(("channels", "size", "chips"), [(512, 4, 3), (64, 16, 1)])
def test_wide_convolutions_take_chips_and_little_memory(channels: int, size: int, chips: int) -> None:
    weight = odd(np.random.default_rng(0), channels, channels, 3, 3)
    shape = (channels, size, size)
    layered = program(lif("a", shape, Connection("x", "conv", weight, shape, padding=(1, 1))), shape=shape)
    tracemalloc.start()
    placement = place(layered, limits("loihi2"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (placement.fits, placement.chips) == (True, chips)
    assert placement.layers[0].synapses == channels**2 * (3 * size - 2) ** 2
    assert placement.layers[0].synapses == sum(core.synapses for core in placement.cores)
    assert peak < 300 << 20


def test_fan_in_of_one_neuron_beyond_a_core() -> None:
    rng = np.random.default_rng(0)
    c = Connection("x", "conv", odd(rng, 2, 512, 3, 3), (512, 4, 4), padding=(1, 1))
    layered = program(lif("a", (2, 4, 4), c), shape=(512, 4, 4))
    placement = place(layered, limits("loihi1"))
    (issue,) = placement.issues
    assert issue.what == (
        "8 of 32 neurons have up to 4608 source neurons each; a core of Loihi 1 takes 4096 input axons."
    )
    assert (placement.unplaced, placement.cores, placement.fits) == (("a",), (), False)
    assert place(layered, limits("loihi2")).fits


def test_a_neuron_that_reaches_too_many_cores() -> None:
    first = lif("a", (1,), Connection("x", "dense", np.full((1, 1), 2, np.int32), (1,)))
    second = lif("b", (9,), Connection("a", "dense", np.full((9, 1), 2, np.int32), (1,)))
    chip = with_limits(limits("loihi1"), neurons=2, output_axons=4)
    placement = place(program(first, second, shape=(1,)), chip)
    assert placement.unplaced == ("a",)
    assert "reaches 5 cores" in placement.issues[0].what
    assert "4 output axons" in placement.issues[0].what


def test_programs_in_floating_point_are_refused() -> None:
    layered = LayeredProgram("float", mlp().layers, mlp().inputs, ())
    with pytest.raises(UsageError, match="floating point"):
        place(layered, limits("loihi1"))


def test_drawing_is_standalone_and_shows_every_core() -> None:
    c = Connection("x", "dense", np.full((9, 2), 2, np.int32), (2,))
    name = "<script>&\x00\"'"
    layered = program(
        lif(name, (9,), c),
        lif("b", (3,), Connection(name, "dense", np.ones((3, 9), np.int32), (9,))),
        shape=(2,),
    )
    placement = place(layered, with_limits(limits("loihi1"), neurons=2, cores=4))
    spikes = {name: np.ones((1, 9), np.int64)}
    moved = traffic(layered, placement, SpikeRecord(counts=spikes))
    text = drawing(placement, moved)
    assert text == drawing(placement, moved)
    assert "prefers-color-scheme:dark" in text
    assert "script>" not in text.replace("&lt;script&gt;", "")
    root = ElementTree.fromstring(text)
    svg = "{http://www.w3.org/2000/svg}"
    assert root[0].tag == f"{svg}title"
    assert root[0].text == "Loihi 1: 7 cores on 2 chips"
    assert len([e for e in root.iter(f"{svg}rect") if e.get("class") == "core"]) == 8
    lines = [e for e in root.iter(f"{svg}path") if e.get("class") == "link"]
    assert len(lines) == (moved.matrix() * ~np.eye(7, dtype=bool) > 0).sum() > 0
    assert not list(ElementTree.fromstring(drawing(placement)).iter(f"{svg}path"))
    assert all("href" not in key for e in root.iter() for key in e.attrib)
