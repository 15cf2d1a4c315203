"""The set an attack may search: a norm ball around each image, inside the legal bounds."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import torch
from torch import Tensor

from rsc.errors import UsageError
from rsc.robustness.results import Norm

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")


def parse_eps(text: str | float) -> tuple[float, str]:
    """Radius and the text that reports show, of "8/255", "0.1" or a number.

    Raises:
        UsageError: not a number >= 0.
    """
    try:
        value = float(Fraction(text)) if isinstance(text, str) else float(text)
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(
            f"eps '{text}' is not a number.", str(error), "Write it as 8/255 or 0.03."
        ) from error
    if not 0 <= value < float("inf"):
        raise UsageError(f"eps is {text}.", "A radius is finite and not negative.", "Use eps >= 0.")
    return value, str(text) if isinstance(text, str) else f"{value:g}"


@dataclasses.dataclass(frozen=True, eq=False)
class Ball:
    """{z : ||z - x|| <= eps, low <= z <= high} for every image of a batch.

    Fields:
        x: centres [B, ...], inside the bounds.
        eps: radii [B].
        norm: which norm, over all axes of an image; "l0" counts the values that differ.
        bounds: legal values.
    """

    x: Tensor
    eps: Tensor
    norm: Norm
    bounds: tuple[float, float]

    @property
    def radius(self) -> Tensor:
        """eps shaped [B, 1, ...] like the images."""
        return self.eps.reshape(-1, *[1] * (self.x.ndim - 1))

    def project(self, z: Tensor) -> Tensor:
        """A point of the ball; the nearest one in L_inf, L1 and L0 and, away from the bounds, in L2.

        Clipping to the bounds moves every coordinate towards x, so it never leaves the ball again.
        """
        delta = z - self.x
        if self.norm == "linf":
            delta = torch.maximum(torch.minimum(delta, self.radius), -self.radius)
        elif self.norm == "l2":
            delta = delta * (self.radius / self.size(delta).clamp_min(1e-12)).clamp_max(1)
        elif self.norm == "l1":
            low, high = self.bounds
            room = torch.where(delta > 0, high - self.x, self.x - low)
            delta = onto_l1(delta, self.eps, room)
        else:
            delta = delta * self._largest(delta.abs())
        return (self.x + delta).clamp(*self.bounds)

    def size(self, delta: Tensor) -> Tensor:
        """Norm of each perturbation, [B, 1, ...]."""
        return norm_of(delta, self.norm).reshape(-1, *[1] * (delta.ndim - 1))

    def steepest(self, grad: Tensor, z: Tensor, share: float | Tensor = 0.01) -> Tensor:
        """Direction of unit norm that raises the loss most to first order.

        L_inf: sign. L2: grad / ||grad||. L1: the `share` largest slopes that bounds leave free,
        equally (after Tramer and Boneh 2019); one share, or [B]. A zero gradient gives a zero direction.
        """
        if self.norm == "linf":
            return grad.sign()
        if self.norm == "l2":
            return grad / self.size(grad).clamp_min(1e-12)
        low, high = self.bounds
        stuck = ((grad > 0) & (z >= high)) | ((grad < 0) & (z <= low))
        slope = grad.abs().masked_fill(stuck, 0).flatten(1)
        count = (torch.as_tensor(share, device=grad.device) * slope.shape[1]).round().clamp_min(1)
        kept = (ranks(slope) < count.reshape(-1, 1)) & (slope > 0)
        step = kept / kept.sum(1, keepdim=True).clamp_min(1)
        return step.reshape_as(grad) * grad.sign()

    def random(self, generator: torch.Generator) -> Tensor:
        """A random point: uniform in L_inf; uniform direction and radius in L2 and L1."""
        if self.norm == "linf":
            return (self.x + (self._uniform(generator) * 2 - 1) * self.radius).clamp(*self.bounds)
        if self.norm == "l0":
            return self.surface(generator)
        scale = torch.rand(len(self.x), generator=generator, device=self.x.device, dtype=self.x.dtype)
        return self._towards(generator, scale.reshape_as(self.radius))

    def surface(self, generator: torch.Generator) -> Tensor:
        """A random point of full size (before clipping).

        A corner in L_inf, a direction in L2 and L1, random values at a bound in L0.
        """
        if self.norm == "linf":
            return (self.x + (self._uniform(generator) - 0.5).sign() * self.radius).clamp(*self.bounds)
        if self.norm == "l0":
            low, high = self.bounds
            ends = low + (high - low) * (self._uniform(generator) < 0.5)
            return torch.where(self._largest(self._uniform(generator)), ends, self.x)
        return self._towards(generator, torch.ones_like(self.radius))

    def _largest(self, size: Tensor) -> Tensor:
        """Bool, the eps largest values of each image."""
        return (ranks(size.flatten(1)) < self.eps[:, None]).reshape_as(size)

    def _towards(self, generator: torch.Generator, scale: Tensor) -> Tensor:
        draw = torch.randn(self.x.shape, generator=generator, device=self.x.device, dtype=self.x.dtype)
        return (self.x + draw / self.size(draw).clamp_min(1e-12) * self.radius * scale).clamp(*self.bounds)

    def _uniform(self, generator: torch.Generator) -> Tensor:
        return torch.rand(self.x.shape, generator=generator, device=self.x.device, dtype=self.x.dtype)

    def seal(self, z: Tensor, levels: int = 0) -> Tensor:
        """`z` inside the ball to the last bit, and on the input grid if there is one.

        Projected in double precision, then every coordinate is rounded towards x.

        Args:
            z: points [B, ...].
            levels: L, where legal inputs are low + k (high - low) / L; 0 for no grid.

        Raises:
            UsageError: `x` is not on the grid.
        """
        wide = Ball(self.x.double(), self.eps.double(), self.norm, self.bounds)
        exact = wide.project(z.double())
        if levels:
            exact = _on_grid(exact, wide.x, levels, self.bounds)
        rounded = exact.to(self.x.dtype)
        outside = (rounded.double() - wide.x).abs() > (exact - wide.x).abs()
        return torch.where(outside & (not levels), torch.nextafter(rounded, self.x), rounded)


def norm_of(delta: Tensor, norm: Norm) -> Tensor:
    """Norm of each row, [B]."""
    order = {"linf": float("inf"), "l2": 2.0, "l1": 1.0, "l0": 0.0}[norm]
    return torch.linalg.vector_norm(delta.flatten(1), order, dim=1)


def onto_l1(delta: Tensor, eps: Tensor, room: Tensor) -> Tensor:
    """Nearest point to delta [B, ...] with L1 norm <= eps [B] and, per value, |point| <= room.

    It is sign(delta) clip(|delta| - m, 0, room), the least m >= 0 that fits; the sum is piecewise linear in m
    and known at its corners |delta| and |delta| - room (Croce and Hein 2021, proposition 2.1).
    """
    size, most = delta.flatten(1).abs(), room.flatten(1)
    corners = torch.cat([size, (size - most).clamp_min(0), size.new_zeros(len(size), 1)], 1)
    turns = torch.cat([torch.ones_like(size), -torch.ones_like(size), size.new_zeros(len(size), 1)], 1)
    corners, order = corners.sort(dim=1, descending=True, stable=True)
    moving = turns.gather(1, order).cumsum(1)[:, :-1]  # values that grow while m falls to the next corner
    total = (moving * (corners[:, :-1] - corners[:, 1:])).cumsum(1)
    over = total >= eps[:, None]
    at = over.to(torch.uint8).argmax(1, keepdim=True)
    excess = total.gather(1, at) - eps[:, None]
    exact = corners.gather(1, at + 1) + excess / moving.gather(1, at).clamp_min(1)
    m = torch.where(over.any(1, keepdim=True), exact, 0.0)
    return (delta.flatten(1).sign() * torch.minimum((size - m).clamp_min(0), most)).reshape_as(delta)


def ranks(values: Tensor) -> Tensor:
    """Place of each value of a row [B, D] among them, 0 for the largest; ties by index."""
    order = values.argsort(dim=1, descending=True, stable=True)
    place = torch.arange(values.shape[1], device=values.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, place)


def _on_grid(z: Tensor, x: Tensor, levels: int, bounds: tuple[float, float]) -> Tensor:
    low, high = bounds
    unit = (high - low) / levels
    home = ((x - low) / unit).round()
    if ((x - low) / unit - home).abs().max() > 1e-3:
        raise off_grid(levels)
    moved = (z - x) / unit
    # whole levels towards x; 1e-3 of a level forgives the rounding of x and eps themselves
    return low + (home + moved.sign() * (moved.abs() + 1e-3).floor()) * unit


def off_grid(levels: int) -> UsageError:
    """The error that images are not on their grid."""
    return UsageError(
        f"The images are not on a grid of {levels} levels.",
        "Rounding would then move them by itself.",
        "Give the true number of levels (255 for 8-bit images, 16 for digits), or 0.",
    )
