"""Interval bounds hold for every run of the integer model, and are tight where they can be."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interval_nets import box, points, run, tiny
from lava_networks import NETWORKS, Kit, frames, grid, lif, network, random_program
from lava_networks import program as layered_of

from rsc.errors import UnsupportedNode, UsageError
from rsc.hw_targets.base import readout as read
from rsc.layered import Connection, LayeredProgram
from rsc.robustness.intervals import Bounds, IntervalProgram, payload_boxes
from rsc.robustness.intervals_box import INT32, UV, Box, decay, saturated, wrapped, wrapped_once
from rsc.robustness.intervals_margin import READOUTS, Filter, Readout, proved

Ends = dict[str, tuple[np.ndarray, np.ndarray]]


def widened(layered: LayeredProgram, rng: np.random.Generator, steps: int) -> Ends:
    """Boxes of frames around random ones; four values in ten may rise by up to two payloads."""
    made: Ends = {}
    for name, low in frames(layered, rng, steps, 1).items():
        more = rng.integers(0, 3, low.shape) * (rng.random(low.shape) < 0.4) / layered.sources[name].scale
        made[name] = low, (low + more).astype(np.float32)
    return made


def inside(layered: LayeredProgram, ends: Ends, rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """Whole payloads at corners, middles and faces of the boxes, [T, n, ...]."""
    made = {}
    for name, (low, high) in ends.items():
        scale = layered.sources[name].scale
        share = rng.choice([0, 0.5, 1], (len(low), n, *low.shape[2:]))
        made[name] = (low + np.floor((high - low) * scale * share + 1e-3) / scale).astype(np.float32)
    return made


def bounded(layered: LayeredProgram, ends: Ends) -> Bounds:
    return IntervalProgram(layered).bounds(payload_boxes(layered, ends), keep=True)


def assert_holds(layered: LayeredProgram, bounds: Bounds, fed: dict[str, np.ndarray]) -> None:
    """Spikes and states of all layers, all logits and all margins of a run lie within the bounds."""
    names = tuple(layer.name for layer in layered.layers)
    found = run(layered, fed, names)
    for name in names:
        layer = bounds.layers[name]
        assert layer.spikes.holds(torch.from_numpy(found.spikes.rasters[name])).all(), name
        for state, held in (("u", layer.u), ("v", layer.v)):
            assert held is not None
            assert held.holds(torch.from_numpy(found.spikes.states[f"{name}.{state}"])).all(), (name, state)
    for rule in READOUTS:
        readout = Readout(IntervalProgram(layered), rule)
        z = torch.from_numpy(read(found.outputs[layered.outputs[0][0]], rule))
        slack = 1e-9 * (1 + z.abs().max())
        logits = readout.logits(bounds)
        assert ((logits.low - slack <= z) & (z <= logits.high + slack)).all(), rule
        for y in range(z.shape[1]):
            apart = z[:, y : y + 1] - z
            margins = readout.margins(bounds, torch.tensor([y]))
            margins[:, y] = -torch.inf
            assert (margins <= apart + slack).all(), (rule, y)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**9))
def test_random_programs_stay_within_their_bounds(seed: int) -> None:
    """Convolutions, pooling, delays, loops, payloads; one in eight wraps u and saturates v."""
    rng = np.random.default_rng(seed)
    layered = random_program(rng)
    ends = widened(layered, rng, int(rng.integers(1, 7)))
    assert_holds(layered, bounded(layered, ends), inside(layered, ends, rng, 12))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network_stays_within_its_bounds(name: str) -> None:
    rng = np.random.default_rng(1)
    layered = network(name, rng)
    ends = widened(layered, rng, 5)
    assert_holds(layered, bounded(layered, ends), inside(layered, ends, rng, 20))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**9))
def test_all_inputs_of_a_box_obey_what_is_proved(seed: int) -> None:
    layered, (low, high) = tiny(seed), box(seed)
    bounds = bounded(layered, {"x": (low, high)})
    every = points(low, high)
    assert_holds(layered, bounds, {"x": every})
    z = read(run(layered, every).outputs["output"], "mean")
    readout = Readout(IntervalProgram(layered))
    for y in range(3):
        if proved(readout.margins(bounds, torch.tensor([y]))):
            assert (z.argmax(1) == y).all()
            assert (np.sort(z, 1)[:, -1] > np.sort(z, 1)[:, -2]).all()


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**9))
def test_a_box_of_one_point_is_the_run_itself(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layered = random_program(rng)
    fed = frames(layered, rng, 4, 3)
    bounds = bounded(layered, {name: (x, x) for name, x in fed.items()})
    names = tuple(layer.name for layer in layered.layers)
    found = run(layered, fed, names)
    for name in names:
        layer = bounds.layers[name]
        assert layer.v is not None
        assert layer.u is not None
        assert not layer.unstable.any()
        assert torch.equal(layer.spikes.low, torch.from_numpy(found.spikes.rasters[name]))
        assert torch.equal(layer.v.low, torch.from_numpy(found.spikes.states[f"{name}.v"]))
        assert torch.equal(layer.u.high, torch.from_numpy(found.spikes.states[f"{name}.u"]))
    for rule in READOUTS:
        z = Readout(IntervalProgram(layered), rule).logits(bounds)
        np.testing.assert_allclose(z.low, read(found.outputs[layered.outputs[0][0]], rule), atol=1e-9)


def single(layers: int, seed: int) -> LayeredProgram:
    """Chains of one neuron after the other, all weights positive: every layer rises with its input."""
    kit = Kit(np.random.default_rng(seed))
    weight = [np.full((1, 1), w, np.int32) for w in (30, 120, 100)]
    names = ["x", "a", "b"][:layers]
    made = [
        kit.lif(
            n,
            (1,),
            Connection(source, "dense", w, (1,), graded=source == "x"),
            bias_mant=np.zeros(1, np.int32),
        )
        for n, source, w in zip(("a", "b"), names, weight, strict=False)
    ]
    end = kit.sum("r", (1,), Connection(made[-1].name, "dense", weight[2], (1,)))
    return layered_of(*made, end, shape=(1,), input_max=20)


@pytest.mark.parametrize("seed", range(6))
def test_the_current_of_a_first_layer_spans_exactly_what_inputs_reach(seed: int) -> None:
    """u after one step is linear in the payload box, so its ends are those of all inputs."""
    layered, (low, high) = tiny(5 * seed + 1), box(seed)
    states = run(layered, points(low, high), ("a",)).spikes.states["a.u"][0]
    u = bounded(layered, {"x": (low, high)}).layers["a"].u
    assert u is not None
    np.testing.assert_array_equal(u.low[0, 0], states.min(0))
    np.testing.assert_array_equal(u.high[0, 0], states.max(0))


@pytest.mark.parametrize("low", [0.0, 2.0, 5.0])
def test_margins_of_a_linear_readout_equal_the_exhaustive_minimum(low: float) -> None:
    """Inputs go straight into an accumulator: bounds of differences lose nothing, those by element do."""
    kit = Kit(np.random.default_rng(3))
    layered = layered_of(kit.sum("r", (3,), kit.dense("x", 3, 2, graded=True)), shape=(2,), input_max=20)
    ends = np.full((2, 1, 2), low, np.float32), np.full((2, 1, 2), low + 3, np.float32)
    z = read(run(layered, points(*ends)).outputs["output"], "mean")
    readout, bounds = Readout(IntervalProgram(layered)), bounded(layered, {"x": ends})
    by_element, looser = readout.logits(bounds), 0
    for y in range(3):
        expected = (z[:, [y]] - z).min(0)
        found = readout.margins(bounds, torch.tensor([y]))[0].numpy()
        others = [j for j in range(3) if j != y]
        np.testing.assert_allclose(found[others], expected[others], atol=1e-6)
        apart = by_element.low[0, y] - by_element.high[0, others]
        assert (apart <= torch.from_numpy(expected[others]) + 1e-9).all()
        looser += int((apart < torch.from_numpy(expected[others]) - 1e-9).sum())
    assert looser


@pytest.mark.parametrize("layers", [1, 2])
def test_a_chain_of_single_neurons_has_the_exhaustive_range_in_its_first_step(layers: int) -> None:
    layered = single(layers, 0)
    ends = np.full((1, 1, 1), 2, np.float32), np.full((1, 1, 1), 6, np.float32)
    z = read(run(layered, points(*ends)).outputs["output"], "sum")
    found = Readout(IntervalProgram(layered), "sum").logits(bounded(layered, {"x": ends}))
    assert (float(found.low), float(found.high)) == pytest.approx((z.min(), z.max()))


@settings(max_examples=60, deadline=None)
@given(st.integers(-(1 << 36), 1 << 36), st.integers(0, 300), st.integers(0, 4096))
def test_maps_of_whole_numbers_give_the_tightest_box(low: int, width: int, keep: int) -> None:
    every = torch.arange(low, low + width + 1)
    for edge in (0, UV - low - width // 2, -UV - low - width // 2, INT32 - low - width // 2):
        x = every + edge
        box = Box(x[:1], x[-1:])
        maps = {
            "wrap": (wrapped(box, UV), (x + UV) % (2 * UV) - UV),
            "once": (
                wrapped_once(box),
                torch.where(x > UV, x - 2 * UV, torch.where(x <= -UV, x + 2 * UV, x)),
            ),
            "clip": (saturated(box), x.int().long().clamp(1 - UV, UV - 1)),
        }
        if abs(int(x[0])) < 1 << 32:
            exact = torch.tensor([int(v) * keep // 4096 if v >= 0 else -(-int(v) * keep // 4096) for v in x])
            assert torch.equal(decay(x, keep), exact)
        for name, (found, image) in maps.items():
            assert (int(found.low), int(found.high)) == (int(image.min()), int(image.max())), name


def test_larger_boxes_have_looser_bounds_and_more_undecided_spikes() -> None:
    rng = np.random.default_rng(4)
    layered = network("chain", rng)
    middle = frames(layered, rng, 6, 4, 0.3)["x"]
    program, counts = IntervalProgram(layered), []
    free = rng.random(middle.shape)
    for share in (0, 0.05, 0.3, 1):
        ends = {"x": (np.where(free < share, 0, middle), np.where(free < share, 1, middle))}
        found = program.bounds(payload_boxes(layered, ends))
        counts.append(program.stability(found))
    assert [c.unstable for c in counts] == sorted(c.unstable for c in counts)
    assert counts[0].unstable == 0 < counts[-1].unstable
    assert len({c.total for c in counts}) == 1


def test_stability_counts_the_spikes_that_all_inputs_share() -> None:
    layered, (low, high) = tiny(7), box(7)
    program = IntervalProgram(layered)
    bounds = bounded(layered, {"x": (low, high)})
    raster = {n: run(layered, points(low, high), ("a", "b")).spikes.rasters[n] for n in ("a", "b")}
    for name, spikes in raster.items():
        layer = bounds.layers[name]
        assert not (layer.never[:, 0].numpy() & spikes.any(1)).any()
        assert not (layer.always[:, 0].numpy() & ~spikes.all(1)).any()
    counted = program.stability(bounds)
    assert counted.total == 2 * 2 * 4
    assert counted.never == sum(int(bounds.layers[n].never.sum()) for n in ("a", "b"))


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6))
def test_assumed_spikes_hold_for_the_inputs_that_fire_so(seed: int) -> None:
    layered, (low, high) = tiny(seed), box(seed)
    every = points(low, high)
    found = run(layered, every, ("a", "b", "r"))
    for spike in (0, 1):
        forced = torch.full((2, 1, 4), -1, dtype=torch.int8)
        forced[0, 0, 1] = spike
        bounds = IntervalProgram(layered).bounds(
            payload_boxes(layered, {"x": (low, high)}), True, {"a": forced}
        )
        chosen = found.spikes.rasters["a"][0, :, 1] == bool(spike)
        if chosen.any():
            assert bounds.feasible.all()
            assert_holds(layered, bounds, {"x": every[:, chosen]})


def test_the_difference_bound_is_used_only_where_the_readout_is_linear() -> None:
    """Weights that saturate the accumulator: the filter says nothing, and margins still hold."""
    end = lif("r", (2,), Connection("x", "dense", np.full((2, 3), 254, np.int32), (3,), 9), dv=0, vth=131071)
    layered = layered_of(dataclasses.replace(end, readout="sum"), shape=(3,))
    ends = {"x": (np.zeros((8, 1, 3), np.float32), np.ones((8, 1, 3), np.float32))}
    readout, bounds = Readout(IntervalProgram(layered)), bounded(layered, ends)
    linear = Filter.of(readout, layered.layers[0], 8)
    assert linear is not None
    assert not bounds.layers["r"].calm.any()
    assert torch.isinf(linear.differences(bounds, torch.tensor([0]))).all()
    assert_holds(layered, bounds, inside(layered, ends, np.random.default_rng(0), 20))


def test_programs_in_floating_point_and_missing_inputs_are_refused() -> None:
    with pytest.raises(UnsupportedNode, match="integer"):
        IntervalProgram(network("chain", np.random.default_rng(0), "float"))
    layered = network("two inputs and outputs", np.random.default_rng(0))
    with pytest.raises(UsageError, match="x, y"):
        IntervalProgram(layered).bounds({})
    with pytest.raises(UsageError, match="Readout"):
        Readout(IntervalProgram(layered), "max")


def test_grid_weights_of_all_sizes_are_summed_exactly() -> None:
    """Sums beyond 2^24, where float32 would round."""
    rng = np.random.default_rng(0)
    c = Connection("x", "dense", grid(rng, 4, 40), (40,), graded=True)
    layered = layered_of(lif("a", (4,), c), shape=(40,), input_max=1 << 17)
    low = rng.integers(-(1 << 17), 1 << 17, (3, 1, 40)).astype(np.float32)
    ends = {"x": (low, low + 1)}
    assert_holds(layered, bounded(layered, ends), inside(layered, ends, rng, 30))
