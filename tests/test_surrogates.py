"""Surrogates: area, symmetry and peak by quadrature, and the derivative of the function they come from."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from rsc.errors import UsageError
from rsc.neurons import SURROGATES, surrogate_of

# name -> parameter and its default; as functions of it: area, value at 0; and the function differentiated.
Row = tuple[str, float, Callable[[float], float], Callable[[float], float], Callable[[Tensor, float], Tensor]]
ROWS: dict[str, Row] = {
    "atan": (
        "alpha",
        2.0,
        lambda a: 1,
        lambda a: a / 2,
        lambda x, a: torch.atan(math.pi / 2 * a * x) / math.pi,
    ),
    "triangle": (
        "gamma",
        1.0,
        lambda g: 1,
        lambda g: 1 / g,
        lambda x, g: (x.clamp(-g, g) * g - x.clamp(-g, g) * x.clamp(-g, g).abs() / 2) / g**2,
    ),
    "rectangle": ("width", 1.0, lambda w: 1, lambda w: 1 / w, lambda x, w: (x / w).clamp(-0.5, 0.5)),
    "sigmoid": ("alpha", 4.0, lambda a: 1, lambda a: a / 4, lambda x, a: torch.sigmoid(a * x)),
    "fast_sigmoid": ("slope", 1.0, lambda k: 2 / k, lambda k: 1, lambda x, k: x / (1 + k * x.abs())),
    "gaussian": (
        "sigma",
        0.5,
        lambda s: 1,
        lambda s: 1 / (s * math.sqrt(2 * math.pi)),
        lambda x, s: torch.special.ndtr(x / s),
    ),
}
CASES = [(name, scale) for name in ROWS for scale in (1.0, 0.5, 3.0)]


def test_every_surrogate_is_tested() -> None:
    assert set(ROWS) == set(SURROGATES)


@pytest.mark.parametrize(("name", "scale"), CASES)
def test_area_symmetry_and_peak_are_those_documented(name: str, scale: float) -> None:
    parameter, default, area, peak, _ = ROWS[name]
    value = default * scale
    surrogate = SURROGATES[name] if scale == 1 else surrogate_of(name, **{parameter: value})

    def at(x: float) -> float:
        return surrogate(torch.tensor([x], dtype=torch.float64)).item()

    edge = {"triangle": value, "rectangle": value / 2}.get(name)
    half = quad(at, 0, edge or np.inf, limit=200)[0]
    assert 2 * half == pytest.approx(area(value), rel=1e-6)
    grid = torch.linspace(-3, 3, 1000, dtype=torch.float64)
    assert torch.equal(surrogate(grid), surrogate(-grid))
    assert at(0.0) == pytest.approx(peak(value), rel=1e-14)
    assert (surrogate(grid) <= at(0.0)).all()


@pytest.mark.parametrize(("name", "scale"), CASES)
def test_it_is_the_derivative_of_its_smooth_function(name: str, scale: float) -> None:
    parameter, default, _, _, smooth = ROWS[name]
    value = default * scale
    x = torch.linspace(-2.9, 2.9, 1000, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(smooth(x, value).sum(), x)
    found = surrogate_of(name, **{parameter: value})(x.detach())
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", sorted(SURROGATES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_argument_is_left_alone_and_its_type_kept(name: str, dtype: torch.dtype) -> None:
    x = torch.tensor([-1e30, -1.0, 0.0, 0.3, 1e30], dtype=dtype)
    before = x.clone()
    values = SURROGATES[name](x)
    assert torch.equal(x, before)
    assert values.dtype == dtype
    assert values.isfinite().all()


def test_a_surrogate_of_ones_own_passes_through() -> None:
    assert surrogate_of(torch.cos) is torch.cos


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("arctan", {}, "no surrogate 'arctan'"),
        ("atan", {"slope": 2.0}, "slope = 2"),
        ("atan", {"alpha": 0.0}, "alpha = 0"),
        ("gaussian", {"sigma": float("nan")}, "sigma = nan"),
    ],
)
def test_impossible_surrogates_are_refused(name: str, parameters: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        surrogate_of(name, **parameters)
