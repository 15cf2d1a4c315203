"""The fused scan of LIF neurons against autograd through the step loop, bit by bit; learnt constants."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from rsc.errors import UsageError
from rsc.neurons import LIF, SURROGATES, lif_scan, stepwise


class Step(torch.autograd.Function):
    """A step function with a surrogate's derivative."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, comparison: str, surrogate: str) -> Tensor:
        ctx.save_for_backward(u)
        ctx.surrogate = surrogate
        return (u > 0 if comparison == ">" else u >= 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grads[0] * SURROGATES[ctx.surrogate](ctx.saved_tensors[0]), None, None


@dataclasses.dataclass(frozen=True)
class Rule:
    """What `lif_scan` takes besides the input."""

    decay: Any = 0.5
    v_threshold: Any = 1.0
    reset: str = "value"
    surrogate: str = "atan"
    detach_reset: bool = True
    comparison: str = ">"

    def loop(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The equations, written with autograd."""
        spikes = []
        for current in x:
            if isinstance(self.decay, float) and x.dtype == torch.float32:
                h = torch.add(current, v, alpha=self.decay)  # one rounding
            else:
                h = self.decay * v + current
            s: Any = Step.apply(h - self.v_threshold, self.comparison, self.surrogate)
            z = s.detach() if self.detach_reset else s
            v = h * (1 - z) if self.reset == "value" else h - z * self.v_threshold
            spikes.append(s)
        return torch.stack(spikes), v

    def fused(self, x: Tensor, v: Tensor | None, **options: Any) -> tuple[Tensor, Tensor]:
        """`lif_scan`."""
        rest = {k: getattr(self, k) for k in ("decay", "v_threshold", "reset", "detach_reset", "comparison")}
        return lif_scan(x, v, surrogate=SURROGATES[self.surrogate], **rest, **options)


def inputs(dtype: torch.dtype, *shape: int) -> tuple[Tensor, Tensor]:
    """Currents on a coarse grid, so that some membranes meet the threshold exactly; and a first membrane."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-8, 13, shape, generator=generator).to(dtype) / 8
    return x, torch.randint(-4, 5, shape[1:], generator=generator).to(dtype) / 8


def gradients(scan: Any, x: Tensor, v: Tensor) -> list[Tensor]:
    """Spikes, last membrane and gradients of x and v for fixed weights of both results."""
    x, v = x.clone().requires_grad_(), v.clone().requires_grad_()
    spikes, last = scan(x * 1, v)  # a copy, which may be overwritten
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(spikes.shape, generator=generator).to(x.dtype)
    ((spikes * weights).sum() + (last * weights[0]).sum()).backward()
    assert x.grad is not None
    assert v.grad is not None
    return [spikes.detach(), last.detach(), x.grad, v.grad]


RULES = [
    Rule(0.5, reset=reset, comparison=comparison, detach_reset=detach, surrogate=surrogate)
    for reset, comparison, detach, surrogate in itertools.product(
        ("value", "subtract"), (">", ">="), (True, False), ("atan", "fast_sigmoid", "triangle")
    )
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("inplace", [True, False])
def test_spikes_and_gradients_equal_those_of_the_loop_bit_by_bit(
    rule: Rule, dtype: torch.dtype, inplace: bool
) -> None:
    x, v = inputs(dtype, 9, 3, 37)
    expected = gradients(rule.loop, x, v)
    assert 0.05 < expected[0].mean() < 0.6
    found = gradients(lambda x, v: rule.fused(x, v, inplace=inplace), x, v)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.37, 1.0])
@pytest.mark.parametrize("surrogate", sorted(SURROGATES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_decay_and_surrogate_equals_the_loop_bit_by_bit(
    decay: float, surrogate: str, dtype: torch.dtype
) -> None:
    x, v = inputs(dtype, 9, 3, 37)
    for reset, detach in (("value", True), ("value", False), ("subtract", True)):
        rule = Rule(decay, 0.8, reset, surrogate, detach)
        for a, b in zip(gradients(rule.fused, x, v), gradients(rule.loop, x, v), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("reset", ["value", "subtract"])
def test_blocks_and_channels_last_change_no_bit(reset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, v = inputs(torch.float32, 5, 7, 4, 6, 6)
    rule = Rule(0.9, reset=reset, detach_reset=False)
    expected = gradients(rule.fused, x, v)
    monkeypatch.setattr(stepwise, "BLOCK", 2 * v[0].numel())
    monkeypatch.setattr(stepwise, "_AT_ONCE", 1)
    last = x.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, (5, 7))
    for currents in (x, last):
        for inplace in (True, False):
            found = gradients(lambda x, v, flag=inplace: rule.fused(x, v, inplace=flag), currents, v)
            for a, b in zip(found, expected, strict=True):
                assert torch.equal(a, b)
    spikes, _ = rule.fused(last, None)
    assert spikes.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(), (4,), (4, 1, 1), (3, 4, 2, 2)])
@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("reset", ["value", "subtract"])
def test_gradients_of_decay_and_threshold_are_those_of_the_loop(
    shape: tuple[int, ...], detach: bool, reset: str
) -> None:
    if shape == (4,):
        x, v = inputs(torch.float64, 9, 3, 4)
    else:
        x, v = inputs(torch.float64, 9, 3, 4, 2, 2)
    generator = torch.Generator().manual_seed(2)
    start = [0.3 + 0.5 * torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(2)]
    found = []
    for way in ("loop", "fused"):
        decay, threshold = (k.clone().requires_grad_() for k in start)
        rule = Rule(decay, threshold, reset, detach_reset=detach)
        results = gradients(getattr(rule, way), x, v)
        assert decay.grad is not None
        assert threshold.grad is not None
        assert decay.grad.abs().min() > 0
        found.append([*results, decay.grad, threshold.grad])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_gradients_of_constants_come_without_those_of_the_input() -> None:
    x, _ = inputs(torch.float64, 5, 2, 3)
    decay = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    spikes, _ = Rule(decay).fused(x, None)
    spikes.sum().backward()
    (other,) = torch.autograd.grad(Rule(decay).loop(x, torch.zeros(2, 3).double())[0].sum(), decay)
    torch.testing.assert_close(decay.grad, other)


def test_the_closed_form_of_two_steps() -> None:
    """h = (0.8, 0.8 d + 0.5): ds2/dd = 0.8 g(h2 - th), ds1/dth = -g(h1 - th), g the surrogate."""
    decay, threshold = (torch.tensor(k, dtype=torch.float64, requires_grad=True) for k in (0.5, 1.25))
    x = torch.tensor([0.8, 0.5], dtype=torch.float64).reshape(2, 1, 1)
    spikes, v = Rule(decay, threshold, surrogate="triangle").fused(x, None)
    assert spikes.sum() == 0
    assert v.item() == pytest.approx(0.9)
    found = torch.autograd.grad(spikes.sum(), (decay, threshold))
    g1, g2 = 1 - 0.45, 1 - 0.35
    assert found[0].item() == pytest.approx(0.8 * g2)
    assert found[1].item() == pytest.approx(-g1 - g2)


def test_a_tie_fires_only_on_request() -> None:
    ones = torch.ones(1, 1, 1)
    for comparison, expected in ((">", 0), (">=", 1)):
        spikes, v = lif_scan(ones, comparison=comparison)
        assert spikes.item() == expected
        assert v.item() == 1 - expected


def test_a_graph_that_is_kept_gives_the_same_gradients_again() -> None:
    x, v = inputs(torch.float32, 6, 2, 5)
    x.requires_grad_()
    spikes, _ = Rule().fused(x * 1, v, inplace=True)
    first = torch.autograd.grad(spikes.sum(), x, retain_graph=True)[0].clone()
    assert torch.equal(torch.autograd.grad(spikes.sum(), x, retain_graph=True)[0], first)
    assert torch.equal(torch.autograd.grad(spikes.sum(), x)[0], first)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(spikes.sum(), x)


def test_only_the_membrane_is_kept_for_the_backward_pass() -> None:
    kept: list[Tensor] = []
    x = inputs(torch.float32, 6, 2, 5)[0].requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        spikes, _ = Rule().fused(x, None)
    assert [t.shape for t in kept] == [x.shape]
    assert kept[0].data_ptr() not in (x.data_ptr(), spikes.data_ptr())


def test_writing_in_place_is_found_out_where_it_would_be_wrong() -> None:
    x = inputs(torch.float32, 4, 2, 3)[0].requires_grad_()
    with pytest.raises(UsageError, match="in place"):
        Rule().fused(x, None, inplace=True)
    y = x.exp()  # keeps its result
    spikes, _ = Rule().fused(y, None, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        spikes.sum().backward()


def test_in_place_spikes_take_the_memory_of_the_currents() -> None:
    x, v = inputs(torch.float32, 4, 2, 3)
    for reset in ("value", "subtract"):
        expected, last = Rule(reset=reset).fused(x, v)
        y = x.clone()
        spikes, end = Rule(reset=reset).fused(y, v, inplace=True)
        assert spikes.data_ptr() == y.data_ptr()
        assert torch.equal(spikes, expected)
        assert torch.equal(last, end)
    still = x[:1].expand(4, 2, 3)
    spikes, _ = Rule().fused(still, v, inplace=True)
    assert torch.equal(spikes, Rule().fused(still.clone(), v)[0])


def test_second_derivatives_are_refused_in_words() -> None:
    x = inputs(torch.float64, 4, 2, 3)[0].requires_grad_()
    with pytest.raises(UsageError, match="Second derivatives"):
        torch.autograd.grad(Rule().fused(x, None)[0].sum(), x, create_graph=True)


def test_no_step_changes_nothing() -> None:
    spikes, v = lif_scan(torch.zeros(0, 2, 3), torch.ones(2, 3))
    assert spikes.shape == (0, 2, 3)
    assert torch.equal(v, torch.ones(2, 3))


@pytest.mark.parametrize("bad", [{"decay": 1.5}, {"v_threshold": 0.0}, {"reset": "none"}, {"surrogate": "x"}])
def test_impossible_neurons_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        LIF(**bad)
