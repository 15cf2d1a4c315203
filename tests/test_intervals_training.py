"""The interval loss: margins that no image of the box falls below, closed forms, gradients, its schedule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loss_steps import CLASSES, SHAPE, Affine, network, step
from torch import Tensor, nn

from rsc.encoder_spec import EncoderSpec
from rsc.errors import UsageError
from rsc.networks import NetworkSpec, SpikingSequential, StepBatchNorm2d, build
from rsc.training.losses import CrossEntropy, Interval, Passes
from rsc.training.losses.interval import worst_margins
from rsc.training.objective import Objective, ObjectiveConfig
from rsc.training.step import Step

SPECS = {
    "mlp": NetworkSpec("mlp", (9, 7)),
    "soft reset": NetworkSpec("mlp", (9, 7), reset="subtract"),
    "if": NetworkSpec("mlp", (9,), neuron="if"),
    "membrane": NetworkSpec("mlp", (9,), readout="membrane"),
    "spikes": NetworkSpec("mlp", (9,), readout="spikes"),
    "learnt": NetworkSpec("mlp", (9,), learn_decay=True),
    "convnet": NetworkSpec("convnet", (3, 4)),
    "step norm": NetworkSpec("convnet", (3,), norm="step", steps=3),
    "sew": NetworkSpec("resnet18", width=0.05),
    "ms": NetworkSpec("resnet18", width=0.05, form="ms"),
    "vgg": NetworkSpec("vgg5", width=0.05),
}


def made(name: str) -> Step:
    """A step of a network in eval mode with running statistics of its own."""
    of = network(SPECS[name]).eval()
    rng = np.random.default_rng(0)
    for layer in of.modules():
        if (
            isinstance(layer, nn.BatchNorm2d)
            and layer.running_mean is not None
            and layer.running_var is not None
        ):
            layer.running_mean.copy_(torch.from_numpy(rng.normal(0, 0.1, layer.num_features)))
            layer.running_var.copy_(torch.from_numpy(rng.uniform(0.1, 0.3, layer.num_features)))
    return step(of, batch=4)


def margins(z: Tensor, y: Tensor) -> Tensor:
    return z.gather(1, y[:, None]) - z


@pytest.mark.parametrize("name", SPECS)
def test_no_image_of_the_box_has_a_smaller_margin(name: str) -> None:
    of = made(name)
    with torch.no_grad():
        passes = Passes(of)
        found = passes.of("clean")
        for eps in (0.0, 0.01, 0.1):
            least = worst_margins(passes, found, eps)
            assert torch.equal(least.gather(1, of.y[:, None]), torch.zeros(4, 1).double())
            for seed in range(20):
                draw = torch.rand(of.x.shape, generator=torch.Generator().manual_seed(seed)).double()
                inside = (of.x + eps * (2 * (draw.round() if seed % 2 else draw) - 1)).clamp(0, 1)
                z = passes.again(found, inside).mean(0)
                assert (least <= margins(z, of.y) + 1e-9).all()
            if eps == 0:
                torch.testing.assert_close(least, margins(found.logits, of.y), rtol=0, atol=1e-9)


def test_a_linear_network_has_the_closed_form() -> None:
    """min over the box of (W_y - W_j) x + b_y - b_j is at x - eps sign(W_y - W_j)."""
    source = Affine()
    layer = nn.Linear(16, CLASSES).double()
    layer.weight.data, layer.bias.data = source.weight.data, source.bias.data
    of = step(SpikingSequential(nn.Flatten(), layer), sigma=0, batch=6)
    passes = Passes(of)
    least = worst_margins(passes, passes.of("clean"), 0.05)
    x, apart = of.x.flatten(1), layer.weight[of.y][:, None] - layer.weight
    low, high = (x - 0.05).clamp(0, 1), (x + 0.05).clamp(0, 1)
    worst = torch.where(apart > 0, low[:, None], high[:, None])
    expected = (apart * worst).sum(2) + layer.bias[of.y][:, None] - layer.bias
    torch.testing.assert_close(least, expected)
    value = Interval(eps=0.05).value(Passes(of))
    torch.testing.assert_close(value, F.cross_entropy(-expected, of.y))


def test_training_on_it_raises_the_worst_margins() -> None:
    """A few steps on fixed images: the share of proved ones rises, which cross-entropy alone does not do."""
    shares = {}
    for kind, terms in {
        "interval": (Interval(weight=1.0, eps=0.1, ramp=60),),
        "plain": (CrossEntropy(),),
    }.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = build(NetworkSpec("mlp", (40,)), SHAPE, CLASSES).double()
        objective, optimiser = (
            Objective(ObjectiveConfig(terms=terms)),
            torch.optim.Adam(net.parameters(), 0.02),
        )
        for _ in range(150):
            optimiser.zero_grad()
            objective(step(net, sigma=0.05, batch=12))[0].backward()
            optimiser.step()
            objective.after(net)
        with torch.no_grad():
            passes = Passes(step(net, sigma=0.05, batch=12))
            least = worst_margins(passes, passes.of("clean"), 0.1)
            shares[kind] = float((least.scatter(1, passes.step.y[:, None], 1.0) > 0).all(1).double().mean())
    assert shares["interval"] > 0.8 > 0.2 >= shares["plain"]


def test_the_box_is_seen_under_the_noise_of_the_pass_and_draws_none_of_its_own() -> None:
    of = made("mlp")
    passes = Passes(of)
    passes.of("clean")
    before = of.generator.get_state()
    Interval(eps=0.1).value(passes)
    assert torch.equal(of.generator.get_state(), before)


def test_weights_that_take_the_place_of_the_networks_own_are_bounded() -> None:
    of = made("mlp")
    seen = {name: torch.zeros_like(p) for name, p in of.network.named_parameters()}
    other = Step(of.network, of.encoder, of.x, of.y, of.generator, seen=seen)
    passes = Passes(other)
    assert (worst_margins(passes, passes.of("clean"), 0.1) == 0).all()


def test_the_radius_rises_over_the_ramp() -> None:
    """A resumed run goes on where its schedule was: the objective tells how many updates there were."""
    net, values = network(SPECS["mlp"]), []
    term = Interval(eps=0.2, ramp=4)
    for done in range(7):
        passes = Passes(step(net), updates=done)
        values.append(float(term.value(passes).detach()))
    passes = Passes(step(net))
    fixed = [
        F.cross_entropy(-worst_margins(passes, passes.of("clean"), e), passes.step.y) for e in (0.0, 0.2)
    ]
    assert values[0] == pytest.approx(float(fixed[0].detach()))
    assert values[4:] == [pytest.approx(float(fixed[1].detach()))] * 3
    assert values[:5] == sorted(values[:5])


def test_what_cannot_be_bounded_and_values_out_of_range_are_refused() -> None:
    for fields in ({"eps": -1}, {"eps": "wide"}, {"ramp": -1}):
        with pytest.raises(UsageError):
            Interval(**fields)  # type: ignore[arg-type]
    of = step(SpikingSequential(nn.Flatten(), nn.GELU(), nn.Linear(16, CLASSES)).double())
    with pytest.raises(UsageError, match="GELU"):
        Interval().value(Passes(of))
    norm = SpikingSequential(StepBatchNorm2d(1, 3), nn.Flatten(), nn.Linear(16, CLASSES)).double()
    assert torch.isfinite(Interval().value(Passes(step(norm))).detach())
    assert EncoderSpec("direct", 1).steps == 1
