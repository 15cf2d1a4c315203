"""Attackers' gradients on loaded networks: the forward pass stays, the backward pass is the rule's."""

from __future__ import annotations

import itertools
import math

import nir
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rsc import pipeline
from rsc.errors import UsageError
from rsc.hw_targets.torch_module import TorchModule
from rsc.neurons import LIF
from rsc.neurons.surrogates import atan, triangle
from rsc.program import EncoderSpec, Program, Semantics
from rsc.robustness.attacks import Pgd
from rsc.robustness.eot import Eot
from rsc.robustness.model import ModuleModel, from_module, stream_generator, with_surrogate
from rsc.robustness.surrogates import (
    RULES,
    Assg,
    Bptr,
    GradientRule,
    Hart,
    Memory,
    Pdsg,
    Rga,
    SpikeLayer,
    Stbp,
    attack_through,
    surrogate_named,
)
from rsc.robustness.surrogates.pdsg import spread

T, B, N = 5, 3, 6


def layer(alpha: float = 0.5, reset: str = "value", seed: int = 0) -> tuple[SpikeLayer, Tensor]:
    """A run of one layer by its definition, and a gradient of its spikes."""
    generator = torch.Generator().manual_seed(seed)
    drive = torch.randn(T, B, N, generator=generator, dtype=torch.float64) + 0.6
    v, hs, spikes = torch.zeros(B, N, dtype=torch.float64), [], []
    for d in drive:
        h = alpha * v + d
        s = (h > 1).double()
        v = h * (1 - s) if reset == "value" else h - s
        hs.append(h)
        spikes.append(s)
    grad = torch.randn(T, B, N, generator=generator, dtype=torch.float64)
    return SpikeLayer("a", drive, torch.stack(hs), torch.stack(spikes), alpha, 1.0, reset), grad  # type: ignore[arg-type]


def network(seed: int = 0, reset: str = "value", inplace: bool = False) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(4, 16),
            LIF(0.7, reset=reset, inplace=inplace),
            nn.Linear(16, 8),
            LIF(0.5),
            nn.Linear(8, 3),
        ).requires_grad_(False)


def slope_of(module: nn.Module, frames: Tensor) -> Tensor:
    image = frames.clone().requires_grad_(True)
    (grad,) = torch.autograd.grad(module(image).square().sum(), image)
    return grad


def frames_of(width: int = 4, dtype: torch.dtype = torch.float32) -> Tensor:
    return 2 * torch.randn(T, B, width, generator=torch.Generator().manual_seed(3), dtype=dtype)


@pytest.mark.parametrize("rule", [kind() for kind in RULES.values()], ids=list(RULES))
@pytest.mark.parametrize("inplace", [False, True])
def test_forward_is_unchanged_and_the_network_itself_keeps_its_gradient(
    rule: GradientRule, inplace: bool
) -> None:
    module, frames = network(inplace=inplace), frames_of()
    before, slope = module(frames), slope_of(module, frames)
    twin, _ = attack_through(module, rule)
    assert torch.equal(twin(frames), before)
    image = frames.clone().requires_grad_(True)
    assert torch.equal(twin(image), before)
    assert torch.isfinite(slope_of(twin, frames)).all()
    assert torch.equal(slope_of(module, frames), slope)
    assert all(a is b for a, b in zip(module.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("reset", ["value", "subtract"])
@pytest.mark.parametrize("surrogate", ["atan", "triangle"])
def test_stbp_equals_the_networks_own_backward_pass(reset: str, surrogate: str) -> None:
    module, frames = network(reset=reset), frames_of()
    for part in module.modules():
        if isinstance(part, LIF):
            part.surrogate = surrogate
    twin, _ = attack_through(module, Stbp(surrogate))
    assert torch.allclose(slope_of(twin, frames), slope_of(module, frames), rtol=1e-5, atol=1e-7)


def test_stbp_equals_the_torch_targets_backward_pass(program: Program) -> None:
    """On a deployed network with biases, scales and convolutions, tiled and whole."""
    module = TorchModule(program)
    frames = torch.rand(4, 6, *program.input_shape, generator=torch.Generator().manual_seed(1))
    module.chunk_bytes = 1
    twin, _ = attack_through(module, Stbp("atan"))
    assert torch.equal(twin(frames), module(frames))
    assert torch.allclose(slope_of(twin, frames), slope_of(module, frames), rtol=1e-3, atol=1e-6)


def synaptic(current: str) -> Program:
    """A population with a synaptic current between two matrices."""
    rng, dt = np.random.default_rng(0), 1e-3
    one = np.ones(5)
    nodes = {
        "input": nir.Input({"input": np.array([4])}),
        "in": nir.Affine(rng.normal(0, 2, (5, 4)), rng.normal(0, 1, 5)),
        "cuba": nir.CubaLIF(5 * dt * one, 10 * dt * one, one, 0 * one, one, w_in=3 * one),
        "out": nir.Affine(rng.normal(0, 1, (3, 5)), np.zeros(3)),
        "output": nir.Output({"output": np.array([3])}),
    }
    names = list(nodes)
    graph = nir.NIRGraph(nodes, list(itertools.pairwise(names)), type_check=False)
    return Program(graph, Semantics(dt, current=current))  # type: ignore[arg-type]


@pytest.mark.parametrize("current", ["old", "new"])
def test_synaptic_currents_keep_their_own_gradient(current: str) -> None:
    module, frames = TorchModule(synaptic(current), torch.float64), frames_of(dtype=torch.float64)
    assert module(frames).abs().sum() > 0
    twin, _ = attack_through(module, Stbp("atan"))
    assert torch.equal(twin(frames), module(frames))
    assert torch.allclose(slope_of(twin, frames), slope_of(module, frames), rtol=1e-9)


def test_a_recurrent_program_is_refused_by_name() -> None:
    program = synaptic("old")
    nodes = dict(program.graph.nodes) | {"back": nir.Linear(0.1 * np.ones((5, 5)))}
    edges = [*program.graph.edges, ("cuba", "back"), ("back", "cuba")]
    module = TorchModule(Program(nir.NIRGraph(nodes, edges, type_check=False), program.semantics))
    with pytest.raises(UsageError, match="recurrent"):
        attack_through(module, Rga())


def test_networks_without_neurons_of_ours_are_refused() -> None:
    with pytest.raises(UsageError, match="no neurons"):
        attack_through(nn.Linear(2, 2), Rga())


def test_rate_rule_passes_the_mean_where_a_neuron_fired() -> None:
    run, grad = layer()
    expected = grad.mean(0) * (run.spikes.sum(0) > 0)
    assert torch.allclose(Bptr().backward(run, grad, Memory()), expected.expand(T, -1, -1))


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_rga_is_the_slope_of_the_published_curve(alpha: float) -> None:
    """Numerical derivative of the line through (0,0), (1-a, gamma (1-a)), (2,1) at each neuron's drive."""
    run, grad = layer(alpha)
    d = run.drive.mean(0).numpy()
    knots = [0.0, 1 - alpha, 2.0] if alpha < 1 else [0.0, 2.0]
    heights = [0.0, 0.2 * (1 - alpha), 1.0] if alpha < 1 else [0.0, 1.0]
    curve = lambda x: np.where(x > 2, 1.0, np.interp(x, knots, heights))  # noqa: E731
    slope = (curve(d + 1e-7) - curve(d - 1e-7)) / 2e-7
    expected = grad.mean(0) * torch.from_numpy(slope)
    assert torch.allclose(Rga().backward(run, grad, Memory())[2], expected, atol=1e-6)


def test_hart_cuts_the_path_through_the_membrane_and_averages_over_time() -> None:
    """Against automatic differentiation of a layer whose carried membrane is detached."""
    run, grad = layer()
    drive = run.drive.clone().requires_grad_(True)
    carried = (run.h - run.drive).detach()
    slope = triangle((carried + drive - 1).detach(), 1.0)
    spikes = (carried + drive) * slope  # derivative: the triangle
    (direct,) = torch.autograd.grad((spikes * grad).sum(), drive)
    found = Hart().backward(run, grad, Memory())
    assert torch.allclose(found, direct.mean(0).expand(T, -1, -1))


def test_pdsg_is_as_wide_as_the_membrane_spreads() -> None:
    run, grad = layer()
    u = run.above.numpy()
    sigma = np.stack([u[: t + 1].std((0, 1)) for t in range(T)])[:, None]
    assert np.allclose(spread(run.above).numpy(), sigma)
    bell = np.exp(-((u - sigma / 2) ** 2) / (2 * sigma**2)) / (math.sqrt(2 * math.pi) * sigma)
    carried, expected = np.zeros((B, N)), np.empty((T, B, N))
    for t in reversed(range(T)):
        expected[t] = bell[t] * grad[t].numpy() + (1 - run.spikes[t].numpy()) * carried
        carried = 0.5 * expected[t]
    assert np.allclose(Pdsg().backward(run, grad, Memory()).numpy(), expected)
    images = torch.randn(4, 2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    assert spread(images).shape == (4, 1, 3, 1, 1)
    assert torch.equal(spread(torch.ones(2, 2, 3)), torch.ones(2, 1, 3))


def test_assg_vanishes_to_the_degree_that_was_asked_for() -> None:
    """Without spread and with settled averages, the surrogate's mass inside |u| is A at every neuron."""
    u = torch.linspace(0.1, 2, N, dtype=torch.float64).expand(T, B, N)
    run, grad = layer()
    run = SpikeLayer("a", run.drive, u + 1, torch.zeros_like(u), 0.0, 1.0)
    memory, rule = Memory(), Assg(0.8)
    for _ in range(400):
        memory.next_gradient()
        rule.observe(run, memory)
    mean, dispersion = memory.averages["a"]
    assert torch.allclose(mean, u)
    assert dispersion.max() < 1e-9
    alpha = 2 * math.tan(math.pi * 0.8 / 2) / math.pi / (mean + 1e-4)
    mass = 2 / math.pi * torch.atan(math.pi / 2 * alpha * u)
    assert torch.allclose(mass, torch.tensor(0.8, dtype=torch.float64), atol=1e-3)
    expected = atan(u.clone(), 1.0) * 0 + alpha / 2 / (1 + (math.pi / 2 * alpha * u) ** 2)
    assert torch.allclose(rule.backward(run, torch.ones_like(grad), memory), expected)


def test_assg_learns_once_per_gradient_and_forgets_between_restarts() -> None:
    seen: list[int] = []

    class Spy(Assg):
        def observe(self, layer: SpikeLayer, memory: Memory) -> None:
            super().observe(layer, memory)
            seen.append(id(memory.averages[layer.name][0]))

    model = switched(Spy())
    x, y = torch.rand(4, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(4, dtype=torch.int64)
    Pgd(steps=3, restarts=2)(Eot(model, 4), x, y, 0.2, generator=stream_generator(0, "attack"))
    per_layer = len(seen) // 2
    assert per_layer == 2 * 3 * 4  # restarts, steps, draws
    first = seen[::2]
    changes = [a != b for a, b in itertools.pairwise(first)]
    assert [k + 1 for k, changed in enumerate(changes) if changed] == [4, 8, 12, 16, 20]
    assert model.memory is not None


def switched(rule: GradientRule | str) -> ModuleModel:
    encoder = EncoderSpec("rsc2", T, 0.3)
    return with_surrogate(from_module(network(), encoder, (0.0, 1.0)), rule)


@pytest.mark.parametrize(
    "text", ["atan", "atan:10", "triangle", "rga", "rga:0.3", "assg:0.8", "stbp", "pdsg"]
)
def test_surrogates_are_named_as_users_write_them(text: str, packed: pipeline.Packed) -> None:
    """Every one drives an attack on a real network, and the report can say which."""
    program = packed.program
    assert program is not None
    assert program.encoder is not None
    model = from_module(TorchModule(program), program.encoder, (0.0, 1.0), program.semantics.readout)
    through = with_surrogate(model, surrogate_named(text))
    assert text.split(":")[0] in through.surrogate
    x = torch.rand(4, *program.input_shape, generator=torch.Generator().manual_seed(0))
    y = torch.zeros(4, dtype=torch.int64)
    found = Pgd(steps=3)(Eot(through, 2), x, y, 0.3, generator=stream_generator(0, "attack"))
    assert found.kept.mean() > found.start.mean()


@pytest.mark.parametrize("text", ["nothing", "atan:steep", "pdsg:2", "gaussian:2"])
def test_unknown_surrogates_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        surrogate_named(text)
