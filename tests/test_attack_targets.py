"""White-box attacks on deployed integers, borrowed gradients, and attacks on spikes."""

from __future__ import annotations

import dataclasses
from itertools import combinations

import numpy as np
import pytest
import torch
from toy_models import digits as toy_digits
from toy_models import trained

from rsc import data
from rsc.errors import UsageError
from rsc.hw_targets import deploy
from rsc.neurons.surrogates import triangle
from rsc.program import EncoderSpec, Program
from rsc.results import Keys
from rsc.robustness.attacks import Apgd, Pgd, RandomNoise, Sea, Square
from rsc.robustness.bpda import Bpda
from rsc.robustness.budget import within
from rsc.robustness.eot import Eot
from rsc.robustness.evaluate import Scoring, attack_row, compare, measure
from rsc.robustness.frames import FrameModel, attack_frames, spike_frames
from rsc.robustness.integer import integer_twin
from rsc.robustness.model import ModuleModel, from_deployed, from_module, stream_generator, with_surrogate
from rsc.robustness.surrogates import Rga


@pytest.fixture(scope="module")
def images(digits: data.Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(digits.images), torch.tensor(digits.targets).long()


def twin_of(program: Program) -> ModuleModel:
    assert program.encoder is not None
    assert program.bounds is not None
    module = deploy(program, "torch").module  # type: ignore[attr-defined]
    return from_module(module, program.encoder, program.bounds, program.semantics.readout, "float twin")


def test_the_integer_twin_is_the_deployed_program_run_by_run(
    program: Program, images: tuple[torch.Tensor, torch.Tensor]
) -> None:
    x, y = images
    twin = integer_twin(program)
    with deploy(program, "loihi") as deployed:
        gap = compare(measure(deployed, x, y, 3), measure(twin, x, y, 3))
        frames = np.random.default_rng(0).uniform(0, 1, (4, 3, *program.input_shape)).astype(np.float32)
        exact = deployed.run_frames(frames).logits
    assert gap.flipped_runs == 0
    graph = twin.core(torch.tensor(frames, requires_grad=True))
    assert np.array_equal(graph.detach().numpy(), exact)
    assert np.array_equal(twin.core(torch.tensor(frames)).numpy(), exact)


def test_a_white_box_attack_on_the_integers_breaks_the_deployed_program(
    program: Program, images: tuple[torch.Tensor, torch.Tensor]
) -> None:
    x, y = images
    twin = integer_twin(program)
    with deploy(program, "loihi") as deployed:
        row = attack_row(Pgd(steps=8), Eot(twin, 2), x, y, 0.1, Scoring(6), predict=deployed)
        noise = attack_row(RandomNoise(restarts=4), Eot(twin, 2), x, y, 0.1, Scoring(6), predict=deployed)
    assert (row.target, row.crafted_on, row.surrogate) == ("loihi", "integer twin", "atan")
    assert row.per_run.value < noise.per_run.value - 0.05
    through = with_surrogate(twin, triangle)
    assert through.surrogate == "triangle"
    found = Apgd(steps=5)(Eot(through, 2), x[:6], y[:6], 0.3, generator=stream_generator(0, "attack"))
    assert found.kept.mean() > found.start.mean()
    with pytest.raises(UsageError, match="plain surrogate"):
        with_surrogate(twin, Rga())


def test_bpda_takes_values_from_the_target_and_slopes_from_the_twin(
    program: Program, images: tuple[torch.Tensor, torch.Tensor]
) -> None:
    x, y = images
    twin = twin_of(program)
    frames = torch.rand(4, 3, *program.input_shape, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(3, 10, generator=torch.Generator().manual_seed(1))
    with deploy(program, "loihi") as deployed:
        model = Bpda(deployed, twin)
        image = frames.clone().requires_grad_(True)
        answer = model.core(image)
        assert np.allclose(answer.detach().numpy(), deployed.run_frames(frames.numpy()).logits, atol=1e-5)
        (slope,) = torch.autograd.grad((answer * weight).sum(), image)
        (expected,) = torch.autograd.grad((twin.core(image) * weight).sum(), image)
        assert torch.equal(slope, expected)
        row = attack_row(Pgd(steps=8), Eot(model, 2), x, y, 0.3, Scoring(6), predict=deployed)
        assert row.per_run.value < row.baseline.per_run.value - 0.3
        assert row.crafted_on == "float twin (BPDA)"
        other = dataclasses.replace(twin, encoder=EncoderSpec("direct", 4))
        with pytest.raises(UsageError, match="no twin"):
            Bpda(deployed, other)


def test_black_box_attacks_on_a_target_keep_to_their_budget(
    program: Program, images: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """Every frame that the target is shown is counted by the target itself."""
    x, y = images[0][:6], images[1][:6]
    with deploy(program, "loihi") as deployed:
        model, seen = from_deployed(deployed), []

        def counted(frames: torch.Tensor) -> torch.Tensor:
            seen.append(frames.shape[1])
            return model.module(frames)

        spied = Eot(dataclasses.replace(model, module=counted), 2)
        attack = within(Square(), 200, spied)
        found = attack(spied, x, y, 0.3, generator=stream_generator(0, "attack"))
    assert sum(seen) == found.runs * len(x)
    assert found.runs <= 200


def coins(kind: str = "bernoulli") -> ModuleModel:
    """The toy network read with spikes."""
    return dataclasses.replace(trained(), encoder=EncoderSpec(kind, 4))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["bernoulli", "signed"])
def test_flipped_spikes_are_spikes_and_no_more_than_allowed(kind: str) -> None:
    model = FrameModel(coins(kind))
    x, y = toy_digits()[2][:12], toy_digits()[3][:12]
    frames = spike_frames(model, x, Keys(0, np.arange(12)))
    found = Sea(steps=3)(model, frames, y, 7.0, generator=stream_generator(0, "attack"), levels=model.levels)
    legal = {-1.0, 0.0, 1.0} if kind == "signed" else {0.0, 1.0}
    assert set(found.x.unique().tolist()) <= legal
    assert ((found.x != frames).flatten(1).sum(1) <= 7).all()
    assert found.norms.max() <= 7
    assert (found.kept >= found.start).all()


def test_flips_on_a_linear_core_are_the_best_ones() -> None:
    """Against every choice of two of eight spikes."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, generator=generator)

    def core(frames: torch.Tensor) -> torch.Tensor:
        score = frames.movedim(0, 1).flatten(1) @ weight
        return torch.stack([score, -score], 1)[None]

    model = FrameModel(from_module(core, EncoderSpec("bernoulli", 2), (0.0, 1.0), "last"))
    frames = (torch.rand(20, 2, 4, generator=generator) < 0.5).float()
    y = torch.zeros(20, dtype=torch.int64)
    found = Sea()(model, frames, y, 2.0, generator=generator, levels=1)
    for before, after in zip(frames.flatten(1), found.x.flatten(1), strict=True):
        scores = [before @ weight]
        for count in (1, 2):
            for chosen in combinations(range(8), count):
                flipped = before.clone()
                flipped[list(chosen)] = 1 - flipped[list(chosen)]
                scores.append(flipped @ weight)
        assert torch.isclose(after @ weight, min(scores), atol=1e-5)


def test_flipping_spikes_hurts_more_than_random_flips() -> None:
    x, y = toy_digits()[2][:60], toy_digits()[3][:60]
    attacked, clean = attack_frames(coins(), x, y, 12, Scoring(3))
    noise, _ = attack_frames(coins(), x, y, 12, Scoring(3), RandomNoise("l0"))
    assert attacked.per_run.value < noise.per_run.value - 0.1
    assert noise.per_run.value > clean.per_run.value - 0.2
    zero, _ = attack_frames(coins(), x, y, 0, Scoring(3))
    assert zero.per_run.value == clean.per_run.value
    with pytest.raises(UsageError, match="no bare spikes"):
        FrameModel(trained())
