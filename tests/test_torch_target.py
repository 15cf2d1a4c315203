"""The torch target: gradients against autograd through the unrolled equations, chunks, static frames."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Tensor

from rsc.errors import UsageError
from rsc.hw_targets import get_target
from rsc.hw_targets.torch import TorchModel, TorchTarget
from rsc.hw_targets.torch_module import TorchModule
from rsc.neurons.scan import Fire, Leak, leak_scan, spike_scan, threshold
from rsc.neurons.surrogates import SURROGATES
from rsc.program import Program, Semantics

DT = 2.0**-10
Step = Callable[[Tensor], Tensor]


def spike(u: Tensor) -> Tensor:
    """A step whose derivative is that of atan(pi u)/pi, i.e. 1 / (1 + (pi u)^2)."""
    smooth = torch.atan(math.pi * u) / math.pi
    return (u > 0).to(u) + smooth - smooth.detach()


def unrolled(x: Tensor, v: Tensor, leak: Leak, fire: Fire) -> tuple[Tensor, Tensor]:
    """The equations as autograd sees them, one step at a time."""
    spikes = []
    for current in x:
        h = leak.alpha * v + leak.beta * current + leak.c
        s = spike(h - fire.v_threshold)
        z = s.detach() if fire.detach_reset else s
        v = h - z * fire.v_threshold if fire.reset == "subtract" else (1 - z) * h + z * fire.v_reset
        spikes.append(s)
    return torch.stack(spikes), v


def rule(seed: int, reset: Any, detach: bool, uniform: bool) -> tuple[Tensor, Tensor, Leak, Fire]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    x, v = 2 * draw(7, 3, 4) - 0.5, draw(3, 4)
    if uniform:
        return x, v, Leak(0.75, 1.0, 0.0), Fire(0.8, 0.0, reset, detach_reset=detach)
    fire = Fire(0.5 + draw(4), draw(4) - 0.5, reset, detach_reset=detach)
    return x, v, Leak(draw(4), 2 * draw(4), 0.1 * draw(4)), fire


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("reset", ["value", "subtract"])
def test_gradients_are_those_of_the_unrolled_equations(reset: str, detach: bool, uniform: bool) -> None:
    x, v, leak, fire = rule(1, reset, detach, uniform)
    results = []
    for scan in (spike_scan, unrolled):
        a, b = x.clone().requires_grad_(), v.clone().requires_grad_()
        spikes, last = scan(a, b, leak, fire)
        weights = torch.arange(spikes.numel(), dtype=torch.float64).reshape(spikes.shape).cos()
        ((spikes * weights).sum() + (last**2).sum()).backward()
        results.append((spikes.detach(), last.detach(), a.grad, b.grad))
    assert 0 < results[0][0].mean() < 1
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_gradients_of_a_leak() -> None:
    x, v, leak, _ = rule(2, "value", True, False)
    alpha, beta, c = (torch.as_tensor(k) for k in (leak.alpha, leak.beta, leak.c))
    x.requires_grad_()
    v.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: leak_scan(a, b, Leak(alpha, beta, c)), (x, v))


def test_a_threshold_has_the_surrogate_of_its_distance() -> None:
    x = torch.tensor([[-1.0, 0.25, 2.0]], requires_grad=True)
    threshold(x, Fire(0.5, surrogate=lambda u: u * 3)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[-4.5, -0.75, 4.5]]


def neuron(kind: type, n: int, **changes: Any) -> Any:
    values: dict[str, Any] = {"r": 2.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0}
    values |= {"tau_syn": 4 * DT, "tau_mem": 2 * DT, "w_in": 3.0} if kind is nir.CubaLIF else {"tau": 2 * DT}
    fields: Any = {k: np.broadcast_to(v, (n,)).astype(float) for k, v in (values | changes).items()}
    return kind(**fields)


def network(recurrent: bool = False, semantics: Semantics | None = None) -> Program:
    """[1, 6, 6] -> conv -> LIF -> pool -> flatten -> (recurrent) CubaLIF -> affine -> 3."""
    rng = np.random.default_rng(5)
    ones = np.ones((2, 6, 6))
    nodes = {
        "input": nir.Input({"input": np.array([1, 6, 6])}),
        "c": nir.Conv2d((6, 6), rng.normal(size=(2, 1, 3, 3)), 1, 1, 1, 1, rng.normal(size=2)),
        "n": nir.LIF(2 * DT * ones, 2 * ones, 0 * ones, ones, 0 * ones),
        "p": nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "f": nir.Flatten({"input": np.array([2, 3, 3])}, 0, -1),
        "h": neuron(nir.CubaLIF, 18),
        "a": nir.Affine(rng.normal(size=(3, 18)), rng.normal(size=3)),
        "output": nir.Output({"output": np.array([3])}),
    }
    names = list(nodes)
    edges = list(pairwise(names))
    if recurrent:
        nodes["r"] = nir.Linear(rng.normal(size=(18, 18)))
        edges += [("h", "r"), ("r", "h")]
    return Program(nir.NIRGraph(nodes, edges), semantics or Semantics(DT))


def images(*lead: int) -> Tensor:
    return torch.rand(*lead, 1, 6, 6, generator=torch.Generator().manual_seed(3))


def model(program: Program, *options: str) -> TorchModel:
    return TorchTarget(*options).compile(program)


def gradient(module: TorchModule, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(module(x).square().sum(), x)
    return found


@pytest.mark.parametrize("recurrent", [False, True])
def test_the_gradient_of_a_network_is_that_of_its_equations(recurrent: bool) -> None:
    program = network(recurrent)
    module = model(program, "float64").module
    nodes: dict[str, Any] = program.graph.nodes
    w = {k: torch.from_numpy(np.array(nodes[k].weight)) for k in "car"[: 2 + recurrent]}
    bias = {k: torch.from_numpy(np.array(nodes[k].bias)) for k in "ca"}
    x = images(5, 2).double().requires_grad_()
    v, i, u, z, outputs = (torch.zeros(2, 2, 6, 6).double(), *[torch.zeros(2, 18).double()] * 3, [])
    for frame in x:
        v = v / 2 + torch.nn.functional.conv2d(frame, w["c"], bias["c"], padding=1)
        s = spike(v - 1)
        v = v * (1 - s.detach())
        current = torch.nn.functional.avg_pool2d(s, 2).flatten(1) + (z @ w["r"].T if recurrent else 0)
        i = 0.75 * i + 0.25 * 3.0 * current
        u = u / 2 + i
        z = spike(u - 1)
        u = u * (1 - z.detach())
        outputs.append(z @ w["a"].T + bias["a"])
    expected = torch.stack(outputs)
    torch.testing.assert_close(module(x), expected)
    (by_hand,) = torch.autograd.grad(expected.square().sum(), x)
    assert by_hand.abs().sum() > 0
    torch.testing.assert_close(gradient(module, x.detach()), by_hand, rtol=1e-10, atol=1e-12)


def test_the_surrogate_can_be_switched_without_touching_the_forward_pass() -> None:
    module, x = model(network()).module, images(4, 2)
    values, first = module(x), gradient(module, x)
    for name in ("triangle", "rectangle", "fast_sigmoid"):
        module.surrogate = SURROGATES[name]
        assert torch.equal(module(x), values)
        assert not torch.allclose(gradient(module, x), first)
    module.surrogate, module.detach_reset = SURROGATES["atan"], False
    assert torch.equal(module(x), values)
    assert not torch.allclose(gradient(module, x), first)


def test_the_module_keeps_no_state_and_its_weights_get_no_gradient() -> None:
    module, x = model(network(recurrent=True)).module, images(4, 2)
    assert torch.equal(module(x), module(x))
    assert list(module.parameters())
    assert not any(p.requires_grad for p in module.parameters())
    assert torch.equal(copy.deepcopy(module)(x), module(x))
    assert module.double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize("recurrent", [False, True])
def test_frames_that_do_not_change_are_computed_once(recurrent: bool) -> None:
    module, x = model(network(recurrent), "float64").module, images(1, 3).double()
    sizes: list[int] = []
    conv = next(layer for layer in module.layers if hasattr(layer, "groups"))
    conv.register_forward_hook(lambda layer, args, out: sizes.append(len(args[0])))
    values = module(x.expand(4, *x.shape[1:]))
    torch.testing.assert_close(values, module(x.repeat(4, 1, 1, 1, 1)))
    assert sizes == [3, 12]
    once, repeated = x.clone().requires_grad_(), x.clone().requires_grad_()
    module(once.expand(4, *x.shape[1:])).square().sum().backward()
    module(repeated.repeat(4, 1, 1, 1, 1)).square().sum().backward()
    torch.testing.assert_close(once.grad, repeated.grad)
    same = model(network(recurrent), "float64")
    result = same.run_frames(x.expand(4, *x.shape[1:]).numpy().astype(np.float32))
    np.testing.assert_allclose(result.outputs["output"], values.numpy(), rtol=1e-6, atol=1e-6)


def test_cutting_the_batch_changes_neither_values_nor_gradients() -> None:
    module, x = model(network(recurrent=True), "float64").module, images(4, 7).double()
    values, grad = module(x), gradient(module, x)
    module.chunk_bytes = 8 * 4 * 72 * 2
    assert (module.tile(4, 7), module.tile(4, 7, static=True)) == ((2, 4), (2, 4))
    torch.testing.assert_close(module(x), values)
    torch.testing.assert_close(gradient(module, x), grad)
    whole = model(network(recurrent=True), "float64")
    frames = {"input": x.numpy().astype(np.float32)}
    expected, _ = whole.run_state(frames)
    whole.module.chunk_bytes = module.chunk_bytes
    result = whole.run_frames(frames)
    np.testing.assert_allclose(result.outputs["output"], expected.outputs["output"], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(result.spikes.counts["n"], expected.spikes.counts["n"])


def test_the_state_of_some_samples_goes_on_alone() -> None:
    module = model(network(recurrent=True), "float64").module
    x = {"input": images(6, 3).double()}
    whole = module.run(x).values["output"]
    state = module.run({"input": x["input"][:2]}).state
    rest = module.run({"input": x["input"][2:, 1:2]}, state[1:2]).values["output"]
    torch.testing.assert_close(rest, whole[2:, 1:2])


def test_float32_stays_close_to_float64() -> None:
    x = images(8, 16).numpy()
    a, b = (model(network(), option).run_frames(x) for option in ("float32", "float64"))
    assert (a.spikes.counts["n"] != b.spikes.counts["n"]).mean() < 1e-3
    np.testing.assert_allclose(a.logits, b.logits, atol=1e-4)


def test_calling_needs_one_input_and_one_output() -> None:
    nodes = {
        "a": nir.Input({"input": np.array([2])}),
        "b": nir.Input({"input": np.array([2])}),
        "o": nir.Output({"output": np.array([2])}),
    }
    program = Program(nir.NIRGraph(nodes, [("a", "o"), ("b", "o")], type_check=False), Semantics(DT))
    module, ones = model(program).module, torch.ones(3, 1, 2)
    with pytest.raises(UsageError, match="2 inputs"):
        module(ones)
    assert torch.equal(module.run({"a": ones, "b": ones}).values["o"], 2 * ones)


def test_options() -> None:
    with pytest.raises(UsageError, match="no option 'half'"):
        get_target("torch:half")
    missing = get_target("torch:float64:cuda").available()
    assert (missing is None) == torch.cuda.is_available()
    assert model(network()).arithmetic == "float32"
