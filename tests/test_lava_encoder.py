"""The encoder and the vote as Lava processes: image in, votes out, equal to the integer model bit by bit."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest

from rsc.cli import export
from rsc.coding import encode
from rsc.errors import UnsupportedNode, UsageError
from rsc.export.reader import read_program
from rsc.export.writer import write_program
from rsc.hw_targets import deploy, lava_env
from rsc.hw_targets.lava import LavaModel, LavaTarget
from rsc.program import EncoderSpec, Program, Semantics
from rsc.results import Keys, Probe

needs_lava = pytest.mark.skipif(not lava_env.status().available, reason="the Lava environment is missing")


def lava(net: Program, *options: str) -> LavaModel:
    return LavaTarget("encoder", *options).compile(net)


def spec_of(kind: str, **fields: Any) -> EncoderSpec:
    return EncoderSpec(kind, 4, **fields)  # type: ignore[arg-type]


ENCODERS = {
    "rsc2": spec_of("rsc2", sigma=0.4, grid=16, mean=(0.3, 0.6), std=(0.35, 0.35)),
    "rsc1": spec_of("rsc1", sigma=0.4, grid=255),
    "per step": spec_of("rsc2", step_sigma=(0.1, 0.2, 0.3, 0.4), grid=64, clip=(-0.5, 1.5)),
    "noise last": spec_of("rsc2", sigma=0.5, grid=32, clip=(-1.0, 1.0), order=("normalise", "clip", "noise")),
    "bernoulli": spec_of("bernoulli"),
    "shared coins": spec_of("bernoulli", shared=True, bits=8),
    "scaled coins": spec_of("bernoulli", mean=(0.5,), std=(0.25,)),
    "signed": spec_of("signed", mean=(0.5,), std=(0.5,), order=("normalise", "clip", "noise")),
    "direct": spec_of("direct", mean=(0.3,), std=(0.35,)),
    "direct on a grid": spec_of("direct", grid=16),
}


def program(encoder: EncoderSpec | None, readout: str = "affine") -> Program:
    """[2, 4, 3] -> conv -> LIF -> five classes, by weights, spikes or a leaky integrator."""
    rng = np.random.default_rng(0)
    full = lambda n, *values: [np.full(n, v, np.float64) for v in values]  # noqa: E731
    nodes: dict[str, nir.NIRNode] = {
        "input": nir.Input({"input": np.array([2, 4, 3])}),
        "conv": nir.Conv2d((4, 3), rng.normal(size=(3, 2, 3, 3)) * 0.4, 1, 1, 1, 1, rng.normal(size=3) * 0.1),
        "lif": nir.LIF(*full((3, 4, 3), 2e-3, 2.0, 0.0, 1.0)),
        "flat": nir.Flatten({"input": np.array([3, 4, 3])}, 0, -1),
        "out": nir.Affine(rng.normal(size=(5, 36)), rng.normal(size=5) * 0.1),
    }
    if readout == "lif":
        nodes["last"] = nir.LIF(*full(5, 2e-3, 2.0, 0.0, 1.0))
    if readout == "li":
        nodes["last"] = nir.LI(*full(5, 2e-3, 2.0, 0.1))
    nodes["output"] = nir.Output({"output": np.array([5])})
    names = list(nodes)
    edges = list(itertools.pairwise(names))
    return Program(nir.NIRGraph(nodes, edges), Semantics(1e-3), encoder, (0.0, 1.0), tuple("abcde"))


IMAGES = (np.random.default_rng(1).integers(0, 17, (6, 2, 4, 3)) / 16).astype(np.float32)
KEYS = Keys(2**40 + 3, np.array([5, 0, 9, 1, 7, 123456]), draw=np.arange(6) % 3, stream="score")


@needs_lava
@pytest.mark.parametrize("name", ENCODERS)
def test_lava_draws_the_frames_of_the_integer_model(name: str) -> None:
    net, probe = program(ENCODERS[name]), Probe.everything(("lif", "out"))
    expected = deploy(net, "loihi").run(IMAGES, KEYS, probe)
    with lava(net) as model:
        found = model.run(IMAGES, KEYS, probe)
    assert expected.spikes.counts["lif"].any()
    np.testing.assert_array_equal(found.logits, expected.logits)
    for key, value in expected.spikes.states.items():
        np.testing.assert_array_equal(found.spikes.states[key], value, err_msg=key)
    np.testing.assert_array_equal(found.spikes.rasters["lif"], expected.spikes.rasters["lif"])


@needs_lava
@pytest.mark.parametrize("name", ["rsc2", "bernoulli"])
def test_the_multi_process_runtime_draws_them_too(name: str) -> None:
    net, probe = program(ENCODERS[name]), Probe.everything(("lif",))
    expected = deploy(net, "loihi").run(IMAGES[:3], Keys(1, np.arange(3)), probe)
    with lava(net, "runtime") as model:
        found = model.run(IMAGES[:3], Keys(1, np.arange(3)), probe)
        votes = model.votes(IMAGES[:3], Keys(1, np.arange(3)), 2)
    np.testing.assert_array_equal(found.spikes.states["lif.v"], expected.spikes.states["lif.v"])
    np.testing.assert_array_equal(found.logits, expected.logits)
    assert votes.sum(1).tolist() == [2, 2, 2]


@needs_lava
@pytest.mark.parametrize("name", ["rsc2", "signed", "direct"])
def test_in_floating_point_lava_follows_the_reference(name: str) -> None:
    net = program(ENCODERS[name])
    expected = deploy(net, "reference").run(IMAGES, KEYS)
    with lava(net, "float") as model:
        np.testing.assert_allclose(model.run(IMAGES, KEYS).logits, expected.logits, atol=1e-6)


@needs_lava
@pytest.mark.parametrize("readout", ["affine", "lif", "li"])
def test_votes_are_those_of_as_many_runs(readout: str) -> None:
    net, draws = program(ENCODERS["rsc2"], readout), 5
    expected = np.zeros((len(IMAGES), 5), np.int64)
    integer = deploy(net, "loihi")
    for k in range(draws):
        drawn = integer.run(IMAGES, KEYS.replace(draw=np.asarray(KEYS.draw) + k))
        expected[np.arange(len(IMAGES)), drawn.predictions] += 1
    with lava(net) as model:
        votes = model.votes(IMAGES, KEYS, draws)
    np.testing.assert_array_equal(votes, expected)
    assert (expected > 0).sum() > len(IMAGES)  # the runs do not all agree


@needs_lava
def test_large_batches_are_cut_without_changing_a_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    net = program(ENCODERS["rsc2"])
    with lava(net) as model:
        whole, votes = model.run(IMAGES, KEYS), model.votes(IMAGES, KEYS, 2)
        monkeypatch.setattr("rsc.hw_targets.lava.JOB_BYTES", 4 * 1024)
        np.testing.assert_array_equal(model.run(IMAGES, KEYS).logits, whole.logits)
        np.testing.assert_array_equal(model.votes(IMAGES, KEYS, 2), votes)


@needs_lava
def test_ready_made_frames_are_still_taken() -> None:
    net = program(ENCODERS["rsc2"])
    frames = encode(ENCODERS["rsc2"], IMAGES, KEYS)
    with lava(net) as model:
        np.testing.assert_array_equal(model.run_frames(frames).logits, model.run(IMAGES, KEYS).logits)


@needs_lava
def test_noise_without_a_grid_is_no_process() -> None:
    with pytest.raises(UnsupportedNode, match="real-valued"):
        lava(program(spec_of("rsc2", sigma=0.4)))
    with pytest.raises(UsageError, match="no encoder"):
        lava(program(None))


@needs_lava
def test_votes_need_a_draw() -> None:
    with lava(program(ENCODERS["rsc2"])) as model, pytest.raises(UsageError, match="draws"):
        model.votes(IMAGES, KEYS, 0)


def test_payloads_on_a_grid_are_whole_levels() -> None:
    """What the chip is sent loses nothing: level minus mean level, or a power of two of it, rounded."""
    from rsc.export.loihi import lower

    encoder = spec_of("rsc2", sigma=0.4, grid=8, mean=(0.25,), std=(0.5,))
    net = program(encoder)
    source = lower(net).inputs[0]
    assert source.scale == 8 * 0.5
    frames = encode(encoder, IMAGES, KEYS)
    levels = frames.astype(np.float64) * 4
    np.testing.assert_array_equal(source.payload(frames, "integer"), np.rint(levels))
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-5)


def test_coins_are_spikes_to_the_chip() -> None:
    from rsc.export.loihi import lower

    assert not any(
        c.graded for layer in lower(program(ENCODERS["bernoulli"])).layers for c in layer.connections
    )
    signed = lower(program(ENCODERS["signed"]))
    assert signed.layers[0].connections[0].graded
    assert signed.inputs[0].maximum == 1


def test_export_puts_an_encoder_on_a_grid(tmp_path: Path) -> None:
    given, made = tmp_path / "given.nir", tmp_path / "made.nir"
    write_program(program(spec_of("rsc2", sigma=0.4)), given)
    export(given, grid=255, out=made)
    encoder = read_program(made).encoder
    assert encoder is not None
    assert (encoder.grid, encoder.sigma) == (255, 0.4)
    write_program(program(None), given)
    with pytest.raises(UsageError, match="no encoder"):
        export(given, grid=255, out=made)
