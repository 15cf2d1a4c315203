"""Programs in the time of the chip: what plain Lava networks do from their first step on, bit by bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import lava_listing
import numpy as np
import pytest
import torch
from lava_networks import grid, lif, network, program
from raw_lava import Network, run

from rsc.errors import UnsupportedNode, UsageError
from rsc.hw_targets import lava_env
from rsc.hw_targets.loihi import LoihiModel
from rsc.layered import CONSTANT, Connection, Layer, LayeredProgram, Source
from rsc.pipelined import depth, in_chip_time, padded, pipelined, resting
from rsc.results import Probe

STEPS = 18
STATUS = lava_env.status()
LAVA = [pytest.mark.lava, pytest.mark.skipif(not STATUS.available, reason=f"{STATUS.reason} {STATUS.fix}")]


def on_loihi(layered: LayeredProgram, frames: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """ "name.s", "name.u" and "name.v" [T, B, ...] of every layer."""
    names = frozenset(layer.name for layer in layered.layers)
    model = LoihiModel(None, layered, torch.device("cpu"))
    found = model._steps(dict(frames), Probe(spikes=names, states=names)).spikes
    return {f"{name}.s": raster for name, raster in found.rasters.items()} | dict(found.states)


def dense(source: str, weight: np.ndarray, delay: Any = 0, **options: Any) -> Connection:
    k = np.asarray(delay, np.int32)
    return Connection(source, "dense", weight, (weight.shape[1],), delay=k, **options)


def neurons(rng: np.random.Generator, size: int) -> dict[str, Any]:
    """Synapses that remember, leaks, and biases of which some fire alone within a few steps."""
    bias = rng.integers(-500, 1800, size).astype(np.int32)
    return {"du": 2500, "dv": 300, "vth": 90, "bias_mant": bias, "bias_exp": 0}


def own(layer: Layer) -> dict[str, Any]:
    """A layer's numbers as Lava's LIF takes them; of an image in (W, H, C)."""
    fields = {key: getattr(layer, key) for key in ("du", "dv", "vth", "bias_mant", "bias_exp")}
    fields |= {"v": layer.v_init}
    return {k: np.transpose(v) if np.ndim(v) == 3 else v for k, v in fields.items()}


Built = tuple[LayeredProgram, dict[str, np.ndarray], Network]


def feed_forward(rng: np.random.Generator) -> Built:
    """Three layers with biases; the last one hears all before it, so two ways wait one step and two."""
    w = [grid(rng, 5, 6), grid(rng, 4, 5), grid(rng, 3, 4), grid(rng, 3, 5), grid(rng, 3, 6)]
    layers = (
        lif("a", (5,), dense("x", w[0]), **neurons(rng, 5)),
        lif("b", (4,), dense("a", w[1], weight_exp=1), **neurons(rng, 4), v_init=-3000),
        lif("c", (3,), dense("b", w[2]), dense("a", w[3]), dense("x", w[4]), **neurons(rng, 3)),
    )
    layered, x = program(*layers, shape=(6,)), rng.random((STEPS, 6)) < 0.3
    net = started(layered, {"x": x}, 3)
    net.connect("Dense", "x", "a", w[0], sign_mode="MIXED")
    net.connect("Dense", "a", "b", w[1], sign_mode="MIXED", weight_exp=1)
    net.connect("Dense", "b", "c", w[2], sign_mode="MIXED")
    net.connect("DelayDense", "a", "c", w[3], 1, sign_mode="MIXED")
    net.connect("DelayDense", "x", "c", w[4], 2, sign_mode="MIXED")
    return layered, {"x": x}, net


def delays(rng: np.random.Generator) -> Built:
    """A delay for each synapse. From a to b none is below 1, so b works beside a and waits one step less."""
    w = [grid(rng, 5, 6), grid(rng, 4, 5), grid(rng, 3, 4)]
    k = [rng.integers(0, 4, (5, 6)), rng.integers(1, 5, (4, 5)), np.array(6)]
    k[0].flat[0], k[1].flat[0] = 0, 1
    layers = (
        lif("a", (5,), dense("x", w[0], k[0]), **neurons(rng, 5)),
        lif("b", (4,), dense("a", w[1], k[1]), **neurons(rng, 4)),
        lif("c", (3,), dense("b", w[2], k[2]), **neurons(rng, 3)),
    )
    layered, x = program(*layers, shape=(6,)), rng.random((STEPS, 6)) < 0.3
    net = started(layered, {"x": x}, 1)
    net.connect("DelayDense", "x", "a", w[0], k[0], sign_mode="MIXED")
    net.connect("DelayDense", "a", "b", w[1], k[1] - 1, sign_mode="MIXED")
    net.connect("DelayDense", "b", "c", w[2], 5, sign_mode="MIXED")
    return layered, {"x": x}, net


def recurrence(rng: np.random.Generator) -> Built:
    """a -> b within the step and back two steps later; b hears itself one step later, and the input."""
    w = [grid(rng, 5, 6), grid(rng, 5, 4), grid(rng, 4, 5), grid(rng, 4, 4), grid(rng, 4, 6)]
    layers = (
        lif("a", (5,), dense("x", w[0]), dense("b", w[1], 2), **neurons(rng, 5)),
        lif("b", (4,), dense("a", w[2]), dense("b", w[3], 1), dense("x", w[4]), **neurons(rng, 4)),
    )
    layered, x = program(*layers, shape=(6,)), rng.random((STEPS, 6)) < 0.3
    net = started(layered, {"x": x}, 2)
    net.connect("Dense", "x", "a", w[0], sign_mode="MIXED")
    net.connect("Dense", "b", "a", w[1], sign_mode="MIXED")
    net.connect("Dense", "a", "b", w[2], sign_mode="MIXED")
    net.connect("Dense", "b", "b", w[3], sign_mode="MIXED")
    net.connect("DelayDense", "x", "b", w[4], 1, sign_mode="MIXED")
    return layered, {"x": x}, net


def images(rng: np.random.Generator) -> Built:
    """A convolution of a graded image, a matrix behind it, and the constant in phase with the frames."""
    kernel, matrix, steady = grid(rng, 3, 2, 3, 2, low=-40, high=40), grid(rng, 4, 36), grid(rng, 4, 1)
    shape = (3, 4, 3)
    fields = neurons(rng, 36) | {"bias_mant": rng.integers(-500, 1800, shape).astype(np.int32)}
    conv = Connection("x", "conv", kernel, (2, 4, 4), padding=(1, 0), graded=True)
    flat = Connection("a", "dense", matrix, shape)
    constant = Connection(CONSTANT, "dense", steady, (1,), delay=np.asarray(3, np.int32))
    layers = (lif("a", shape, conv, **fields), lif("b", (4,), flat, constant, **neurons(rng, 4)))
    layered = program(*layers, shape=(2, 4, 4), input_max=5)
    x = rng.integers(-5, 6, (STEPS, 2, 4, 4)) * (rng.random((STEPS, 2, 4, 4)) < 0.3)
    net = started(layered, {"x": x}, 2)
    kernel = kernel[:, :, ::-1, ::-1].transpose(0, 3, 2, 1)
    net.connect("Conv", "x", "a", kernel, input_shape=[4, 4, 2], padding=[0, 1], num_message_bits=8)
    net.connect("Dense", "a", "b", matrix.reshape(4, *shape).transpose(0, 3, 2, 1).reshape(4, -1))
    net.source("one", np.arange(STEPS + 2)[:, None] >= 3 + 1)  # heard from step 3 + 2 on
    net.connect("Dense", "one", "b", steady, sign_mode="MIXED")
    return layered, {"x": x}, net


def started(layered: LayeredProgram, x: Mapping[str, np.ndarray], more: int) -> Network:
    """A Lava network with the neurons of a program and its inputs, followed by so many steps of zeros."""
    net = Network(STEPS + more)
    for name, values in x.items():
        values = np.concatenate([values, np.zeros((more, *values.shape[1:]))])
        net.source(name, values.transpose(0, *range(values.ndim - 1, 0, -1)))
    for layer in layered.layers:
        net.lif(layer.name, layer.shape[::-1], **own(layer))
    return net


CASES = {"biases": feed_forward, "delays": delays, "recurrence": recurrence, "images": images}


@pytest.fixture(scope="module")
def lava_runs() -> list[tuple[str, LayeredProgram, dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """What plain Lava does, of all cases in one interpreter."""
    built = [(name, *make(np.random.default_rng(60 + i))) for i, (name, make) in enumerate(CASES.items())]
    found = run([net for *_, net in built])
    return [(name, layered, x, one) for (name, layered, x, _), one in zip(built, found, strict=True)]


@pytest.mark.parametrize("case", [pytest.param(i, id=name, marks=LAVA) for i, name in enumerate(CASES)])
def test_every_step_is_the_chips(case: int, lava_runs: list[Any]) -> None:
    """s, u and v of every neuron from the first step of the network to the last."""
    _, layered, x, theirs = lava_runs[case]
    frames = padded(layered, {name: values[:, None].astype(np.float32) for name, values in x.items()})
    ours = on_loihi(pipelined(layered), frames)
    assert len(ours) == 3 * len(layered.layers) == len(theirs)
    for key, values in ours.items():
        expected = theirs[key].reshape(len(values), *values.shape[:1:-1])
        expected = expected.transpose(0, *range(expected.ndim - 1, 0, -1))[:, None]
        np.testing.assert_array_equal(values, expected, err_msg=key)
    early = [layer.name for layer in layered.layers if layer.name != "a"]
    assert any(ours[f"{name}.v"][0].any() for name in early)  # biases act before the data come
    assert 0.02 < np.mean([ours[f"{layer.name}.s"].mean() for layer in layered.layers]) < 0.9


@pytest.mark.parametrize("name", ["skip connections", "two populations in a loop", "delays per synapse"])
@pytest.mark.parametrize("arithmetic", ["integer", "float"])
def test_without_biases_the_chips_time_is_the_programs_later(name: str, arithmetic: str) -> None:
    """By the listing of Lava's arithmetic, in integers and in floating point."""
    rng = np.random.default_rng(3)
    layered = network(name, rng, arithmetic)
    quiet = [dataclasses.replace(layer, bias_mant=0 * layer.bias_mant) for layer in layered.layers]
    layered = dataclasses.replace(layered, layers=tuple(quiet))
    assert resting(layered) == set(layered.by_name)
    x = {s.name: (rng.random((12, 2, *s.shape)) < 0.6).astype(np.float32) for s in layered.inputs}
    before = lava_listing.run(layered, lava_listing.payloads(layered, x))
    chip = pipelined(layered)
    after = lava_listing.run(chip, lava_listing.payloads(chip, padded(layered, x)))
    assert any(trace.s.any() for trace in before.values())
    for layer in layered.layers:
        for key in "suv":
            ours = in_chip_time(layered, layer.name, getattr(before[layer.name], key))
            theirs = getattr(after[layer.name], key)[: len(ours)]
            np.testing.assert_array_equal(ours, theirs, err_msg=f"{layer.name}.{key}")


def test_a_bias_fires_before_the_first_frame_and_is_told() -> None:
    """vth 10, bias 4 a step, no leak: fires at the third step, wherever the input is."""
    weight = np.full((1, 1), 2, np.int32)
    bias: dict[str, Any] = {"dv": 0, "vth": 10, "bias_mant": np.array([4]), "bias_exp": 6}
    layers = [lif("a", (1,), dense("x", weight), vth=1)]
    layers += [lif(b, (1,), dense(a, weight), vth=1) for a, b in ("ab", "bc")]
    layers += [lif("d", (1,), dense("c", weight), **bias), lif("e", (1,), dense("d", 0 * weight), vth=1)]
    layered = program(*layers, shape=(1,))
    x = {"x": np.zeros((3, 1, 1), np.float32)}
    assert on_loihi(layered, x)["d.s"].ravel().tolist() == [False, False, True]
    chip = on_loihi(pipelined(layered), padded(layered, x))
    assert np.flatnonzero(chip["d.s"].ravel()).tolist() == [2, 5]  # in the program's time it would be 6
    assert depth(layered) == 5
    assert resting(layered) == {"a", "b", "c"}
    for name in "de":
        with pytest.raises(UnsupportedNode, match=f"'{name}' does not wait"):
            in_chip_time(layered, name, chip["d.s"])
    with pytest.raises(UsageError, match="Layers: a, b"):
        in_chip_time(layered, "nobody", chip["d.s"])


def test_v_that_starts_elsewhere_rests_only_without_leak() -> None:
    weight = np.full((2, 2), 2, np.int32)

    def one(**changes: Any) -> frozenset[str]:
        return resting(program(lif("a", (2,), dense("x", weight), **changes), shape=(2,)))

    assert one(v_init=-500, dv=0) == {"a"}
    assert one(v_init=np.array([0, -500]), dv=np.array([9, 0])) == {"a"}
    assert one(v_init=np.array([0, -500]), dv=9) == set()
    assert one(v_init=500, vth=7, dv=0) == set()  # above the threshold
    assert one(v_init=4096, dv=64, bias_mant=np.full(2, 64), vth=100) == {"a"}  # the leak eats the bias


def test_delays_are_those_of_the_chip() -> None:
    """One step for each connection; what waited in the program's time waits one step longer."""
    rng = np.random.default_rng(0)
    for name in ("skip connections", "constant source", "two inputs and outputs"):
        layered = network(name, rng)
        chip, level = pipelined(layered), layered.levels()
        for before, after in zip(layered.layers, chip.layers, strict=True):
            for a, b in zip(before.connections, after.connections, strict=True):
                expected = level[before.name] + a.delay
                expected = expected if a.source == CONSTANT else expected - level[a.source]
                assert np.array_equal(b.delay, expected)
                assert a.weight is b.weight
        assert chip.outputs == layered.outputs


def test_a_chip_program_is_saved_like_any_other(tmp_path: Any) -> None:
    chip = pipelined(network("skip connections", np.random.default_rng(1)))
    (tmp_path / "chip.npz").write_bytes(chip.to_bytes())
    assert LayeredProgram.load(tmp_path / "chip.npz").digest == chip.digest


def test_levels_handed_out_may_be_changed() -> None:
    """They are kept with the frozen program, which a caller cannot spoil."""
    layered = network("skip connections", np.random.default_rng(2))
    layered.levels().clear()
    assert layered.levels()["c"] == 3
    assert dataclasses.replace(layered, inputs=(*layered.inputs, Source("y", (1,)))).levels()["y"] == 0
