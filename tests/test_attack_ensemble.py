"""The standard attack: per image the worst of several, chosen on noise that does not score."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_models import digits, trained

from rsc import data
from rsc.errors import UsageError
from rsc.hw_targets import deploy
from rsc.program import Program
from rsc.robustness.attacks import Apgd, Fgsm, Pgd, RandomNoise
from rsc.robustness.ensemble import SURROGATES, Member, cost, ensemble, refused, standard, views
from rsc.robustness.eot import Eot
from rsc.robustness.evaluate import Scoring, measure, score
from rsc.robustness.integer import integer_twin
from rsc.robustness.model import from_module, with_surrogate


def toy(n: int = 100) -> tuple[torch.Tensor, torch.Tensor]:
    return digits()[2][:n], digits()[3][:n]


def members() -> list[Member]:
    model = trained()
    return [
        Member(Fgsm(), Eot(model, 2)),
        Member(Pgd(steps=8), Eot(with_surrogate(model, 0.0), 2)),  # no gradient: finds nothing
        Member(Pgd(steps=8), Eot(with_surrogate(model, 8.0), 2)),
    ]


def test_it_is_as_strong_as_its_strongest_member_on_fresh_noise() -> None:
    x, y = toy(60)
    found = ensemble(members(), x, y, 0.12, Scoring(16))
    ours = score(trained(), found.adversarial.x, y, 32).per_run.value
    parts = [
        score(trained(), m.attack(m.model, x, y, 0.12, generator=torch.Generator().manual_seed(0)).x, y, 32)
        for m in members()
    ]
    assert ours <= min(p.per_run.value for p in parts) + 0.02
    assert float(found.adversarial.norms.max()) <= 0.12 * (1 + 1e-12)
    assert set(found.chosen.tolist()) <= {-1, 0, 1, 2}


def test_luck_in_choosing_is_not_counted_as_robustness_lost() -> None:
    """Thirty members that do nothing: their minimum on the select noise falls, the score does not."""
    x, y = toy(60)
    idle = [Member(RandomNoise(), Eot(trained(), 1)) for _ in range(30)]
    found = ensemble(idle, x, y, 1e-6, Scoring(16), select_draws=4)
    clean = score(trained(), x, y, 64).per_run
    fresh = score(trained(), found.adversarial.x, y, 64).per_run
    assert abs(fresh.value - clean.value) < 0.01
    assert {r.stream for r in found.selection} == {"select"}


def test_the_choice_is_the_member_with_fewest_right_runs() -> None:
    x, y = toy(40)
    found = ensemble(members(), x, y, 0.12, Scoring(8))
    hits = np.stack([r.right.sum(0) for r in found.selection])
    clean = measure(trained(), x, y, 16, stream="select").right.sum(0)
    best = np.where(found.chosen < 0, clean, hits[found.chosen, np.arange(40)])
    assert np.array_equal(best, np.minimum(hits.min(0), clean))


def test_the_standard_attack_covers_gradients_losses_and_the_integer_twin(
    program: Program, digits: data.Dataset
) -> None:
    """On a real network all surrogates fit; the choice is made on the deployed integers."""
    assert program.encoder is not None
    module = deploy(program, "torch").module  # type: ignore[attr-defined]
    model = from_module(module, program.encoder, (0.0, 1.0), program.semantics.readout, "small")
    x, y = torch.tensor(digits.images[:6]), torch.tensor(digits.targets[:6]).long()
    every = standard(model, steps=2, eot=1, extra=[integer_twin(program)])
    titles = [m.title for m in every]
    assert len(titles) == len(set(titles)) == 6 * 4 + 2 + 1
    assert {
        "pgd through rga on small",
        "apgd_dlr through assg on small",
        "pgd through atan on integer twin",
    } <= set(titles)
    assert refused(model, SURROGATES) == []
    wanted = ("apgd_dlr through assg on small", "pgd through rga on small", "random through model on small")
    some = [m for m in every if m.title in wanted]
    with deploy(program, "loihi") as target:
        found = ensemble([*some, every[-2]], x, y, 0.3, Scoring(4), predict=target)
    assert {r.name for r in found.selection} == {"loihi"}
    assert found.adversarial.runs == sum(m.attack.cost(m.model) for m in [*some, every[-2]])
    assert cost(some) > found.adversarial.runs / 2


def test_networks_that_cannot_be_switched_are_attacked_as_they_are() -> None:
    model = trained()
    assert [v.surrogate for v in views(model, ["rga"])] == ["model"]
    assert refused(model, ["rga", "atan"]) == ["rga"]
    assert {m.attack.name for m in standard(model, "l2", surrogates=["rga"])} == {"pgd", "apgd", "random"}
    with pytest.raises(UsageError, match="do not fit"):
        ensemble([Member(Apgd("l2"), Eot(model)), Member(Fgsm(), Eot(model))], *toy(4), 0.1, Scoring(2))
