"""Everything the lowered form can say, run by real lava-nc and compared with the listing, step by step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import lava_networks
import numpy as np
import pytest
from lava_compare import assert_equal_to_listing
from lava_networks import Kit, frames, network, program, random_program

from rsc.errors import UnsupportedNode
from rsc.hw_targets import lava, lava_env, lava_job
from rsc.hw_targets.base import StepsResult
from rsc.hw_targets.lava import LavaTarget
from rsc.layered import CONSTANT, Connection, LayeredProgram, Source
from rsc.results import Probe

STATUS = lava_env.status()
on_lava = [
    pytest.mark.lava,
    pytest.mark.skipif(not STATUS.available, reason=f"{STATUS.reason} {STATUS.fix}"),
]


def marked(*values: Any) -> Any:
    return pytest.param(*values, marks=on_lava)


def run_on(options: tuple[str, ...], layered: LayeredProgram, fed: Mapping[str, np.ndarray]) -> StepsResult:
    with LavaTarget(*options).deploy(layered) as model:
        return model._steps(fed, Probe.everything([layer.name for layer in layered.layers]))


def arithmetic_of(options: tuple[str, ...]) -> str:
    return "float" if "float" in options else "integer"


def compare(options: tuple[str, ...], layered: LayeredProgram, fed: Mapping[str, np.ndarray]) -> StepsResult:
    found = run_on(options, layered, fed)
    assert_equal_to_listing(layered, fed, found)
    return found


# In Lava's runtime all networks in fixed point; in floating point those that differ in what carries numbers.
FLOAT_RUNTIME = ("parameters per neuron", "delays per synapse", "constant source", "leaky readout")
RUNS = [
    *(marked(name, (kind,)) for name in lava_networks.NETWORKS for kind in ("fixed", "float")),
    *(marked(name, ("fixed", "runtime")) for name in lava_networks.NETWORKS),
    *(marked(name, ("float", "runtime")) for name in FLOAT_RUNTIME),
]


@pytest.mark.parametrize(("name", "options"), RUNS)
def test_every_ability_gives_what_the_listing_says(name: str, options: tuple[str, ...]):
    rng = np.random.default_rng(1)
    layered = network(name, rng, arithmetic_of(options))
    found = compare(options, layered, frames(layered, rng, steps=6, samples=3))
    assert any(raster.any() for raster in found.spikes.rasters.values())


@pytest.mark.parametrize("seed", [marked(seed) for seed in range(12)])
def test_random_programs_give_what_the_listing_says(seed: int):
    rng = np.random.default_rng(seed)
    options = ("fixed", "float")[seed % 2]
    layered = random_program(rng, arithmetic_of((options,)))
    try:
        compare((options,), layered, frames(layered, rng, steps=int(rng.integers(1, 9)), samples=3))
    except UnsupportedNode as error:
        if "wraps at 24 bits" not in str(error):  # what a delayed convolution cannot do in Lava
            raise
        pytest.skip(str(error))


# Samples: one stream, in which no sample may hear of another.


@pytest.mark.parametrize("steps", [marked(steps) for steps in (1, 2, 4)])
@pytest.mark.parametrize("name", ["delays per synapse", "two populations in a loop", "constant source"])
def test_delays_longer_than_a_sample_do_not_reach_the_next(name: str, steps: int):
    rng = np.random.default_rng(2)
    layered = network(name, rng)
    fed = frames(layered, rng, steps, samples=4, rate=0.8)
    found = compare(("fixed",), layered, fed)
    alone = run_on(("fixed",), layered, {key: values[:, 3:] for key, values in fed.items()})
    for key, values in alone.spikes.states.items():
        assert np.array_equal(values, found.spikes.states[key][:, 3:]), key


@pytest.mark.parametrize(
    ("name", "gap"),
    [("chain", 0), ("skip connections", 0), ("self-recurrent", 1), ("two populations in a loop", 2)],
)
def test_only_what_needs_it_runs_with_gaps(name: str, gap: int):
    """Waits alone, which only make paths equally long, carry nothing from one sample to the next."""
    rng = np.random.default_rng(3)
    layered = network(name, rng)
    header, _ = planned(layered, frames(layered, rng, steps=5, samples=2))
    assert (header["period"], header["gated"]) == (5 + gap, gap > 0)


def planned(layered: LayeredProgram, fed: Mapping[str, np.ndarray], **options: Any) -> tuple[Any, Any]:
    payload = {s.name: s.payload(fed[s.name], layered.arithmetic) for s in layered.inputs}
    return lava_job.plan(layered, payload, lava_job.Recording(), lava_job.JobOptions(**options))


@pytest.mark.parametrize("name", ["self-recurrent", "leaky readout"])
def test_the_chip_has_no_such_neurons(name: str):
    rng = np.random.default_rng(4)
    layered = network(name, rng)
    with pytest.raises(UnsupportedNode, match="told apart on the chip"):
        planned(layered, frames(layered, rng, 2, 1), engine="runtime", run_config="Loihi2HwCfg")


@pytest.mark.parametrize("options", [marked(("fixed",)), marked(("float",))])
def test_v_starts_a_sample_only_when_the_sample_reaches_the_layer(options: tuple[str, ...]):
    """Without spikes, v of a layer at level 2 is v_init, decayed and biased once for each step."""
    kit = Kit(np.random.default_rng(5), arithmetic_of(options))
    fixed = {"du": 4095, "dv": 1024, "vth": 131071, "bias_mant": np.array([100, 0]), "bias_exp": 0}
    real = {"du": 1.0, "dv": 0.25, "vth": 1e9, "bias_mant": np.array([100.0, 0.0])}
    neuron: dict[str, Any] = fixed if kit.integer else real
    layered = program(
        kit.lif("a", (3,), kit.dense("x", 3, 2), **(neuron | {"bias_mant": np.zeros(3, np.int32)})),
        kit.lif("b", (2,), kit.dense("a", 2, 3), v_init=np.array([4096, -2048]), **neuron),
        shape=(2,),
        arithmetic=kit.arithmetic,
    )
    found = run_on(options, layered, {"x": np.zeros((3, 3, 2), np.float32)})
    v = found.spikes.states["b.v"]
    expected = [[4096 * 0.75 + 100, -2048 * 0.75]]
    expected.append([expected[0][0] * 0.75 + 100, -2048 * 0.75**2])
    assert np.array_equal(v[:2], np.broadcast_to(np.array(expected)[:, None], (2, 3, 2)))
    assert (v == v[:, :1]).all()


# Connections.


@pytest.mark.parametrize("options", [marked(("fixed", "conv")), marked(("fixed", "sparse", "runtime"))])
def test_a_large_kernel_that_waits_keeps_its_exponent(options: tuple[str, ...]):
    """Kernels take in a power of two, which a matrix cannot."""
    kit = Kit(np.random.default_rng(6))
    into = Connection("x", "conv", kit.weight(3, 2, 3, 3) << 2, (2, 4, 5), padding=(1, 1))
    layered = program(
        kit.lif("a", (3, 4, 5), into, dataclasses.replace(into, delay=np.asarray(3, np.int32)), vth=700),
        shape=(2, 4, 5),
    )
    compare(options, layered, frames(layered, kit.rng, 6, 3))


@pytest.mark.parametrize("options", [marked(("fixed",)), marked(("float",))])
def test_synapses_behind_overlapping_windows_may_wait_differently(options: tuple[str, ...]):
    kit = Kit(np.random.default_rng(7), arithmetic_of(options))
    delay = kit.rng.integers(0, 4, (5, 12)).astype(np.int32)
    c = kit.dense("x", 5, 12, delay, pool=((2, 2), (1, 1)))
    weight = c.weight // 8 * 2 if kit.integer else c.weight  # sums of windows stay on the grid
    c = dataclasses.replace(c, weight=weight, source_shape=(1, 4, 5))
    layered = program(kit.lif("a", (5,), c), shape=(1, 4, 5), arithmetic=kit.arithmetic)
    compare(options, layered, frames(layered, kit.rng, 6, 3))


@pytest.mark.parametrize("options", [marked(("fixed",)), marked(("fixed", "runtime")), marked(("float",))])
def test_the_constant_comes_anew_in_every_sample(options: tuple[str, ...]):
    """At the levels 1 and 2, from the steps 0, 1 and, for each synapse, 0 to 9; a plain stream."""
    kit = Kit(np.random.default_rng(8), arithmetic_of(options))
    own = dataclasses.replace(kit.constant(4, 0), delay=np.array([[0], [2], [9], [2]], np.int32))
    none = {"bias_mant": np.zeros(6, np.int32 if kit.integer else float)}
    layered = program(
        kit.lif("a", (6,), kit.dense("x", 6, 5), kit.constant(6, 1), **none),
        kit.lif("b", (4,), kit.dense("a", 4, 6), kit.constant(4, 0), own),
        shape=(5,),
        arithmetic=kit.arithmetic,
    )
    fed = frames(layered, kit.rng, 5, 4)
    assert not planned(layered, fed)[0]["gated"]
    compare(options, layered, fed)


def test_the_constant_is_sent_one_step_ahead():
    """What arrives in step k of a layer at level 2 leaves its source in Lava step k + 1 (0-based)."""
    kit = Kit(np.random.default_rng(9))
    layered = program(
        kit.lif("a", (2,), kit.dense("x", 2, 1)),
        kit.lif("b", (2,), kit.dense("a", 2, 2), kit.dense(CONSTANT, 2, 1, np.array([[1], [3]]))),
        shape=(1,),
    )
    _, arrays = planned(layered, {"x": np.zeros((4, 1, 1))})
    assert arrays["1.1.constant"].tolist() == [[1, 0, 1, 1], [1, 0, 0, 0]]


@pytest.mark.parametrize("options", [marked(("fixed",)), marked(("fixed", "runtime"))])
def test_what_is_not_spikes_counts_once_where_spikes_are_heard(options: tuple[str, ...]):
    kit = Kit(np.random.default_rng(10))
    conv = Connection("x", "conv", kit.weight(2, 1, 2, 2), (1, 3, 3))
    layered = program(kit.lif("a", (2, 2, 2), conv), shape=(1, 3, 3))
    compare(options, layered, {"x": kit.rng.integers(-1, 2, (5, 3, 1, 3, 3)).astype(np.float32)})


# Several inputs and outputs.


def two_parts(kit: Kit) -> LayeredProgram:
    """Two networks that share nothing, and a layer that hears nothing."""
    layers = (
        kit.lif("a", (4,), kit.dense("x", 4, 5), kit.dense("a", 4, 4, 1)),
        kit.sum("r", (3,), kit.dense("a", 3, 4)),
        kit.state("b", (3,), kit.dense("y", 3, 3, graded=True)),
        kit.lif("c", (3,)),
    )
    inputs = (Source("x", (5,), 1.0, 1), Source("y", (3,), 4.0, 9))
    return LayeredProgram(kit.arithmetic, layers, inputs, (("one", ("r",)), ("two", ("b", "c"))))


@pytest.mark.parametrize(
    "options", [marked(("fixed",)), marked(("fixed", "runtime")), marked(("float", "runtime"))]
)
def test_parts_that_share_nothing_all_run(options: tuple[str, ...]):
    kit = Kit(np.random.default_rng(11), arithmetic_of(options))
    layered = two_parts(kit)
    found = compare(options, layered, frames(layered, kit.rng, 5, 3))
    assert found.spikes.rasters["a"].any()
    assert found.spikes.rasters["c"].any()


@pytest.mark.lava
@pytest.mark.skipif(not STATUS.available, reason=f"{STATUS.reason} {STATUS.fix}")
def test_a_batch_of_two_inputs_is_cut_alike(monkeypatch: pytest.MonkeyPatch):
    kit = Kit(np.random.default_rng(12))
    layered = two_parts(kit)
    fed = {name: values * 3 for name, values in frames(layered, kit.rng, 4, 3).items()}
    whole = compare(("fixed",), layered, fed)
    monkeypatch.setattr(lava, "JOB_BYTES", 1)
    cut = compare(("fixed",), layered, fed)
    assert whole.saturated == cut.saturated > 0
