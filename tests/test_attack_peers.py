"""Our attacks against two libraries on the same deterministic network (extra attack-peers)."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_models import digits

from rsc.program import EncoderSpec
from rsc.robustness.attacks import Apgd, Attack, Fgsm, Pgd, Square
from rsc.robustness.model import ModuleModel, from_module, stream_generator

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

EPS, IMAGES = 0.1, 500
POINT = 0.01


def missing(name: str) -> bool:
    return importlib.util.find_spec(name) is None


needs_foolbox = pytest.mark.skipif(missing("foolbox"), reason="foolbox is not installed (extra attack-peers)")
needs_art = pytest.mark.skipif(
    missing("art"), reason="the adversarial-robustness-toolbox is not installed (extra attack-peers)"
)


@lru_cache(maxsize=1)
def network() -> nn.Module:
    """An MLP 64-128-10 on the digits."""
    x, y, _, _ = digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        optimiser = torch.optim.Adam(module.parameters(), 3e-3)
        for _ in range(15):
            for rows in torch.randperm(len(x)).split(64):
                optimiser.zero_grad()
                nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
                optimiser.step()
    return module.eval().requires_grad_(False)


def ours(attack: Attack, x: Tensor, y: Tensor) -> Tensor:
    """Images of our attack."""
    net = network()
    model: ModuleModel = from_module(
        lambda z: net(z[0].flatten(1))[None], EncoderSpec("direct", 1), (0.0, 1.0), "last"
    )
    return attack(model, x, y, EPS, generator=stream_generator(0, "attack")).x


def accuracy(x: Tensor | np.ndarray) -> float:
    """Share of right answers."""
    images, net = torch.as_tensor(np.asarray(x)), network()
    with torch.no_grad():
        return float((net(images).argmax(1) == labels()).float().mean())


def images() -> Tensor:
    return digits()[2][:IMAGES]


def labels() -> Tensor:
    return digits()[3][:IMAGES]


def foolbox_images(attack: Any) -> Tensor:
    import foolbox  # pyright: ignore[reportMissingImports]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = foolbox.PyTorchModel(network(), bounds=(0, 1), device="cpu")
        return attack(model, images(), labels(), epsilons=EPS)[1]


def art_classifier() -> Any:
    from art.estimators.classification import PyTorchClassifier  # pyright: ignore[reportMissingImports]

    network().requires_grad_(True)  # the library refuses frozen weights in parts
    return PyTorchClassifier(network(), nn.CrossEntropyLoss(), (64,), 10, clip_values=(0.0, 1.0))


def art_images(name: str, **options: Any) -> np.ndarray:
    import art.attacks.evasion as evasion  # pyright: ignore[reportMissingImports]

    np.random.seed(0)  # noqa: NPY002  # the library draws from the global generator
    attack = getattr(evasion, name)(art_classifier(), **options)
    return attack.generate(images().numpy(), labels().numpy())


@needs_foolbox
def test_fgsm_equals_foolbox_to_the_image() -> None:
    import foolbox  # pyright: ignore[reportMissingImports]

    theirs = foolbox_images(foolbox.attacks.LinfFastGradientAttack(random_start=False))
    mine = ours(Fgsm(), images(), labels())
    assert torch.allclose(mine, theirs, atol=1e-6)
    assert abs(accuracy(mine) - accuracy(theirs)) == 0
    assert accuracy(mine) < accuracy(images()) - 0.2


@needs_foolbox
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_is_within_a_point_and_a_half_of_foolbox(norm: str) -> None:
    import foolbox  # pyright: ignore[reportMissingImports]

    kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    theirs = foolbox_images(kind(steps=20, rel_stepsize=0.25, random_start=True))
    mine = ours(Pgd(norm, steps=20), images(), labels())  # type: ignore[arg-type]
    assert abs(accuracy(mine) - accuracy(theirs)) <= 1.5 * POINT


@needs_art
def test_fgsm_equals_art_to_the_image() -> None:
    theirs = art_images("FastGradientMethod", eps=EPS, batch_size=IMAGES)
    assert np.allclose(ours(Fgsm(), images(), labels()).numpy(), theirs, atol=1e-6)


@needs_art
def test_pgd_and_apgd_are_within_a_point_and_a_half_of_art() -> None:
    options: dict[str, Any] = {"eps": EPS, "batch_size": IMAGES, "verbose": False}
    pgd = art_images("ProjectedGradientDescent", eps_step=EPS / 4, max_iter=20, num_random_init=1, **options)
    assert abs(accuracy(ours(Pgd(steps=20), images(), labels())) - accuracy(pgd)) <= 1.5 * POINT
    options["eps_step"], options["nb_random_init"] = 2 * EPS, 1
    apgd = art_images("AutoProjectedGradientDescent", max_iter=100, loss_type="cross_entropy", **options)
    mine = ours(Apgd(steps=100), images(), labels())
    assert abs(accuracy(mine) - accuracy(apgd)) <= 1.5 * POINT
    assert accuracy(mine) <= accuracy(ours(Pgd(steps=20), images(), labels())) + 0.5 * POINT


@needs_art
def test_square_is_within_eight_points_of_art() -> None:
    """Implementations rescale the published schedule differently; five points apart is normal.

    The library never places a square on the last row and column; here these are padding that nobody reads.
    """
    from art.attacks.evasion import SquareAttack  # pyright: ignore[reportMissingImports]
    from art.estimators.classification import PyTorchClassifier  # pyright: ignore[reportMissingImports]

    class Padded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return network()(x[..., :8, :8].flatten(1))

    x = nn.functional.pad(images().reshape(IMAGES, 1, 8, 8), (0, 1, 0, 1))
    np.random.seed(0)  # noqa: NPY002  # the library draws from the global generator
    classifier = PyTorchClassifier(Padded(), nn.CrossEntropyLoss(), (1, 9, 9), 10, clip_values=(0.0, 1.0))
    attack = SquareAttack(classifier, eps=EPS, max_iter=500, nb_restarts=1, batch_size=IMAGES, verbose=False)
    theirs = attack.generate(x.numpy(), labels().numpy())[..., :8, :8].reshape(IMAGES, 64)
    model = from_module(lambda z: Padded()(z[0])[None], EncoderSpec("direct", 1), (0.0, 1.0), "last")
    found = Square(steps=500)(model, x, labels(), EPS, generator=stream_generator(0, "attack")).x
    assert abs(accuracy(found[..., :8, :8].flatten(1)) - accuracy(theirs)) <= 8 * POINT
