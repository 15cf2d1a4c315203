"""The gradient through an affine front, taken once per image, equals that of all frames."""

from __future__ import annotations

import nir
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rsc.coding import draw_noise
from rsc.export.to_nir import to_program
from rsc.front import Front
from rsc.hw_targets import deploy
from rsc.hw_targets.torch_module import TorchModule
from rsc.networks import SpikingSequential
from rsc.neurons import LIF
from rsc.program import EncoderSpec, Program, Semantics
from rsc.robustness.model import ModuleModel, from_module, logits

DRAWS, SHAPE = 3, (2, 6, 6)
ENCODERS = {
    "rsc2": EncoderSpec("rsc2", 4, 0.3),
    "rsc1": EncoderSpec("rsc1", 4, 0.3),
    "direct": EncoderSpec("direct", 3),
    "per step": EncoderSpec("rsc2", 3, step_sigma=(0.1, 0.2, 0.3)),
    "normalised": EncoderSpec("rsc2", 2, 0.3, mean=(0.2, 0.4), std=(0.5, 0.25)),
    "normalised first": EncoderSpec(
        "rsc2", 2, 0.3, mean=(0.2, 0.4), std=(0.5, 0.25), order=("normalise", "clip", "noise")
    ),
}


def convolutional() -> SpikingSequential:
    layers = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), LIF(inplace=True), nn.AvgPool2d(2)
    return SpikingSequential(*layers, nn.Flatten(), nn.Linear(27, 5))


def fully_connected() -> SpikingSequential:
    return SpikingSequential(nn.Flatten(), nn.Linear(72, 12), LIF(), nn.Linear(12, 9), LIF(), nn.Linear(9, 5))


def prepared(build: type | object) -> SpikingSequential:
    torch.manual_seed(3)
    network = build().double()  # type: ignore[operator]
    for layer in network:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.weight.data *= 4
    return network.eval().requires_grad_(False)


def gradients(model: ModuleModel, whole: bool) -> tuple[Tensor, Tensor]:
    """Logits of some draws, and the gradient of a fixed combination of them."""
    torch.manual_seed(7)
    x = torch.rand(4, *SHAPE, dtype=torch.float64).requires_grad_()
    copies = x.repeat(DRAWS, 1, 1, 1)
    noise = draw_noise(model.encoder, copies.detach(), torch.Generator().manual_seed(1))
    z = logits(model, copies, noise) if whole else model.sensitive_logits(x, noise, DRAWS)
    return z.detach(), torch.autograd.grad((z * torch.randn_like(z)).sum(), x)[0]


@pytest.mark.parametrize("deployed", [False, True])
@pytest.mark.parametrize("build", [convolutional, fully_connected])
@pytest.mark.parametrize("name", ENCODERS)
def test_gradients_are_those_of_all_frames(name: str, build: type, deployed: bool) -> None:
    network, spec = prepared(build), ENCODERS[name]
    module: nn.Module = network
    if deployed:
        module = deploy(to_program(network, SHAPE, spec, bounds=(0.0, 1.0)), "torch:float64").module  # type: ignore[attr-defined]
    model = from_module(module, spec, (0.0, 1.0))
    assert module.front() is not None  # type: ignore[operator]
    (ours, slope), (theirs, expected) = gradients(model, False), gradients(model, True)
    assert torch.equal(ours, theirs)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(slope, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "spec",
    [
        EncoderSpec("rsc2", 3, 0.3, clip=(0.0, 1.0)),
        EncoderSpec("bernoulli", 3),
        EncoderSpec("rsc2", 3, 0.3, grid=255),
    ],
    ids=["clipped", "coins", "grid"],
)
def test_encoders_with_another_slope_go_through_all_frames(
    spec: EncoderSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = prepared(convolutional)
    monkeypatch.setattr(type(network), "front", lambda self: pytest.fail("taken apart"))
    model = from_module(network, spec, (0.0, 1.0))
    assert all(
        torch.equal(*pair) for pair in zip(gradients(model, False), gradients(model, True), strict=True)
    )


def test_a_gradient_asks_for_one_first_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    network = prepared(fully_connected)
    seen: list[int] = []
    linear = nn.functional.linear

    def spy(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if x.requires_grad and weight.shape[1] == 72:
            seen.append(len(x))
        return linear(x, weight, bias)

    monkeypatch.setattr(nn.functional, "linear", spy)
    gradients(from_module(network, ENCODERS["rsc2"], (0.0, 1.0)), False)
    assert seen == [4]  # images, not 4 x 3 draws x 4 steps


def test_layers_that_train_or_are_listened_to_belong_to_no_front() -> None:
    network = prepared(convolutional)
    assert isinstance(network.front(), Front)
    assert [len(network.front().layers), len(network.train().front().layers)] == [2, 1]  # type: ignore[union-attr, arg-type]
    heard = prepared(convolutional)
    heard[0].register_forward_hook(lambda *_: None)
    assert heard.front() is None
    whole = prepared(convolutional)
    whole.register_forward_hook(lambda *_: None)
    assert whole.front() is None


def graph(*edges: tuple[str, str]) -> TorchModule:
    one, weight = np.ones(2), np.ones((2, 2))
    nodes = {
        "in": nir.Input({"input": np.array([2])}),
        "w": nir.Linear(weight),
        "again": nir.Linear(weight),
        "lif": nir.LIF(0.02 * one, one, 0 * one, one, 0 * one),
        "out": nir.Output({"output": np.array([2])}),
    }
    used = {name for edge in edges for name in edge}
    made = nir.NIRGraph({k: v for k, v in nodes.items() if k in used}, list(edges))
    return TorchModule(Program(made, Semantics(dt=1e-3)))


def test_a_graph_has_a_front_only_if_one_way_leads_to_the_neurons() -> None:
    chain = [("in", "w"), ("w", "lif"), ("lif", "out")]
    assert graph(*chain).front() is not None
    assert graph(*chain, ("lif", "again"), ("again", "lif")).front() is None  # recurrent
    assert graph(*chain, ("in", "again"), ("again", "lif")).front() is None  # two ways
    assert graph(*chain, ("w", "out")).front() is None  # read by another
    assert graph(("in", "lif"), ("lif", "out")).front() is None
