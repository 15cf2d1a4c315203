"""The batched integer model equals the transcription of Lava's arithmetic in every spike, u and v."""

from __future__ import annotations

import dataclasses
from typing import Any

import lava_listing
import numpy as np
import pytest
import torch
from lava_networks import NETWORKS, Kit, frames, grid, lif, network, program, random_program

from rsc.hw_targets.base import StepsResult
from rsc.hw_targets.loihi import LoihiModel
from rsc.hw_targets.loihi_synapses import Synapses
from rsc.layered import CONSTANT, STATE_MAX, Connection, Layer, LayeredProgram
from rsc.results import Probe

CPU = torch.device("cpu")
SEEDS = range(240)


def steps(layered: LayeredProgram, fed: dict[str, np.ndarray], probe: Probe | None = None) -> StepsResult:
    """A run that records everything."""
    names = [layer.name for layer in layered.layers]
    return LoihiModel(None, layered, CPU)._steps(fed, probe or Probe.everything(names))


def spoken(layer: Layer, trace: lava_listing.Trace) -> np.ndarray:
    """What a layer gives to an output, from its trace."""
    if layer.readout == "state":
        return trace.v / (64 * layer.scale) + layer.offset
    if layer.readout == "sum":
        gains, before = [], np.broadcast_to(layer.v_init, layer.shape)
        for v in trace.v:
            gains.append((v - before) / (64 * layer.scale))
            before = v
        return np.stack(gains)
    return trace.s.astype(np.float64)


def assert_equal_to_listing(layered: LayeredProgram, fed: dict[str, np.ndarray]) -> StepsResult:
    """Spikes, u, v and counts of all layers, and all outputs."""
    found = steps(layered, fed)
    traces = lava_listing.run(layered, lava_listing.payloads(layered, fed))
    for layer in layered.layers:
        trace, name = traces[layer.name], layer.name
        np.testing.assert_array_equal(found.spikes.rasters[name], trace.s, name)
        for state, expected in (("u", trace.u), ("v", trace.v)):
            got = found.spikes.states[f"{name}.{state}"]
            assert got.dtype == np.int64
            np.testing.assert_array_equal(got, expected, f"{name}.{state}")
        assert (name in found.spikes.counts) == (not layer.readout)
        if not layer.readout:
            np.testing.assert_array_equal(found.spikes.counts[name], trace.s.sum(0), name)
    assert list(found.outputs) == [name for name, _ in layered.outputs]
    for output, names in layered.outputs:
        expected = sum(spoken(layered.by_name[name], traces[name]) for name in names)
        assert found.outputs[output].dtype == np.float64
        np.testing.assert_array_equal(found.outputs[output], expected, output)
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_bit_exact(name: str):
    rng = np.random.default_rng(0)
    layered = network(name, rng)
    found = assert_equal_to_listing(layered, frames(layered, rng, 12, 3))
    firing = [layer.name for layer in layered.layers if not layer.readout]
    assert all(found.spikes.rasters[n].any() and not found.spikes.rasters[n].all() for n in firing)


def test_random_programs_are_bit_exact():
    """240 programs; that they wrap, saturate, recur and delay is checked with them."""
    met = dict.fromkeys(("u beyond 24 bits", "v at its limit", "a loop of several layers", "late"), 0)
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        layered = random_program(rng)
        found = assert_equal_to_listing(layered, frames(layered, rng, int(rng.integers(1, 12)), 2))
        states = found.spikes.states
        met["u beyond 24 bits"] += any(np.abs(x).max() > 1 << 23 for k, x in states.items() if k[-1] == "u")
        met["v at its limit"] += any(np.abs(x).max() == STATE_MAX for k, x in states.items() if k[-1] == "v")
        met["a loop of several layers"] += any(len(group) > 1 for group in layered.groups())
        met["late"] += any(c.delay.ndim for layer in layered.layers for c in layer.connections)
        assert found.saturated >= 0
    assert min(met.values()) >= 5, met


@pytest.mark.parametrize("shape", [(), (4, 1)])
def test_constant_arrives_from_its_delay_on(shape: tuple[int, ...]):
    """By hand: v gains 64 W a step from step k on, for each synapse apart."""
    k = np.full(shape, 2, np.int32) if not shape else np.array([[0], [1], [3], [9]], np.int32)
    weight = np.array([[2], [-4], [6], [8]], np.int32)
    c = Connection(CONSTANT, "dense", weight, (1,), delay=k)
    layered = program(lif("a", (4,), c, dv=0, vth=131071), shape=(2,))
    fed = {"x": np.zeros((6, 2, 2), np.float32)}
    v = assert_equal_to_listing(layered, fed).spikes.states["a.v"]
    late = np.arange(6)[:, None] + 1 - np.broadcast_to(k, (4, 1))[:, 0]
    np.testing.assert_array_equal(v[:, 0], 64 * weight[:, 0] * np.maximum(late, 0))


def test_a_delay_longer_than_the_recording_brings_nothing():
    kit = Kit(np.random.default_rng(1))
    layers = kit.lif("a", (4,), kit.dense("x", 4, 5, 7)), kit.lif("b", (3,), kit.dense("a", 3, 4, 60))
    for t in (1, 7, 8):
        layered = program(*layers, shape=(5,))
        assert_equal_to_listing(layered, frames(layered, kit.rng, t, 2))


@pytest.mark.parametrize(
    "name", ["two inputs and outputs", "delays per synapse", "two populations in a loop"]
)
def test_chunks_and_order_of_the_batch_do_not_matter(name: str, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(2)
    layered = network(name, rng)
    fed = frames(layered, rng, 9, 7)
    whole = steps(layered, fed)
    order = rng.permutation(7)
    shuffled = steps(layered, {n: f[:, order] for n, f in fed.items()})
    monkeypatch.setattr("rsc.hw_targets.loihi._CHUNK_VALUES", 300)
    chunked = steps(layered, fed)
    for other, pick in ((chunked, np.arange(7)), (shuffled, order)):
        assert other.saturated == whole.saturated
        for kind, axis in (("counts", 0), ("rasters", 1), ("states", 1)):
            ours, theirs = getattr(whole.spikes, kind), getattr(other.spikes, kind)
            assert set(ours) == set(theirs)
            assert all(np.array_equal(np.take(ours[k], pick, axis), theirs[k]) for k in ours)
        assert all(np.array_equal(whole.outputs[k][:, pick], other.outputs[k]) for k in whole.outputs)


@pytest.mark.parametrize(
    ("inputs", "payload", "dtype"),
    [(257, 257, torch.float32), (258, 257, torch.float64), (600, 9000, torch.float64)],
)
def test_sums_near_and_beyond_float32_are_exact(inputs: int, payload: int, dtype: torch.dtype):
    """Rows of 254 and odd payloads, just below and above the 2^24 of float32 and far beyond."""
    weight = np.full((2, inputs), 254, np.int32)
    weight[1, ::2] = -2
    c = Connection("x", "dense", weight, (inputs,), graded=True)
    layered = program(lif("a", (2,), c, du=100, vth=131071), shape=(inputs,), input_max=payload)
    assert Synapses(c, payload, (2,), CPU).dtype == dtype
    fed = {"x": np.full((2, 1, inputs), payload, np.float32)}
    fed["x"][1, 0, 0] -= 1
    assert_equal_to_listing(layered, fed)


def test_spikes_of_an_ungraded_input_are_zero_or_one():
    rng = np.random.default_rng(3)
    flat = Connection("x", "dense", grid(rng, 3, 4), (4,))
    layered = program(lif("a", (3,), flat, dataclasses.replace(flat, graded=True)), shape=(4,), input_max=5)
    assert_equal_to_listing(layered, {"x": rng.integers(-7, 8, (8, 2, 4)).astype(np.float32)})


def test_parameters_of_each_neuron_equal_layers_of_one():
    """A layer with arrays does what one-neuron layers with numbers do, also saturated and from any v_init."""
    rng = np.random.default_rng(4)
    weight = grid(rng, 9, 6)
    own: dict[str, Any] = {
        "du": np.array([0, 1, 2047, 4000, 4095, 4095, 4095, 10, 3]),
        "dv": np.array([0, 1, 2048, 3072, 4095, 4096, 1, 0, 7]),
        "vth": np.array([0, 100, 131071, 5, 300, 1, 90, 131071, 131071]),
        "v_init": np.array([0, -9_000_000, 9_000_000, 77, -5, 6400, 0, STATE_MAX, -STATE_MAX]),
        "bias_mant": np.array([0, 4095, -4095, 1, -1, 3, 9, 4095, -4095]),
    }
    for exponent in (0, 9):
        c = Connection("x", "dense", weight, (6,), exponent)
        whole = program(lif("all", (9,), c, bias_exp=6, **own), shape=(6,))
        ones = [
            lif(
                f"n{i}",
                (1,),
                dataclasses.replace(c, weight=weight[i : i + 1]),
                bias_exp=6,
                **{k: (np.array([v[i]]) if k == "bias_mant" else int(v[i])) for k, v in own.items()},
            )
            for i in range(9)
        ]
        fed = frames(whole, rng, 20, 3)
        together = assert_equal_to_listing(whole, fed)
        apart = assert_equal_to_listing(program(*ones, shape=(6,)), fed)
        assert together.saturated == apart.saturated > 0
        for state in ("u", "v"):
            np.testing.assert_array_equal(
                together.spikes.states[f"all.{state}"],
                np.concatenate([apart.spikes.states[f"n{i}.{state}"] for i in range(9)], -1),
            )


def test_clipped_payloads_and_saturated_states_are_counted():
    """Two payloads of four are clipped to one; the third step takes v beyond 24 bits."""
    c = Connection("x", "dense", np.full((1, 1), 254, np.int32), (1,), 8, graded=True)
    layered = program(lif("a", (1,), c, dv=0, vth=131071), shape=(1,), input_max=1)
    fed = {"x": np.array([-3, -1, -1, 2], np.float32).reshape(-1, 1, 1)}
    u = 254 << 14
    found = assert_equal_to_listing(layered, fed)
    assert found.spikes.states["a.v"].ravel().tolist() == [-u, -2 * u, -STATE_MAX, -STATE_MAX + u]
    assert found.saturated == 2 + 1


def test_a_probe_records_what_it_names():
    layered = network("leaky readout", np.random.default_rng(5))
    fed = frames(layered, np.random.default_rng(6), 4, 2)
    found = steps(layered, fed, Probe(frozenset({"a"}), frozenset({"r"}), counts=False)).spikes
    assert (set(found.rasters), set(found.states), set(found.counts)) == ({"a"}, {"r.u", "r.v"}, set())


def test_timing_is_that_of_the_levels():
    layered = network("skip connections", np.random.default_rng(7))
    assert LoihiModel(None, layered, CPU).timing() == {"x": 0, "a": 1, "b": 2, "c": 3, "r": 4}
