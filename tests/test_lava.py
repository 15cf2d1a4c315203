"""The `lava` target runs real lava-nc, compared with an independent transcription and recorded traces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lava_compare
import lava_listing
import numpy as np
import pytest
from lava_networks import chain, dense_chain, fit, grid, lif, program

from rsc.errors import UsageError
from rsc.hw_targets import lava, lava_env
from rsc.hw_targets.base import StepsResult
from rsc.hw_targets.lava import LavaTarget
from rsc.layered import STATE_MAX, Connection, Layer, LayeredProgram
from rsc.results import Probe

STATUS = lava_env.status()
RECORDED = Path(__file__).resolve().parents[2] / "shared" / "conformance" / "01_lif"
needs_lava = pytest.mark.skipif(not STATUS.available, reason=f"{STATUS.reason} {STATUS.fix}")


def run_on(target: LavaTarget, layered: LayeredProgram, frames: np.ndarray) -> StepsResult:
    names = [layer.name for layer in layered.layers]
    with target.deploy(layered) as model:
        return model._steps({"x": frames.astype(np.float32)}, Probe.everything(names))


def assert_equal_to_listing(layered: LayeredProgram, frames: np.ndarray, found: StepsResult) -> None:
    """Spikes, u, v and counts of all layers; exact in integers, rounding of sums apart in floats."""
    lava_compare.assert_equal_to_listing(layered, {"x": frames.astype(np.float32)}, found)


def test_options_are_checked():
    assert LavaTarget("float", "runtime").arithmetic == "float"
    for options in (("fixd",), ("fixed", "float"), ("models", "runtime"), ("float", "loihi2")):
        with pytest.raises(UsageError):
            LavaTarget(*options)


# Arithmetic: many layers side by side, all fed by the same input, so that one job covers all cases.

DENSE_CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # name: (weights low and high, weight_exp), neuron
    "basic": ({}, {"du": 300, "dv": 120, "vth": 60}),
    "positive weights only": ({"low": 0}, {"du": 1000, "dv": 120, "vth": 400}),
    "negative weights and a bias": (
        {"high": 0},
        {"du": 1000, "dv": 120, "vth": 400, "bias_mant": 4000, "bias_exp": 6},
    ),
    "u wraps, v saturates": ({"exp": 7}, {"du": 10, "dv": 1, "vth": 131071}),
    "negative weight exponent": ({"exp": -3}, {"du": 100, "dv": 10, "vth": 100}),
    "no memory in u": ({}, {"du": 4095, "dv": 400, "vth": 100}),
    "no memory in v": ({}, {"du": 400, "dv": 4096, "vth": 100}),
    "negative bias exponent": ({}, {"du": 400, "dv": 100, "vth": 100, "bias_mant": -77, "bias_exp": -3}),
    "u wraps below the threshold": ({"low": 200, "exp": 8}, {"du": 0, "dv": 0, "vth": 131071}),
    "u wraps more than once": ({"low": 200, "exp": 14}, {"du": 0, "dv": 0, "vth": 131071}),
    "threshold 0": ({}, {"du": 2048, "dv": 2048, "vth": 0}),
}


def dense_cases(rng: np.random.Generator, names: list[str]) -> LayeredProgram:
    layers = []
    for name in names:
        weights, neuron = dict(DENSE_CASES[name][0]), dict(DENSE_CASES[name][1])
        exponent = weights.pop("exp", 0)
        c = Connection("x", "dense", grid(rng, 12, 40, **weights), (40,), exponent)
        mantissa = np.full(12, neuron.pop("bias_mant", 0), np.int32)
        layers.append(lif(name, (12,), c, bias_mant=mantissa, **neuron))
    c = Connection("x", "dense", grid(rng, 12, 40), (40,))
    layers.append(lif("bias vector", (12,), c, bias_mant=rng.integers(-4096, 4096, 12), bias_exp=7))
    return program(*layers, shape=(40,))


@needs_lava
@pytest.mark.lava
def test_dense_layers_are_bit_exact():
    rng = np.random.default_rng(0)
    layered = dense_cases(rng, list(DENSE_CASES))
    frames = rng.random((60, 2, 40)) < 0.5
    found = run_on(LavaTarget(), layered, frames)
    assert_equal_to_listing(layered, frames, found)
    v = found.spikes.states["u wraps, v saturates.v"]
    assert (np.abs(v) == STATE_MAX).any()  # the case is what it says
    assert np.abs(found.spikes.states["u wraps more than once.u"]).max() > 1 << 23
    assert found.saturated > 0


@needs_lava
@pytest.mark.lava
@pytest.mark.parametrize("convolution", ["sparse", "conv"])
def test_convolutions_and_pooling_are_bit_exact(convolution: str):
    rng = np.random.default_rng(1)
    shape, neuron = (4, 9, 11), {"du": 400, "dv": 60, "vth": 200}

    def conv(name: str, out: tuple[int, int, int], kernel: tuple[int, int], **options: Any) -> Layer:
        weight = grid(rng, out[0], 4 // options.get("groups", 1), *kernel, low=-60, high=60)
        if options.pop("huge", False):
            weight = rng.integers(-(1 << 20), 1 << 21, weight.shape).astype(np.int32)
        return lif(name, out, Connection("x", "conv", weight, shape, **options), **neuron)

    two = (2, 2)
    layers = [
        conv("plain", (3, 9, 11), (3, 3), padding=(1, 1)),
        conv("asymmetric", (5, 5, 9), (3, 5), padding=(1, 2), stride=(2, 1), dilation=(1, 1)),
        conv("dilated", (2, 7, 9), (2, 3), padding=(0, 1), dilation=(2, 2)),
        conv("grouped", (6, 9, 11), (3, 3), padding=(1, 1), groups=2),
        conv("depthwise", (4, 4, 5), (2, 2), stride=two, groups=4),
        conv("current wraps at 24 bits", (3, 9, 11), (3, 3), padding=(1, 1), huge=True),
        conv("pooled, padded", (3, 9, 5), (2, 3), padding=(1, 1), pool=((1, 2), (1, 3)), stride=(1, 1)),
        conv("overlapping pooling, padded", (2, 4, 5), (3, 3), padding=(1, 1), pool=((3, 3), two)),
        lif(
            "dense on pooling",
            (7,),
            Connection("x", "dense", grid(rng, 7, 80), shape, pool=(two, two)),
            **neuron,
        ),
        lif("dense into an image", (2, 3, 2), Connection("x", "dense", grid(rng, 12, 396), shape), **neuron),
    ]
    frames = rng.random((6, 2, *shape)) < 0.2
    layered = program(*(fit(layer) for layer in layers), shape=shape)
    assert_equal_to_listing(layered, frames, run_on(LavaTarget(convolution), layered, frames))


@needs_lava
@pytest.mark.lava
@pytest.mark.parametrize("convolution", ["sparse", "conv"])
def test_graded_input_keeps_its_values(convolution: str):
    rng = np.random.default_rng(2)
    shape = (2, 6, 7)
    two = (2, 2)
    graded: dict[str, Any] = {"graded": True}
    dense = Connection("x", "dense", grid(rng, 5, 84), shape, **graded)
    shifted = Connection("x", "dense", grid(rng, 5, 84), shape, weight_exp=-2, **graded)
    pooled = Connection("x", "dense", grid(rng, 5, 18), shape, pool=(two, two), **graded)
    conv = Connection("x", "conv", grid(rng, 3, 2, 3, 3), shape, padding=(1, 1), **graded)
    conv_pooled = Connection("x", "conv", grid(rng, 3, 2, 2, 2), shape, pool=(two, two), **graded)
    both = (Connection("x", "conv", grid(rng, 3, 2, 3, 3), shape, padding=(1, 1)), conv)
    layers = [
        *(lif(f"d{i}", (5,), c, du=400, vth=900) for i, c in enumerate((dense, shifted, pooled))),
        fit(lif("c", (3, 6, 7), conv, du=400, vth=900)),
        fit(lif("cp", (3, 2, 2), conv_pooled, du=400, vth=900)),
        lif("spikes and payloads together", (3, 6, 7), *both, du=400, vth=900),
    ]
    layered = program(*layers, shape=shape, input_max=200)
    frames = rng.integers(-300, 300, (8, 2, *shape)) * (rng.random((8, 2, *shape)) < 0.3)
    found = run_on(LavaTarget(convolution), layered, frames)
    assert_equal_to_listing(layered, frames, found)
    assert found.saturated >= (np.abs(frames) > 200).sum()


# Time: the pipeline of several layers, several samples in one stream, biases that act in every step.


@needs_lava
@pytest.mark.lava
@pytest.mark.parametrize("steps", [1, 3, 7])
def test_every_sample_starts_from_zero_and_sees_its_biases_for_its_steps(steps: int):
    """T = 1, T below and above the depth of the network (4 connections)."""
    rng = np.random.default_rng(3)
    layered = chain(rng)
    frames = rng.random((steps, 5, 2, 7, 6)) < 0.4
    found = run_on(LavaTarget(), layered, frames)
    assert_equal_to_listing(layered, frames, found)
    assert steps < 7 or found.spikes.rasters["c"].any()
    v = lava_listing.run(layered, lava_listing.payloads(layered, {"x": frames}))["r"].v
    steps_of_v = np.diff(np.concatenate([np.zeros_like(v[:1]), v]), axis=0)
    assert np.array_equal(found.outputs["output"], steps_of_v / (64 * 12.5))


@needs_lava
@pytest.mark.lava
@pytest.mark.parametrize("arithmetic", ["fixed", "float"])
def test_the_runtime_gives_what_the_models_give(arithmetic: str):
    rng = np.random.default_rng(4)
    layered = chain(rng, "integer" if arithmetic == "fixed" else "float")
    frames = rng.random((6, 3, 2, 7, 6)) < 0.4
    models = run_on(LavaTarget(arithmetic), layered, frames)
    runtime = run_on(LavaTarget(arithmetic, "runtime"), layered, frames)
    assert_equal_to_listing(layered, frames, models)
    assert np.array_equal(models.outputs["output"], runtime.outputs["output"])
    for kind in ("counts", "rasters", "states"):
        ours, theirs = getattr(models.spikes, kind), getattr(runtime.spikes, kind)
        assert set(ours) == set(theirs)
        assert all(np.array_equal(ours[k], theirs[k]) for k in ours), kind


@needs_lava
@pytest.mark.lava
def test_a_batch_cut_into_jobs_gives_the_same(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(5)
    layered = dense_chain(rng)
    frames = rng.random((5, 2, 6)) < 0.6
    whole = run_on(LavaTarget(), layered, frames)
    assert_equal_to_listing(layered, frames, whole)
    assert whole.saturated > 0  # an accumulator that overflows is reported
    monkeypatch.setattr(lava, "JOB_BYTES", 1)
    cut = run_on(LavaTarget(), layered, frames)
    assert np.array_equal(whole.outputs["output"], cut.outputs["output"])
    assert all(np.array_equal(whole.spikes.counts[k], cut.spikes.counts[k]) for k in whole.spikes.counts)
    assert whole.saturated == cut.saturated


# Recordings of another party: one LIF neuron, 1000 steps, made with lava-nc (NIR repository, paper/01_lif).


@needs_lava
@pytest.mark.lava
@pytest.mark.parametrize("arithmetic", ["fixed", "float"])
def test_recorded_traces_are_reproduced(arithmetic: str):
    path = RECORDED / f"lif_lava_cpu_{arithmetic}.csv"
    if not path.exists():
        pytest.skip(
            f"{path.name} is not here: the recordings of the NIR paper are not part of the repository"
        )
    spikes_in, v, spikes_out = np.loadtxt(path, delimiter=",").T
    frames = np.append(0.0, spikes_in[:-1]).reshape(
        -1, 1, 1
    )  # the recording shows the pipeline's one-step delay
    if arithmetic == "fixed":
        c = Connection("x", "dense", np.full((1, 1), 10, np.int32), (1,))
        layered = program(lif("lif", (1,), c, du=4095, dv=163, vth=25), shape=(1,))
    else:
        c = Connection("x", "dense", np.full((1, 1), 0.04), (1,), graded=True)
        layered = program(lif("lif", (1,), c, du=1.0, dv=0.04, vth=0.1), shape=(1,), arithmetic="float")
    found = run_on(LavaTarget(arithmetic), layered, frames)
    unit = 1 if np.abs(v).max() > 100 else 64 * 256
    got = found.spikes.states["lif.v"].ravel() / (unit if arithmetic == "fixed" else 1)
    assert np.flatnonzero(found.outputs["output"]).tolist() == np.flatnonzero(spikes_out).tolist()
    np.testing.assert_allclose(got, v, atol=0 if arithmetic == "fixed" else 1e-7)
