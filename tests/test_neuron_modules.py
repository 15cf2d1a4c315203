"""LIF, IF and LI as layers: state, constants, types and layouts; and LIF against Norse's LIFBox."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from typing import Any

import norse.torch as norse
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from rsc.errors import UsageError
from rsc.neurons import IF, LI, LIF, Neurons, surrogate_of
from rsc.neurons.surrogates import atan


def currents(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return 1.5 * torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=dtype)


CHANNELS = torch.tensor([0.2, 0.5, 0.9])
LAYERS: list[Any] = [
    LIF(),
    LIF(CHANNELS, 2 * CHANNELS, reset="subtract"),
    LIF(learn_decay=True, learn_threshold=True, comparison=">="),
    IF(),
    IF(v_threshold=CHANNELS, learn_threshold=True),
    LI(0.7),
    LI(CHANNELS, learn_decay=True),
]


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_a_stream_in_pieces_is_the_whole(layer: Neurons) -> None:
    x = currents(10, 2, 3, 4)
    whole, last = layer.run(x)
    first, state = layer.run(x[:4])
    second, end = layer.run(x[4:], state)
    assert torch.equal(whole, torch.cat([first, second]))
    assert torch.equal(last, end)
    assert torch.equal(layer(x), whole)
    assert torch.equal(layer(x), whole)


@pytest.mark.parametrize("detach_reset", [True, False])
def test_lif_is_norse_lif_box(detach_reset: bool) -> None:
    """Its step is v + 0.5 (x - v): doubled currents make it ours. Its gradient passes through the reset."""
    x = currents(12, 4, 6, dtype=torch.float64).requires_grad_()
    p = norse.LIFBoxParameters(
        tau_mem_inv=torch.tensor(500.0), v_th=torch.tensor(1.0), method="super", alpha=1
    )
    cell, state, theirs = norse.LIFBoxCell(p, dt=0.001), None, []
    for frame in x:
        z, state = cell(2 * frame, state)
        theirs.append(z)
    expected = torch.stack(theirs)
    ours = LIF(surrogate="fast_sigmoid", detach_reset=detach_reset)(x)
    assert 0.1 < expected.mean() < 0.5
    assert torch.equal(ours, expected)
    weights = torch.arange(x.numel(), dtype=torch.float64).reshape(x.shape).cos()
    a, b = (torch.autograd.grad((z * weights).sum(), x)[0] for z in (ours, expected))
    assert torch.allclose(a, b, rtol=1e-10, atol=1e-12) == (not detach_reset)


def test_if_is_lif_without_leak() -> None:
    x = currents(8, 2, 3)
    assert torch.equal(IF(0.7)(x), LIF(1.0, 0.7)(x))
    assert (IF().decay, isinstance(IF(), LIF)) == (1.0, True)


def test_li_is_the_geometric_sum_of_its_currents() -> None:
    x = currents(6, 2, 3, dtype=torch.float64)
    kernel = 0.7 ** (torch.arange(6.0)[:, None] - torch.arange(6.0)).double()
    torch.testing.assert_close(LI(0.7)(x), torch.einsum("ts,sbc->tbc", kernel.tril(), x))


def test_gradients_of_a_learnt_leak_are_those_of_the_loop() -> None:
    x = currents(6, 2, 3, dtype=torch.float64).requires_grad_()
    layer = LI(CHANNELS, learn_decay=True).double()
    layer(x).square().sum().backward()
    raw = layer.leak.raw.detach().clone().requires_grad_()
    v, total = torch.zeros(2, 3).double(), torch.zeros(()).double()
    other = x.detach().clone().requires_grad_()
    for frame in other:
        v = torch.sigmoid(raw) * v + frame
        total = total + v.square().sum()
    total.backward()
    torch.testing.assert_close(layer.leak.raw.grad, raw.grad)
    torch.testing.assert_close(x.grad, other.grad)


def test_constants_read_as_numbers_or_one_per_channel() -> None:
    fixed = LIF(0.3, 0.7)
    assert (fixed.decay, fixed.v_threshold) == (0.3, 0.7)
    assert not list(fixed.state_dict())
    learnt = LIF(0.3, 0.7, learn_decay=True, learn_threshold=True)
    assert isinstance(learnt.decay, float)
    assert learnt.decay == pytest.approx(0.3)
    assert learnt.v_threshold == pytest.approx(0.7)
    assert sorted(name for name, _ in learnt.named_parameters()) == ["leak.raw", "level.raw"]
    for learn in (True, False):
        layer = LIF(CHANNELS, CHANNELS, learn_decay=learn, learn_threshold=learn)
        torch.testing.assert_close(layer.decay, CHANNELS)
        torch.testing.assert_close(layer.v_threshold, CHANNELS)
        assert not layer.decay.requires_grad
        assert len(list(layer.parameters())) == 2 * learn
        assert len(layer.state_dict()) == 2
    assert LIF(0.5, 1.0, learn_decay=True, learn_threshold=True).decay == 0.5


def test_channels_are_the_third_axis() -> None:
    x = currents(7, 2, 3, 4, 5)
    together = LIF(CHANNELS, 2 * CHANNELS)(x)
    for c, k in enumerate(CHANNELS.tolist()):
        assert torch.equal(together[:, :, c], LIF(k, float(2 * CHANNELS[c]))(x[:, :, c]))


def test_what_is_learnt_stays_within_its_bounds() -> None:
    layer = LIF(CHANNELS, learn_decay=True, learn_threshold=True)
    with torch.no_grad():
        layer.leak.raw.copy_(torch.tensor([-200.0, 200.0, 0.0]))
        layer.level.raw.fill_(-20.0)
    assert ((layer.decay > 0) & (layer.decay < 1)).all()
    assert layer.v_threshold > 0
    x = currents(5, 2, 3)
    assert layer(x).isfinite().all()


def test_training_moves_a_learnt_decay_towards_the_one_that_made_the_targets() -> None:
    x = currents(20, 8, 3, dtype=torch.float64)
    target = LI(0.8)(x)
    layer = LI(0.3, learn_decay=True).double()
    optimiser = torch.optim.Adam(layer.parameters(), 0.1)
    for _ in range(150):
        optimiser.zero_grad()
        (layer(x) - target).square().mean().backward()
        optimiser.step()
    assert layer.decay == pytest.approx(0.8, abs=1e-3)


def test_parameters_of_a_functional_call_take_the_place_of_ones_own() -> None:
    layer = LIF(0.3, learn_decay=True, learn_threshold=True)
    network = nn.Sequential(layer)
    x, raw = currents(6, 2, 3), torch.tensor(0.0, requires_grad=True)
    spikes = functional_call(network, {"0.leak.raw": raw}, (x,))
    assert torch.equal(spikes, LIF(0.5)(x))
    spikes.sum().backward()
    assert raw.grad is not None
    assert raw.grad != 0
    assert layer.leak.raw.grad is None


@pytest.mark.parametrize("layer", [LIF(), LI(), LIF(learn_decay=True)], ids=repr)
def test_halves_are_integrated_in_float32(layer: Neurons) -> None:
    x = currents(30, 2, 3).bfloat16().requires_grad_()
    out, state = layer.run(x)
    expected, end = layer.run(x.detach().float())
    assert torch.equal(out.float(), expected)
    assert state.dtype == torch.float32
    assert torch.equal(state, end)
    out.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    again, _ = layer.run(x.detach()[15:], layer.run(x.detach()[:15])[1])
    assert torch.equal(again, out[15:])


def test_autocast_trains_a_layer_between_linear_ones() -> None:
    network = nn.Sequential(nn.Linear(5, 16), LIF(inplace=True), nn.Linear(16, 2))
    with torch.autocast("cpu", torch.bfloat16):
        out = network(currents(6, 4, 5))
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())


@pytest.mark.parametrize("detach_reset", [True, False])
def test_layers_in_place_give_the_same_gradients_of_a_network(detach_reset: bool) -> None:
    torch.manual_seed(0)
    grads = []
    weights = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 3)
    for inplace in (True, False):
        neurons = [
            LIF(0.9, 0.3, detach_reset=detach_reset, inplace=inplace, learn_decay=learn)
            for learn in (False, True)
        ]
        x = currents(20, 2, 6, 6).to(memory_format=torch.channels_last).requires_grad_()
        y = x
        for conv, layer in zip(weights, neurons, strict=True):
            y = layer(conv(y).unflatten(0, (5, 4))).flatten(0, 1)
        y.square().sum().backward()
        parameters = [*weights[0].parameters(), *weights[1].parameters(), *neurons[1].parameters(), x]
        grads.append([p.grad.clone() for p in parameters if p.grad is not None])
        for conv in weights:
            conv.zero_grad()
    assert len(grads[0]) == 6
    for a, b in zip(*grads, strict=True):
        assert torch.equal(a, b)


def test_layers_are_copied_pickled_moved_and_shown() -> None:
    layer = LIF(CHANNELS, surrogate=surrogate_of("atan", alpha=3.0), learn_decay=True)
    x = currents(5, 2, 3)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):  # noqa: S301
        assert torch.equal(other(x), layer(x))
    assert layer.double()(x.double()).dtype == torch.float64
    assert "decay [3] learnt" in repr(layer)
    assert "v_threshold=1.0" in repr(layer)


def test_a_surrogate_by_name_function_or_parameter() -> None:
    x = currents(6, 2, 3)

    def gradient(layer: LIF) -> Tensor:
        y = x.clone().requires_grad_()
        return torch.autograd.grad(layer(y).sum(), y)[0]

    layer = LIF()
    plain = gradient(layer)
    assert torch.equal(gradient(LIF(surrogate=atan)), plain)
    layer.surrogate = partial(atan, alpha=5.0)
    assert torch.equal(gradient(layer), gradient(LIF(surrogate=surrogate_of("atan", alpha=5.0))))
    assert not torch.equal(gradient(layer), plain)
    layer.surrogate = "arctan"
    with pytest.raises(UsageError, match="no surrogate"):
        layer(x)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LIF(float("nan")), "decay"),
        (lambda: LIF(torch.tensor([0.5, 1.5])), "decay"),
        (lambda: LIF(torch.ones(2, 2)), "decay"),
        (lambda: LIF(v_threshold=float("inf")), "v_threshold"),
        (lambda: LIF(1.0, learn_decay=True), "learn their decay"),
        (lambda: LI(-0.1), "decay"),
        (lambda: LIF(comparison="<"), "comparison"),
        (lambda: LIF(CHANNELS)(torch.ones(2, 2, 4)), "3 values of decay"),
        (lambda: LIF(CHANNELS)(torch.ones(2, 3)), "3 values of decay"),
        (lambda: LIF()(torch.ones(3)), "shape"),
        (lambda: LIF()(torch.ones(3, 2, 2, dtype=torch.int64)), "int64"),
        (lambda: LI().run(torch.ones(3, 2, 4), torch.ones(2, 5)), "state of shape"),
    ],
)
def test_what_cannot_be_is_refused_in_words(make: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make()
