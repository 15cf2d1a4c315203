"""Adversarial images and retracted weights: bounds, closed forms, and that they do what they are for."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loss_steps import Affine, network, replay, step
from torch import Tensor, nn

from rsc import data
from rsc.encoder_spec import EncoderSpec
from rsc.errors import UsageError
from rsc.networks import NetworkSpec, build
from rsc.robustness.attacks import Pgd
from rsc.robustness.eot import Eot
from rsc.robustness.evaluate import score
from rsc.robustness.model import from_module, stream_generator
from rsc.training.losses import Attack, CrossEntropy, Passes, Trades, maximise
from rsc.training.losses.adversarial import pixels
from rsc.training.objective import Objective, ObjectiveConfig
from rsc.training.retraction import Retraction, retract, retracted
from rsc.training.share import Share
from rsc.training.step import Step

ATTACKS = [
    Attack.fgsm(0.1),
    Attack(eps=0.1, step=0.03, steps=5),
    Attack(eps=0.1, step=0.03, steps=5, start="normal", loss="kl"),
    Attack(norm="l2", eps=0.5, step=0.2, steps=4, eot=2),
    Attack(norm="l2", eps=0.5, step=0.2, steps=4, start="clean"),
]


def names(attack: Attack) -> str:
    return f"{attack.norm}-{attack.loss}-{attack.start}"


def size(delta: Tensor, norm: str) -> Tensor:
    return delta.flatten(1).norm(p=float("inf") if norm == "linf" else 2, dim=1)


@pytest.mark.parametrize("attack", ATTACKS, ids=names)
def test_adversarial_images_stay_in_the_ball_and_in_bounds(attack: Attack) -> None:
    of = step(batch=32)
    z = maximise(of, attack)
    lengths = size(z - of.x, attack.norm)
    assert lengths.max() <= pixels(attack.eps) * (1 + 1e-12)
    assert lengths.mean() > pixels(attack.eps) / 2
    assert 0 <= z.min() <= z.max() <= 1
    assert not z.requires_grad


@pytest.mark.parametrize("attack", ATTACKS, ids=names)
def test_adversarial_images_raise_the_loss_under_noise_they_never_saw(attack: Attack) -> None:
    of = step(batch=32)
    z = maximise(of, attack)

    def mean_loss(x: Tensor) -> float:
        runs = [F.cross_entropy(of.outputs(x).mean(0), of.y) for _ in range(50)]
        return torch.stack(runs).mean().item()

    with torch.no_grad():
        if attack.loss == "kl":
            answer = torch.stack([of.outputs().mean(0) for _ in range(50)]).mean(0).log_softmax(1)
            near, far = (torch.stack([of.outputs(x).mean(0) for _ in range(50)]).mean(0) for x in (of.x, z))
            gaps = [F.kl_div(v.log_softmax(1), answer, log_target=True, reduction="sum") for v in (near, far)]
            assert gaps[1] > 2 * gaps[0]
        else:
            assert mean_loss(z) > mean_loss(of.x) + 0.05


def test_fgsm_is_exact_for_an_affine_network() -> None:
    """Two classes: the loss grows fastest along sign(w_other - w_y), whatever the noise."""
    of = step(Affine(classes=2), sigma=0.5)
    of.y.remainder_(2)
    weight = of.network.weight.detach()  # type: ignore[union-attr]
    along = (weight[1 - of.y] - weight[of.y]).sign().reshape(of.x.shape)
    assert torch.allclose(maximise(of, Attack.fgsm("8/255")), (of.x + 8 / 255 * along).clamp(0, 1))


def test_projected_ascent_reaches_the_worst_point_of_an_affine_network() -> None:
    of = step(Affine(classes=2), sigma=0.5)
    of = dataclasses.replace(of, y=of.y % 2, bounds=(-5.0, 5.0))
    weight = of.network.weight.detach()  # type: ignore[union-attr]
    along = weight[1 - of.y] - weight[of.y]
    for norm, dual in (("linf", along.abs().sum(1)), ("l2", along.norm(dim=1))):
        attack = Attack(norm=norm, eps=0.2, step=0.1, steps=10)  # type: ignore[arg-type]
        gain = ((maximise(of, attack) - of.x).flatten(1) * along).sum(1)
        assert torch.allclose(gain, 0.2 * dual, rtol=2e-3)


@pytest.mark.parametrize(("loss", "extra"), [("cross_entropy", 0), ("kl", 1)])
@pytest.mark.parametrize(("sigma", "draws"), [(0.3, 5), (0.0, 1)])
def test_every_gradient_averages_the_draws_asked_for(loss: str, extra: int, sigma: float, draws: int) -> None:
    of = step(Affine(), sigma)
    maximise(of, Attack(steps=3, eot=5, loss=loss, start="normal"))  # type: ignore[arg-type]
    assert of.network.runs == (3 + extra) * draws  # type: ignore[union-attr]


def test_averaging_over_noise_comes_closer_to_the_expected_gradient() -> None:
    net = network()
    right = {}
    wide = step(net, sigma=1.0, batch=8)
    image = wide.x.clone().requires_grad_(True)
    many = torch.stack([F.cross_entropy(wide.outputs(image).mean(0), wide.y) for _ in range(200)]).mean()
    truth = torch.autograd.grad(many, image)[0].sign()
    for draws in (1, 30):
        moved = maximise(wide, Attack.fgsm(0.05, eot=draws)) - wide.x
        right[draws] = float((moved.sign() == truth)[moved != 0].double().mean())
    assert right[30] > right[1] + 0.05


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_search_runs_in_its_mode_and_gives_every_module_its_own_back(mode: str) -> None:
    net = nn.Sequential(nn.Flatten(2), Watch(), nn.Linear(16, 5).double())
    net.train()
    net[2].eval()
    of = step(net)
    maximise(of, Attack(mode=mode))  # type: ignore[arg-type]
    assert [m.training for m in net] == [True, True, False]
    assert net[1].seen == {mode == "train"}  # type: ignore[union-attr]
    assert all(p.grad is None for p in net.parameters())


class Watch(nn.Module):
    """Notes the mode in which it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[bool] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add(self.training)
        return x


def test_eval_mode_leaves_batch_statistics_alone_and_train_mode_does_not() -> None:
    net = build(NetworkSpec(channels=(3,)), (1, 4, 4), 5).double().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    maximise(step(net), Attack())
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    maximise(step(net), Attack(mode="train"))
    assert not all(torch.equal(before[k], v) for k, v in net.state_dict().items())


@pytest.mark.parametrize("attack", [ATTACKS[1], ATTACKS[2], ATTACKS[3]], ids=names)
def test_parts_of_a_batch_find_the_images_that_the_whole_finds(attack: Attack) -> None:
    whole = step(batch=6)
    again = replay(whole)
    z = maximise(again(), attack)
    for first in (0, 3):
        part = again()
        rows = slice(first, first + 3)
        share = Share(
            part.network, part.encoder, part.x[rows], part.y[rows], part.generator, first=first, total=6
        )
        assert torch.allclose(maximise(share, attack), z[rows])


def test_noisy_images_have_the_noise_asked_for_inside_the_bounds() -> None:
    of = step(Affine(), batch=400)
    middle = dataclasses.replace(of, x=torch.full_like(of.x, 0.5))
    delta = Passes(middle, 0.1).of("noisy").x - 0.5
    assert delta.std().item() == pytest.approx(0.1, rel=0.05)
    assert abs(delta.mean().item()) < 0.01
    edge = Passes(dataclasses.replace(of, x=torch.zeros_like(of.x)), 0.1).of("noisy").x
    assert (edge.min(), edge.max() < 1) == (0, True)
    assert (edge == 0).double().mean().item() == pytest.approx(0.5, abs=0.05)


def test_trades_is_zero_in_a_ball_of_radius_zero_where_noise_is_shared() -> None:
    attack = Attack(eps=0.0, step=0.0, loss="kl", start="normal")
    terms = (Trades(),)
    assert Objective(ObjectiveConfig(terms=terms, attack=attack))(step())[0].item() == 0
    fresh = ObjectiveConfig(terms=terms, attack=attack, coder_noise="fresh")
    assert Objective(fresh)(step())[0].item() > 1e-3


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Attack(eps="8/0"), "size of a perturbation"),
        (lambda: Attack(eps=-0.1), "size of a perturbation"),
        (lambda: Attack(step="a lot"), "size of a perturbation"),
        (lambda: Attack(steps=0), "attack.steps"),
        (lambda: Attack(eot=0), "attack.eot"),
        (lambda: Attack(loss="kl", start="clean"), "gradient is zero"),
        (lambda: Retraction(beta=0.0), "beta"),
        (lambda: Retraction(share=1.5), "share"),
    ],
)
def test_settings_out_of_range_are_refused(make: object, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
def test_retraction_moves_singular_values_as_the_closed_form_says(shape: tuple[int, int]) -> None:
    weight = torch.from_numpy(np.random.default_rng(0).normal(size=shape))
    u, w, vt = np.linalg.svd(weight.numpy(), full_matrices=False)
    expected = (u * (w + 0.01 * w * (1 - w**2))) @ vt
    assert np.allclose(retracted(weight, 0.01).numpy(), expected, atol=1e-12)


def test_retraction_makes_rows_orthonormal() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(30, 6)).double()
    for k in range(2000):
        retract(net, Retraction(beta=5e-3), k)
    for layer in net:
        rows = layer.weight.flatten(1)  # type: ignore[union-attr]
        assert torch.allclose(rows @ rows.T, torch.eye(len(rows)).double(), atol=1e-6)


def test_large_linear_layers_are_retracted_on_a_sample_that_the_step_decides() -> None:
    layer = nn.Sequential(nn.Linear(4, 200), nn.Linear(4, 199), nn.Conv1d(4, 200, 1))
    changed = []
    for k in (1, 1, 2):
        net = copy.deepcopy(layer)
        retract(net, Retraction(beta=1e-2, seed=3), k)
        moved = [
            (a.weight != b.weight).flatten(1).any(1)  # type: ignore[union-attr,operator]
            for a, b in zip(net, layer, strict=True)
        ]
        assert [int(m.sum()) for m in moved] == [60, 199, 200]
        changed.append(moved[0])
    assert torch.equal(changed[0], changed[1])
    assert not torch.equal(changed[0], changed[2])
    assert torch.equal(net[0].bias, layer[0].bias)  # type: ignore[arg-type]


def test_a_sample_is_retracted_as_a_matrix_of_its_own() -> None:
    net = nn.Sequential(nn.Linear(300, 250, bias=False)).double()
    before = net[0].weight.detach().clone()  # type: ignore[operator]
    retract(net, Retraction(beta=0.1), 0)
    after = net[0].weight.detach()  # type: ignore[union-attr]
    rows = (after != before).any(1)
    part = before[rows]  # type: ignore[index]
    assert torch.allclose(after[rows], 1.1 * part - 0.1 * part @ part.T @ part)  # type: ignore[index]


def trained(config: ObjectiveConfig, epochs: int = 6) -> nn.Module:
    """An mlp on direct-coded digits, trained under an objective by a plain loop."""
    train = data.load("digits", "train").head(700)
    x, y = torch.from_numpy(np.asarray(train.images)), torch.from_numpy(train.targets)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build(NetworkSpec("mlp", (48,)), (1, 8, 8), 10)
    optimiser = torch.optim.AdamW(net.parameters(), lr=5e-3)
    objective, generator = Objective(config), torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(64):
            of = Step(net, EncoderSpec("direct", 3), x[rows], y[rows], generator)
            loss, _ = objective(of)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            objective.after(net)
    return net.eval()


def robust_accuracy(net: nn.Module, eps: float) -> float:
    """Accuracy under the attacks of rsc.robustness, which the training does not use."""
    test = data.load("digits", "test").head(120)
    x, y = torch.from_numpy(np.asarray(test.images)), torch.from_numpy(test.targets)
    model = from_module(net, EncoderSpec("direct", 3), test.bounds)
    found = Pgd(steps=10)(Eot(model), x, y, eps, generator=stream_generator(0, "attack"))
    return score(model, found.x.numpy(), test.targets, 1, samples=test.ids).per_run.value


def test_adversarial_training_and_trades_make_digits_more_robust() -> None:
    plain = robust_accuracy(trained(ObjectiveConfig()), 0.15)
    single = ObjectiveConfig(terms=(CrossEntropy(on="adversarial"),), attack=Attack.fgsm(0.15))
    hardened = trained(single)
    kl = Attack(eps=0.15, step=0.1, steps=2, start="normal", loss="kl")
    trades = trained(ObjectiveConfig(terms=(CrossEntropy(), Trades()), attack=kl))
    assert robust_accuracy(hardened, 0.15) > plain + 0.1
    assert robust_accuracy(trades, 0.15) > plain + 0.1
    assert robust_accuracy(hardened, 0.0) > 0.8
