"""Sparse balls: exact projections in L1 and L0, and attacks that reach the known optimum."""

from __future__ import annotations

import numpy as np
import torch
from scipy import optimize
from toy_models import Linear

from rsc.program import EncoderSpec
from rsc.robustness.attacks import Apgd, Pgd
from rsc.robustness.ball import Ball
from rsc.robustness.model import stream_generator


def test_l1_projection_is_the_nearest_legal_point() -> None:
    """Against a general solver: min ||p - z||^2 with ||p - x||_1 <= eps and p in the bounds."""
    rng = np.random.default_rng(0)
    x, eps = rng.uniform(0, 1, (12, 5)), rng.uniform(0.2, 2, 12)
    x[:4] = x[:4].round()
    z = x + rng.normal(0, 1, x.shape)
    as_tensor = torch.from_numpy
    found = Ball(as_tensor(x), as_tensor(eps), "l1", (0.0, 1.0)).project(as_tensor(z)).numpy()
    for at, home, radius, mine in zip(z, x, eps, found, strict=True):
        size = np.abs(at - home)
        room = np.where(at > home, 1 - home, home)
        best = optimize.minimize(
            lambda d, size=size: ((d - size) ** 2).sum(),
            np.zeros(5),
            bounds=list(zip(np.zeros(5), room, strict=True)),
            constraints={"type": "ineq", "fun": lambda d, radius=radius: radius - d.sum()},
            method="SLSQP",
            options={"ftol": 1e-14},
        )
        assert np.allclose(np.abs(mine - home), best.x, atol=1e-6)


def test_l1_projection_is_the_nearest_point() -> None:
    """Optimality condition of the projection p of z: (z - p) . (q - p) <= 0 for all q of the ball."""
    generator = torch.Generator().manual_seed(5)
    x = torch.zeros(30, 6, dtype=torch.float64)
    z = torch.randn(30, 6, generator=generator, dtype=torch.float64)
    ball = Ball(x, torch.full((30,), 0.7, dtype=torch.float64), "l1", (-9.0, 9.0))
    p = ball.project(z)
    corners = torch.cat([torch.eye(6), -torch.eye(6)]).double() * 0.7
    slack = ((z - p)[:, None] * (corners[None] - p[:, None])).sum(-1)
    assert slack.max() < 1e-12


def test_values_that_may_differ_are_counted_in_l0() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(8, 20, generator=generator)
    ball = Ball(x, torch.arange(8.0), "l0", (0.0, 1.0))
    z = x + torch.randn(8, 20, generator=generator)
    p = ball.project(z)
    assert torch.equal((p != x).sum(1), torch.arange(8))
    moved = (z - x).abs()
    for k in range(8):
        assert set(moved[k].topk(k).indices.tolist()) == set((p[k] != x[k]).nonzero()[:, 0].tolist())
    assert ((ball.surface(generator) != x).sum(1) <= torch.arange(8)).all()


def test_finds_the_exact_worst_point_in_l1_between_bounds() -> None:
    """The best use of an L1 budget on a linear score fills the steepest values to their bounds in turn."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(12, generator=generator, dtype=torch.float64)
    model = Linear(weight, 0.3, EncoderSpec("rsc2", 4, 0.5), (0.0, 1.0))
    x = torch.rand(20, 12, generator=generator, dtype=torch.float64)
    y, eps = torch.zeros(20, dtype=torch.int64), 1.7
    room = torch.where(weight > 0, x, 1 - x)  # the score falls
    order = weight.abs().argsort(descending=True)
    before = room[:, order].cumsum(1) - room[:, order]
    used = torch.minimum(room[:, order], (eps - before).clamp_min(0))
    best = used @ weight.abs()[order]
    for attack, tolerance in ((Pgd("l1", steps=60), 0.1), (Apgd("l1", steps=100), 0.05)):
        found = attack(model, x, y, eps, generator=stream_generator(1, "attack"))
        fall = (x - found.x) @ weight
        assert (fall <= best * (1 + 1e-9)).all()
        assert fall.mean() >= best.mean() * (1 - tolerance), attack.name
