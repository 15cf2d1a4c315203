"""LIF: spikes and gradients against a plain autograd loop, and against what the equations say."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rsc.errors import UsageError
from rsc.neurons import LIF, SURROGATES, lif_scan


def loop(x: torch.Tensor, decay: float, reset: str, surrogate: str) -> torch.Tensor:
    """The equations written with autograd, reset detached."""

    class Step(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(u)
            return (u > 0).to(u.dtype)

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
            return grads[0] * SURROGATES[surrogate](ctx.saved_tensors[0])

    v, spikes = torch.zeros_like(x[0]), []
    for current in x:
        h = decay * v + current
        s = Step.apply(h - 1.0)
        assert isinstance(s, torch.Tensor)
        v = h * (1 - s.detach()) if reset == "value" else h - s.detach()
        spikes.append(s)
    return torch.stack(spikes)


@pytest.mark.parametrize("surrogate", sorted(SURROGATES))
@pytest.mark.parametrize("reset", ["value", "subtract"])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 1.0])
def test_fused_scan_equals_the_loop(surrogate: str, reset: str, decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(7, 3, 5, generator=generator, dtype=torch.float64)
    expected = loop(x, decay, reset, surrogate)
    (expected * weights).sum().backward()
    assert x.grad is not None
    grad, x.grad = x.grad, None
    spikes, _ = lif_scan(x, decay=decay, reset=reset, surrogate=SURROGATES[surrogate])
    (spikes * weights).sum().backward()
    assert torch.equal(spikes, expected)
    torch.testing.assert_close(x.grad, grad, rtol=0, atol=1e-14)


def test_a_tie_does_not_fire() -> None:
    spikes, v = lif_scan(torch.ones(1, 1, 1))
    assert spikes.item() == 0
    assert v.item() == 1


def test_state_in_state_out() -> None:
    x = torch.randn(10, 2, 4, generator=torch.Generator().manual_seed(1))
    whole, last = lif_scan(x)
    first, v = lif_scan(x[:4])
    second, end = lif_scan(x[4:], v)
    assert torch.equal(whole, torch.cat([first, second]))
    assert torch.equal(last, end)


@pytest.mark.parametrize("name", sorted(SURROGATES))
def test_surrogates_are_even_and_integrate_to_about_one(name: str) -> None:
    grid = torch.linspace(-200, 200, 400_001, dtype=torch.float64)
    values = SURROGATES[name](grid)
    torch.testing.assert_close(values, values.flip(0), rtol=0, atol=1e-6)
    area = torch.trapezoid(values, grid).item()
    assert area == pytest.approx(2.0 if name == "fast_sigmoid" else 1.0, abs=0.02)


@pytest.mark.parametrize("bad", [{"decay": 1.5}, {"v_threshold": 0.0}, {"reset": "none"}, {"surrogate": "x"}])
def test_impossible_neurons_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        LIF(**bad)
