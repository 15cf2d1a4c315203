"""Attacks search a ball, never leave it, and rank candidates by the mean over noise."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from toy_models import Linear, digits, trained

from rsc.coding import draw_noise, keyed_normal
from rsc.errors import UsageError
from rsc.program import EncoderSpec
from rsc.results import Keys
from rsc.robustness.attacks import (
    Adversarial,
    Apgd,
    Attack,
    Fgsm,
    Pgd,
    RandomNoise,
    SaPgd,
    Spsa,
    Square,
    Strongest,
    Transfer,
)
from rsc.robustness.attacks.apgd import checkpoints
from rsc.robustness.attacks.sa_pgd import step_sizes
from rsc.robustness.attacks.square import patch_share
from rsc.robustness.ball import Ball, norm_of, parse_eps
from rsc.robustness.budget import within
from rsc.robustness.eot import Eot, Mode
from rsc.robustness.losses import cross_entropy, dlr, dlr_targeted, margin
from rsc.robustness.model import from_module, logits, stream_generator, with_surrogate
from rsc.robustness.results import Norm

QUICK: list[Attack] = [
    Fgsm(),
    Fgsm("l2"),
    Fgsm("l1"),
    Pgd(steps=5),
    Pgd("l2", steps=5),
    Pgd("l1", steps=5, restarts=2),
    Apgd(steps=8),
    Apgd("l2", steps=8, loss="dlr"),
    Apgd("l1", steps=8),
    Apgd("l1", steps=8, loss="dlr_targeted", targets=2),
    Apgd(steps=8, loss="dlr_targeted", targets=2),
    SaPgd(steps=8),
    Square(steps=20),
    Square("l2", steps=20),
    Square("l1", steps=20),
    Spsa(steps=3, pairs=4),
    Spsa("l2", steps=3, pairs=4),
    Spsa("l1", steps=3, pairs=4),
    RandomNoise(),
    RandomNoise("l2"),
    RandomNoise("l1", restarts=2),
    Strongest(parts=(Fgsm(), Apgd(steps=5))),
]
SIZE = {"linf": 0.1, "l2": 0.5, "l1": 3.0}


def ids(attack: Attack) -> str:
    return f"{attack.name}-{attack.norm}"


def attack_digits(attack: Attack, n: int = 40, draws: int = 2, **options: object) -> Adversarial:
    _, _, x, y = digits()
    eps = options.pop("eps", SIZE[attack.norm])
    generator = stream_generator(0, "attack")
    return attack(Eot(trained(), draws), x[:n], y[:n], eps, generator=generator, **options)  # type: ignore[arg-type]


def accuracy(x: torch.Tensor, draws: int = 16) -> float:
    """Per-run accuracy on noise of its own."""
    model, y = trained(), digits()[3][: len(x)]
    generator = stream_generator(99, "score")
    runs = [logits(model, x, draw_noise(model.encoder, x, generator)).argmax(1) == y for _ in range(draws)]
    return float(torch.stack(runs).float().mean())


@pytest.mark.parametrize("attack", QUICK, ids=ids)
def test_stays_in_the_ball_and_the_bounds(attack: Attack) -> None:
    _, _, x, _ = digits()
    found = attack_digits(attack, chunk=16)
    delta = found.x.double() - x[:40].double()
    assert norm_of(delta, attack.norm).max() <= SIZE[attack.norm] * (1 + 1e-12)
    assert found.x.min() >= 0
    assert found.x.max() <= 1
    assert found.x.dtype == x.dtype
    assert torch.equal(found.norms, norm_of(delta, attack.norm))


@pytest.mark.parametrize("attack", [a for a in QUICK if not isinstance(a, RandomNoise)], ids=ids)
def test_raises_the_mean_loss(attack: Attack) -> None:
    found = attack_digits(attack, eps=3 * SIZE[attack.norm])
    assert (found.kept >= found.start).all()
    assert found.kept.mean() > found.start.mean()
    assert found.runs > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("levels", [0, 16])
def test_sealed_points_obey_the_radius_to_the_last_bit(norm: Norm, dtype: torch.dtype, levels: int) -> None:
    generator = torch.Generator().manual_seed(3)
    x = (torch.randint(0, 17, (50, 3, 4, 4), generator=generator) / 16).to(dtype)
    eps = torch.rand(50, generator=generator, dtype=torch.float64) * SIZE[norm] * 3
    z = x + torch.randn(x.shape, generator=generator).to(dtype)
    sealed = Ball(x, eps, norm, (0.0, 1.0)).seal(z, levels)
    assert (norm_of(sealed.double() - x.double(), norm) <= eps * (1 + 1e-12)).all()
    assert sealed.dtype == dtype
    assert 0 <= sealed.min() <= sealed.max() <= 1
    if levels:
        assert torch.equal(sealed.double() * 16, (sealed.double() * 16).round())


def test_grid_keeps_whole_steps_of_a_radius_written_as_a_fraction() -> None:
    x = torch.full((1, 4), 100 / 255)
    ball = Ball(x, torch.tensor([8 / 255], dtype=torch.float64), "linf", (0.0, 1.0))
    moved = ball.seal(x + torch.tensor([8 / 255, -8 / 255, 0.4 / 255, 1.0]), 255)
    assert torch.equal((moved * 255).round(), torch.tensor([[108.0, 92.0, 100.0, 108.0]]))
    with pytest.raises(UsageError, match="grid"):
        ball.seal(x, 100)


@pytest.mark.parametrize("attack", QUICK, ids=ids)
def test_the_cost_is_known_before_the_attack_starts(attack: Attack) -> None:
    found = attack_digits(attack, 4)
    assert found.runs == attack.cost(Eot(trained(), 2))


def test_a_budget_of_runs_is_kept() -> None:
    model = Eot(trained(), 2)
    for attack, budget in ((Square(), 300), (Spsa(pairs=4), 500)):
        sized = within(attack, budget, model)
        assert budget - 4 * attack_digits(sized, 4).runs < 0
        assert attack_digits(sized, 4).runs <= budget
        assert dataclasses.replace(sized, steps=sized.steps + 1).cost(model) > budget
    with pytest.raises(UsageError, match="too small"):
        within(Spsa(pairs=100), 100, model)


def test_sparse_apgd_is_no_weaker_than_l1_pgd_on_a_network() -> None:
    sparse = accuracy(attack_digits(Apgd("l1", steps=40), 60, eps=2.0).x)
    assert sparse < accuracy(attack_digits(Pgd("l1", steps=40), 60, eps=2.0).x) + 0.06


@pytest.mark.parametrize("rows", [1, 90])
def test_stacked_draws_are_the_same_average(rows: int) -> None:
    """30 images: one draw at a time, or three; the remainder is a batch of its own."""
    model, (_, _, x, y) = trained(), digits()
    values = []
    for size in (1, rows):
        eot = Eot(model, 7, rows=size)
        draws = eot.noise(x[:30], stream_generator(0, "attack"), slice(0, 30), "common")
        values.append((*eot.gradient(x[:30], y[:30], draws), eot.loss(x[:30], y[:30], draws)))
    for one, many in zip(*values, strict=True):
        assert torch.allclose(one, many, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_finds_the_exact_worst_point_of_a_linear_model(norm: Norm) -> None:
    """For a linear score the worst loss in the ball is score - eps * dual norm of w."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(12, generator=generator, dtype=torch.float64)
    model = Linear(weight, 0.3, EncoderSpec("rsc2", 4, 0.5))
    x = torch.randn(20, 12, generator=generator, dtype=torch.float64)
    y = torch.zeros(20, dtype=torch.int64)
    dual = {"linf": weight.abs().sum(), "l2": weight.norm()}[norm]
    for attack in (Fgsm(norm), Pgd(norm, steps=40), Apgd(norm, steps=40)):
        found = attack(model, x, y, 0.2, generator=stream_generator(1, "attack"))
        fall = (x - found.x) @ weight
        assert torch.allclose(fall, (0.2 * dual).expand(20), rtol=1e-6 if attack.name == "fgsm" else 1e-2)


def test_iterating_beats_one_step_and_both_beat_noise() -> None:
    noise = accuracy(attack_digits(RandomNoise(), 200).x)
    one = accuracy(attack_digits(Fgsm(), 200).x)
    many = accuracy(attack_digits(Pgd(steps=20), 200).x)
    assert many < one < noise - 0.1


def test_whole_box_drives_the_network_below_chance() -> None:
    assert accuracy(attack_digits(Pgd(steps=20), 200, eps=1.0).x) < 0.1


def test_gradient_free_attacks_move_the_network() -> None:
    clean = accuracy(digits()[2][:60])
    assert accuracy(attack_digits(Square(steps=150), 60, eps=0.2).x) < clean - 0.1
    assert accuracy(attack_digits(Spsa(steps=10, pairs=16), 60, eps=0.2).x) < clean - 0.1


def test_averaging_over_noise_beats_a_single_draw() -> None:
    """Score = u . z + 3 sigma-scale distractors that flip sign with the noise: one draw misleads."""
    encoder = EncoderSpec("rsc1", 1, 1.0)

    def core(frames: torch.Tensor) -> torch.Tensor:
        z = frames[0]
        score = z[:, 0] + 6 * torch.cos(3 * z[:, 1:]).sum(1) / 8
        return torch.stack([score, -score], 1)[None]

    model = from_module(core, encoder, (-50.0, 50.0), "last")
    generator = torch.Generator().manual_seed(2)
    x = torch.cat([torch.full((100, 1), 0.2), torch.rand(100, 8, generator=generator)], 1)
    y = torch.zeros(100, dtype=torch.int64)
    gain = {}
    for draws in (1, 64):
        found = Fgsm("l2")(
            Eot(model, draws), x, y, 0.5, generator=stream_generator(0, "attack"), judge_draws=64
        )
        gain[draws] = float((x - found.x)[:, 0].mean())
    assert gain[64] > 2 * gain[1] > 0  # E[cos] has almost no slope at sigma 1, so u is the true direction


def test_vote_gradient_is_that_of_the_mean_probability() -> None:
    model = trained()
    _, _, x, y = digits()
    x, y = x[:5], y[:5]
    eot = Eot(model, 6, average="probability")
    state = stream_generator(4, "attack").get_state()

    def replay() -> list[torch.Tensor | None]:
        generator = torch.Generator().set_state(state)
        return [draw_noise(model.encoder, x, generator) for _ in range(6)]

    value, slope = eot.gradient(x, y, lambda: iter(replay()))
    image = x.clone().requires_grad_(True)
    p = torch.stack([torch.softmax(logits(model, image, n), 1) for n in replay()]).mean(0)
    exact = -torch.log(p[torch.arange(5), y])
    (expected,) = torch.autograd.grad(exact.sum(), image)
    assert torch.allclose(value, exact, rtol=1e-4)
    assert torch.allclose(slope, expected, rtol=1e-3, atol=1e-6)
    assert torch.allclose(eot.loss(x, y, lambda: iter(replay())), exact, rtol=1e-4)


def test_known_noise_is_worth_more_on_that_noise_than_on_fresh_noise() -> None:
    _, _, x, y = digits()
    x, y = x[:200], y[:200]
    keys = Keys(5, np.arange(200), stream="run")
    eot = Eot(trained(), 1, "frozen", keys=keys)
    found = Pgd(steps=20)(eot, x, y, 0.1, generator=stream_generator(0, "attack"), chunk=64)
    known = torch.from_numpy(keyed_normal(keys, 4, (64,)))
    on_known = float((logits(trained(), found.x, known).argmax(1) == y).float().mean())
    assert on_known < accuracy(found.x) - 0.03


@pytest.mark.parametrize("kept", [0, 1 << 20])
def test_common_noise_repeats_within_a_restart_and_fresh_noise_does_not(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsc.robustness.eot.KEPT_BYTES", kept)
    like = torch.zeros(3, 64)
    modes: dict[Mode, bool] = {"common": True, "fresh": False}
    for mode, same in modes.items():
        draws = Eot(trained(), 2, mode).noise(like, stream_generator(0, "attack"), slice(0, 3))
        first, second = list(draws()), list(draws())
        assert torch.equal(first[0], second[0]) is same  # type: ignore[arg-type]
    generator = stream_generator(0, "attack")
    draws = Eot(trained(), 2, "common").noise(like, generator, slice(0, 3))
    other = stream_generator(0, "attack")
    expected = [draw_noise(trained().encoder, like, other) for _ in range(2)]
    assert all(map(torch.equal, draws(), expected))  # type: ignore[arg-type]
    assert torch.equal(torch.rand(1, generator=generator), torch.rand(1, generator=other))


def test_same_generator_same_images() -> None:
    assert torch.equal(attack_digits(Pgd(steps=3)).x, attack_digits(Pgd(steps=3)).x)


def test_zero_radius_returns_the_images() -> None:
    assert torch.equal(attack_digits(Pgd(steps=3), eps=0.0).x, digits()[2][:40])


def test_radius_may_differ_per_image() -> None:
    eps = torch.linspace(0, 0.2, 40)
    found = attack_digits(Pgd(steps=5), eps=eps, chunk=7)
    assert (found.norms <= eps.double() * (1 + 1e-12)).all()
    assert found.norms[-1] > 0.19


def test_union_is_at_least_as_strong_as_its_parts() -> None:
    parts = (Fgsm(), Pgd(steps=10))
    both = attack_digits(Strongest(parts=parts), 100).kept.mean()
    assert both > attack_digits(Strongest(parts=parts[:1]), 100).kept.mean()


def test_replay_returns_saved_images_and_refuses_others() -> None:
    saved = attack_digits(Pgd(steps=3)).x
    assert torch.equal(attack_digits(Transfer(saved=saved), chunk=9).x, saved)
    with pytest.raises(UsageError, match="outside the ball"):
        attack_digits(Transfer(saved=saved), eps=0.01)
    with pytest.raises(UsageError, match="shape"):
        attack_digits(Transfer(saved=saved[:5]))


def test_schedules_are_the_published_ones() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    sizes = step_sizes(100)
    assert [k for k in range(1, 100) if sizes[k] != sizes[k - 1]] == [22, 41, 57, 70, 80, 87, 93, 99]
    assert [0.8 / patch_share(k, 10_000, 0.8) for k in (0, 11, 60, 300, 9000)] == [1, 2, 4, 8, 512]


def test_losses_match_their_definitions() -> None:
    z = torch.tensor([[3.0, 1.0, 0.5, -2.0], [0.0, 4.0, 2.0, 1.0]])
    y = torch.tensor([0, 0])
    assert torch.allclose(margin(z, y), torch.tensor([-2.0, 4.0]))
    assert torch.allclose(dlr(z, y), torch.tensor([-2 / 2.5, 4 / 3]))
    assert torch.allclose(dlr_targeted(torch.tensor([1, 1]))(z, y), torch.tensor([-2 / 3.75, 4 / 3.5]))
    assert torch.allclose(cross_entropy(z, y), -torch.log_softmax(z, 1)[:, 0])
    with pytest.raises(UsageError, match="3 classes"):
        dlr(z[:, :2], y)


@pytest.mark.parametrize(("text", "value"), [("8/255", 8 / 255), ("0.1", 0.1), (0.25, 0.25)])
def test_radius_keeps_the_users_text(text: str | float, value: float) -> None:
    assert parse_eps(text) == (value, str(text))


@pytest.mark.parametrize("text", ["8/0", "x", -1.0, "nan", float("inf")])
def test_radius_that_is_no_number_is_refused(text: str | float) -> None:
    with pytest.raises(UsageError):
        parse_eps(text)


def test_surrogate_of_the_attack_leaves_the_forward_pass_alone() -> None:
    model = trained()
    blind = with_surrogate(model, 0.0)
    _, _, x, y = digits()
    noise = draw_noise(model.encoder, x[:8], stream_generator(0, "run"))
    assert torch.equal(logits(model, x[:8], noise), logits(blind, x[:8], noise))
    _, slope = Eot(blind).gradient(x[:8], y[:8], lambda: iter([noise]))
    _, sane = Eot(model).gradient(x[:8], y[:8], lambda: iter([noise]))
    assert slope.abs().max() == 0
    assert sane.abs().max() > 0
    with pytest.raises(UsageError, match="surrogate"):
        with_surrogate(dataclasses.replace(model, module=torch.nn.Identity()), 1.0)


def test_misuse_is_refused_with_a_reason() -> None:
    _, _, x, y = digits()
    generator = stream_generator(0, "attack")
    model = trained()
    with pytest.raises(UsageError, match="bounds"):
        Fgsm()(model, x[:2] + 1, y[:2], 0.1, generator=generator)
    with pytest.raises(UsageError, match="norm"):
        SaPgd("l2")
    with pytest.raises(UsageError, match="gradients"):
        Fgsm()(dataclasses.replace(model, differentiable=False), x[:2], y[:2], 0.1, generator=generator)
    with pytest.raises(UsageError, match="training mode"):
        from_module(torch.nn.Dropout(), model.encoder, (0.0, 1.0))
    with pytest.raises(UsageError, match="cross-entropy"):
        Pgd(loss="dlr")(Eot(model, 2, average="probability"), x[:2], y[:2], 0.1, generator=generator)
