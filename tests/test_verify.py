"""`rsc verify`: no attack breaks what it proves, its counts are right, and a stopped run goes on."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from rsc import data
from rsc.bundle import Bundle
from rsc.cli import main
from rsc.coding import encode
from rsc.encoder_spec import EncoderSpec
from rsc.errors import Interrupted, MalformedFile, UsageError
from rsc.export.to_nir import to_program
from rsc.hw_targets import deploy
from rsc.hw_targets.loihi import LoihiModel
from rsc.networks import NetworkSpec, build
from rsc.program import Program
from rsc.progress import Silent
from rsc.report import read_report
from rsc.results import Keys, Probe
from rsc.robustness.attacks import Apgd, Attack, Fgsm, Pgd, RandomNoise, SaPgd, Spsa, Square
from rsc.robustness.branch_and_bound import branch_and_bound
from rsc.robustness.eot import Eot
from rsc.robustness.integer import integer_twin
from rsc.robustness.intervals import IntervalProgram
from rsc.robustness.intervals_images import Coded, ball
from rsc.robustness.intervals_margin import Readout, proved
from rsc.robustness.model import stream_generator
from rsc.robustness.verify import VerifyPlan, verify

RSC2 = EncoderSpec("rsc2", 3, 0.15)
ENCODERS = [
    EncoderSpec("direct", 3),
    RSC2,
    EncoderSpec(
        "rsc1", 3, 0.3, clip=(0.0, 1.0), mean=(0.3,), std=(0.4,), order=("normalise", "noise", "clip")
    ),
    EncoderSpec("rsc2", 3, 0.2, grid=64),
    EncoderSpec("bernoulli", 3, bits=8),
    EncoderSpec("signed", 3),
]


@functools.lru_cache(maxsize=8)
def network(encoder: EncoderSpec, convolution: bool = False) -> tuple[Program, np.ndarray]:
    """An untrained network on 8x8 images and some of these."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        spec = NetworkSpec("convnet", (4,)) if convolution else NetworkSpec("mlp", (24,))
        made = build(spec, (1, 8, 8), 4).eval()
        for layer in made.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.data.mul_(3)
    images = data.load("digits", "test").head(60).images
    return to_program(made, (1, 8, 8), encoder, bounds=(0.0, 1.0)), np.asarray(images, np.float32)


def coded(program: Program, keys: Keys) -> tuple[LoihiModel, Readout, Coded]:
    """The deployed integers, their bounds, and the noise of the keys."""
    assert program.encoder is not None
    model = deploy(program, "loihi")
    assert isinstance(model, LoihiModel)
    readout = Readout(IntervalProgram(model.layered), program.semantics.readout)
    return model, readout, Coded.drawn(model.layered, program.encoder, keys)


def classes(model: LoihiModel, x: np.ndarray, keys: Keys) -> np.ndarray:
    return model.run(x, keys, Probe(counts=False)).predictions


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda e: f"{e.kind}{e.grid or ''}")
def test_frames_of_a_ball_lie_between_those_of_its_corners(encoder: EncoderSpec) -> None:
    """Bit by bit, in float32, for every stage and coin; and corners are the frames that targets get."""
    program, x = network(encoder)
    keys = Keys(3, np.arange(len(x)), np.arange(len(x)), "estimate")
    _, _, held = coded(program, keys)
    low, high = ball(x, 0.1, (0.0, 1.0))
    (box,) = held.boxes(low, high).values()
    (source,) = held.layered.inputs
    rng = np.random.default_rng(0)
    for share in (0, 1, rng.random(x.shape, np.float32), rng.random(x.shape, np.float32) < 0.5):
        inside = (low + (high - low) * share).clip(low, high).astype(np.float32)
        sent = torch.from_numpy(source.rounded(encode(encoder, inside, keys))[0])
        assert box.holds(sent).all()
    assert torch.equal(box.low, torch.from_numpy(source.rounded(encode(encoder, low, keys))[0]))


def test_a_ball_holds_every_float_that_is_near_and_legal() -> None:
    x = np.array([0.0, 0.1, 0.5, 1.0], np.float32)
    for eps in (8 / 255, 0.1, 1e-9, 1 / 3):
        low, high = ball(x, eps, (0.0, 1.0))
        assert low.dtype == np.float32
        for end, step in ((low, -1), (high, 1)):
            near = np.abs(end.astype(np.float64) - x) >= eps
            assert (near | (end == (0 if step < 0 else 1))).all()
            assert (np.abs(end.astype(np.float64) - x) <= eps + 1e-7).all()
    assert ball(x, 0, (0.0, 1.0))[0] is ball(x, 0, (0.0, 1.0))[1] or np.array_equal(*ball(x, 0, (0.0, 1.0)))


@pytest.mark.parametrize("convolution", [False, True])
@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda e: f"{e.kind}{e.grid or ''}")
def test_a_point_gives_the_classes_of_the_target(encoder: EncoderSpec, convolution: bool) -> None:
    program, x = network(encoder, convolution)
    keys = Keys(0, np.arange(len(x)), 0, "estimate")
    model, readout, held = coded(program, keys)
    z = readout.logits(readout.program.bounds(held.boxes(x, x)))
    np.testing.assert_allclose(z.low, model.run(x, keys).logits, atol=1e-9)
    np.testing.assert_array_equal(z.low.numpy(), z.high.numpy())


ATTACKS: list[Attack] = [
    Fgsm(),
    Pgd(steps=15, restarts=2),
    Apgd(steps=10),
    SaPgd(steps=10),
    Square(steps=30),
    Spsa(steps=5),
    RandomNoise(restarts=5),
]


@functools.lru_cache(maxsize=2)
def proved_balls(convolution: bool, eps: float) -> tuple[Any, ...]:
    """Images whose ball is proved for the class they have, under known noise."""
    program, x = network(RSC2, convolution)
    keys = Keys(1, np.arange(len(x)), 0, "score")
    model, readout, held = coded(program, keys)
    y = classes(model, x, keys)
    low, high = ball(x, eps, (0.0, 1.0))
    safe = proved(readout.margins(readout.program.bounds(held.boxes(low, high)), torch.from_numpy(y))).numpy()
    assert safe.sum() >= 8
    return program, model, x, y, keys, safe, low, high


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.name)
def test_no_attack_that_knows_the_noise_breaks_a_proved_ball(attack: Attack) -> None:
    eps = 0.006
    program, model, x, y, keys, safe, _, _ = proved_balls(False, eps)
    eot = Eot(integer_twin(program), 1, "frozen", keys=keys)
    generator = stream_generator(0, "attack")
    found = attack(eot, torch.from_numpy(x), torch.from_numpy(y), eps, generator=generator).x.numpy()
    assert (np.abs(found - x) > 0).any()
    assert (classes(model, found, keys) == y)[safe].all()


@pytest.mark.parametrize("convolution", [False, True])
def test_no_corner_and_no_neighbour_breaks_a_proved_ball(convolution: bool) -> None:
    """Random corners, and every image that differs in one pixel by all of eps."""
    _, model, x, y, keys, safe, low, high = proved_balls(convolution, 0.006)
    rng = np.random.default_rng(0)
    tried = [np.where(rng.random(x.shape) < 0.5, low, high) for _ in range(20)]
    for pixel in np.ndindex(1, 8, 8):
        for end in (low, high):
            one = x.copy()
            one[(slice(None), *pixel)] = end[(slice(None), *pixel)]
            tried.append(one)
    for images in tried:
        assert (classes(model, images, keys) == y)[safe].all()


def test_branch_and_bound_proves_and_refutes_balls_of_images() -> None:
    program, x = network(RSC2)
    keys = Keys(1, np.arange(len(x)), 0, "score")
    model, readout, held = coded(program, keys)
    y = classes(model, x, keys)
    seen = set()
    for row, eps in [(r, e) for r in range(4) for e in (0.006, 0.1)]:
        low, high = ball(x[row], eps, (0.0, 1.0))
        one = held.rows(np.array([row]))
        found = branch_and_bound(readout, one, low, high, int(y[row]), seconds=0.5)
        seen.add(found.status)
        if found.image is not None:
            mine = keys.replace(samples=keys.samples[row : row + 1])
            assert (low <= found.image).all()
            assert (found.image <= high).all()
            assert classes(model, found.image[None], mine)[0] != y[row]
    assert {"proved", "refuted"} <= seen


def labelled(program: Program, x: np.ndarray) -> np.ndarray:
    """Votes of the target as labels, the last of them wrong."""
    with deploy(program, "loihi") as model:
        runs = [model.run(x, Keys(0, np.arange(len(x)), d, "select")).predictions for d in range(20)]
    y = np.array([np.bincount(votes).argmax() for votes in np.array(runs).T])
    y[-1] = (y[-1] + 1) % 4
    return y


PLAN = VerifyPlan(("0", "1/255", "0.03"), draws=12, n0=20)


def test_counts_are_those_of_single_balls_and_rows_follow_from_them() -> None:
    program, x = network(RSC2)
    x = x[:5]
    y = labelled(program, x)
    found = verify(program, x, y, PLAN)
    assert [row.eps_text for row in found.rows] == ["0", "1/255", "0.03"]
    assert found.images[-1].proved == (0, 0, 0)
    for i, image in enumerate(found.images[:-1]):
        keys = Keys(0, np.full(12, i), np.arange(12), "estimate")
        model, readout, held = coded(program, keys)
        many = np.broadcast_to(x[i], (12, *x[i].shape))
        assert image.hits == (classes(model, many, keys) == y[i]).sum()
        labels = torch.full((12,), int(y[i]))
        for k, (eps, _) in enumerate(PLAN.radii()):
            bounds = readout.program.bounds(held.boxes(*ball(many, eps, (0.0, 1.0))))
            assert image.proved[k] == int(proved(readout.margins(bounds, labels)).sum())
            assert image.unstable[k] == readout.program.stability(bounds).unstable
    share = np.array([image.proved for image in found.images]) / 12
    for k, row in enumerate(found.rows):
        assert row.per_run == pytest.approx(share[:, k].mean())
        assert row.intervals["per_run"].low <= row.per_run <= row.intervals["per_run"].high
    assert found.rows[0].per_run >= found.rows[1].per_run >= found.rows[2].per_run
    assert found.rows[0].unstable == 0 < found.rows[2].unstable


def test_without_noise_one_draw_is_exact_and_nothing_is_sampled() -> None:
    program, x = network(EncoderSpec("direct", 3))
    x = x[:12]
    with deploy(program, "loihi") as model:
        y = model.run(x, Keys(0, np.arange(len(x)))).predictions
    found = verify(program, x, y, PLAN)
    assert (found.draws, found.alpha, found.expected_false) == (1, 0.0, 0.0)
    assert found.clean.value == 1
    assert found.rows[0].certified == found.rows[0].per_run == 1
    assert found.rows[1].certified > 0
    assert "certain" in found.guarantee


def test_refinement_only_adds_proofs_and_finds_counterexamples() -> None:
    program, x = network(EncoderSpec("direct", 3))
    x = x[:4]
    with deploy(program, "loihi") as model:
        y = model.run(x, Keys(0, np.arange(4))).predictions
    plain = VerifyPlan(("0.01", "0.1"))
    before, after = (
        verify(program, x, y, plan).rows for plan in (plain, dataclasses.replace(plain, refine=0.2))
    )
    assert all(a.certified >= b.certified for a, b in zip(after, before, strict=True))
    assert all(a.certified + a.refuted <= 1 for a in after)
    assert after[1].refuted > 0 == before[1].refuted


class Stopping(Silent):
    """Asks to stop after the first group."""

    def advance(self, done: int, total: int) -> None:
        if 0 < done < total:
            raise Interrupted("Stopped.", "", "")


def test_a_stopped_run_goes_on_and_another_run_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    program, x = network(RSC2)
    x = x[:6]
    y, state = labelled(program, x), tmp_path / "new" / "state.json"
    monkeypatch.setattr("rsc.robustness.verify._GROUP", 2)
    with pytest.raises(Interrupted):
        verify(program, x, y, PLAN, state=state, listener=Stopping())
    assert len(json.loads(state.read_text())["images"]) == 2
    monkeypatch.setattr("rsc.robustness.verify._GROUP", 3)
    resumed, whole = verify(program, x, y, PLAN, state=state), verify(program, x, y, PLAN)
    assert msgspec.structs.replace(resumed, wall_s=0) == msgspec.structs.replace(whole, wall_s=0)
    with pytest.raises(UsageError, match="another run"):
        verify(program, x, y, dataclasses.replace(PLAN, seed=1), state=state)
    state.write_text("{")
    with pytest.raises(MalformedFile, match="state"):
        verify(program, x, y, PLAN, state=state)


def test_plans_out_of_range_and_floating_targets_are_refused() -> None:
    for fields in ({"draws": 0}, {"alpha": 1.0}, {"refine": -1.0}, {"target": "torch"}):
        with pytest.raises(UsageError):
            VerifyPlan(("0.1",), **fields)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        VerifyPlan(("a lot",))
    program, x = network(RSC2)
    with pytest.raises(UsageError, match="no encoder"):
        verify(dataclasses.replace(program, encoder=None), x, np.zeros(len(x), int), PLAN)


def test_the_verb_states_its_cost_and_prints_a_report_or_json(tmp_path: Path, capsys: Any) -> None:
    program, _ = network(RSC2)
    bundle = Bundle(
        name="b", program=program, state={}, config={"dataset": "digits"}, metrics={}, made_with={}
    )
    bundle.save(tmp_path / "b")
    words = ["verify", str(tmp_path / "b"), "--eps", "0,1/255", "--n", "3", "--draws", "4", "--select", "5"]
    words += ["--state", str(tmp_path / "s.json"), "--report", str(tmp_path / "r")]
    for extra in ([], ["--json"]):
        with pytest.raises(SystemExit) as stop:
            main([*words, *extra])
        assert stop.value.code == 0
        shown = capsys.readouterr()
        if extra:
            assert json.loads(shown.out)["rows"][1]["eps_text"] == "1/255"
            assert "verifying" not in shown.err  # it was finished
            (kept,) = read_report(tmp_path / "r").verification
            assert json.loads(msgspec.json.encode(kept)) == json.loads(shown.out)
        else:
            assert "24 boxes" in shown.err
            assert "1/255" in shown.out
            said = " ".join(shown.out.split())
            assert "4 draws can certify no vote at this alpha, even if all are proved: it takes 10." in said
            assert "not sought" in said
