"""Expectation over transformation: losses and gradients averaged over the encoder's noise.

Composition, not a flag: `Eot(model, draws=8)` is what an attack is given; a bare model means one draw.
Draws are accumulated one after the other (Athalye et al. 2018), small batches of images with several draws at
a time, so memory is that of one run of `rows` images.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from rsc.coding import draw_noise, recorded_noise
from rsc.errors import UsageError
from rsc.results import Keys
from rsc.robustness.losses import Loss, cross_entropy
from rsc.robustness.model import StochasticModel, logits
from rsc.robustness.surrogates import Memory

Mode = Literal["fresh", "common", "frozen"]
KEPT_BYTES = 1 << 26  # of common noise; more is drawn anew each time
Draws = Callable[[], Iterator[Tensor | None]]


@dataclasses.dataclass(frozen=True, eq=False)
class Eot:
    """A model seen through the mean over noise draws.

    Fields:
        model: the network and its encoder.
        draws: E, noise draws per gradient; a deterministic encoder always uses one.
        mode: "fresh" noise at every gradient; "common", the same E draws for all steps of a restart;
            "frozen", the attacker knows the noise: draws 0..E-1 of `keys`.
        rows: draws are stacked into one batch up to so many rows: small batches cost mostly calls.
        average: "loss", mean_k L(f(z_k), y); "probability", -log mean_k softmax(f(z_k))_y,
            the target of an attack on a vote (cross-entropy only).
        keys: noise keys of all images, for "frozen".
    """

    model: StochasticModel
    draws: int = 1
    mode: Mode = "fresh"
    average: Literal["loss", "probability"] = "loss"
    keys: Keys | None = None
    rows: int = 512

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise UsageError(f"EOT draws is {self.draws}.", "At least one is needed.", "Use 1 or more.")
        if (self.mode == "frozen") != (self.keys is not None):
            raise UsageError(
                "EOT keys and mode do not fit.", "Only known noise has keys.", "Give both or none."
            )

    @property
    def effective_draws(self) -> int:
        """Draws that differ."""
        return self.draws if self.model.encoder.stochastic else 1

    def noise(
        self, like: Tensor, generator: torch.Generator, index: slice, mode: Mode | None = None
    ) -> Draws:
        """A source of noise for images `like`, which are the rows `index` of the whole batch."""
        mode = mode or self.mode
        if mode == "frozen":
            return lambda: self._known(like, index)
        if mode == "fresh":
            return lambda: self._drawn(like, generator)
        state = generator.get_state()
        size = self.effective_draws * self.model.encoder.steps * like.numel() * like.element_size()
        if size <= KEPT_BYTES:
            kept = list(self._drawn(like, generator))
            return lambda: iter(kept)
        for _ in self._drawn(like, generator):  # leave the generator behind the noise that is replayed
            pass
        return lambda: self._drawn(like, torch.Generator(generator.device).set_state(state))

    def _drawn(self, like: Tensor, generator: torch.Generator) -> Iterator[Tensor | None]:
        for _ in range(self.effective_draws):
            yield draw_noise(self.model.encoder, like, generator)

    def _known(self, like: Tensor, index: slice) -> Iterator[Tensor | None]:
        spec, keys = self.model.encoder, self.keys
        for k in range(self.effective_draws):
            if keys is None:
                yield None
            else:
                yield recorded_noise(spec, keys.replace(samples=keys.samples[index], draw=k), like)

    def loss(self, x: Tensor, y: Tensor, draws: Draws, loss: Loss = cross_entropy) -> Tensor:
        """Averaged loss [B], no gradient."""
        with torch.no_grad():
            parts = [
                _each(logits(self.model, many(x, n), noise), y, n, loss)
                for n, noise in self._stacked(x, draws)
            ]
            values = torch.cat(parts)
        if self.average == "loss":
            return values.mean(0)
        self._only_cross_entropy(loss)
        return -(torch.logsumexp(-values, 0) - math.log(len(values)))

    def mean_logits(self, x: Tensor, draws: Draws) -> Tensor:
        """Logits [B, K] averaged over the draws, no gradient."""
        with torch.no_grad():
            parts = [logits(self.model, many(x, n), noise) for n, noise in self._stacked(x, draws)]
            return torch.cat([part.unflatten(0, (-1, len(x))) for part in parts]).mean(0)

    def _stacked(self, x: Tensor, draws: Draws) -> Iterator[tuple[int, Tensor | None]]:
        """The noise of several draws at a time, [T, draws * B, ...], and how many draws it is."""
        size = 1 if self.memory is not None else max(1, self.rows // max(1, len(x)))
        source = draws()
        while part := list(itertools.islice(source, size)):
            known = [noise for noise in part if noise is not None]
            yield len(part), torch.cat(known, 1) if known else None

    @property
    def memory(self) -> Memory | None:
        """What the attacker's gradient rule remembers, if it has one."""
        return getattr(self.model, "memory", None)

    def gradient(
        self, x: Tensor, y: Tensor, draws: Draws, loss: Loss = cross_entropy
    ) -> tuple[Tensor, Tensor]:
        """Averaged loss [B] and its gradient [B, ...] with respect to the images.

        Raises:
            UsageError: the model is not differentiable.
        """
        if not getattr(self.model, "differentiable", True):
            raise UsageError(
                "This model has no gradients.",
                "It runs on a target that only returns numbers.",
                "Attack its float twin and replay the images, or use Square or SPSA.",
            )
        if self.memory is not None:
            self.memory.next_gradient()
        if self.average == "probability":
            self._only_cross_entropy(loss)
            return self._vote_gradient(x, y, draws)
        total, slope, count = x.new_zeros(len(x)), torch.zeros_like(x), 0
        for n, noise in self._stacked(x, draws):
            value, grad = self._one(x, y, noise, loss, n)
            total, slope, count = total + value, slope + grad, count + n
        return total / count, slope / count

    def _vote_gradient(self, x: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Gradient of -log mean_k p_k: the draws' gradients weighted by p_k, in a stable running sum."""
        top = x.new_full((len(x),), -torch.inf)
        mass, slope, count = x.new_zeros(len(x)), torch.zeros_like(x), 0
        for noise in draws():
            value, grad = self._one(x, y, noise, cross_entropy)
            new_top = torch.maximum(top, -value)
            old, new = torch.exp(top - new_top), torch.exp(-value - new_top)
            mass, slope = mass * old + new, slope * _rows(old, x) + grad * _rows(new, x)
            top, count = new_top, count + 1
        return -(top + torch.log(mass / count)), slope / _rows(mass, x)

    def _one(
        self, x: Tensor, y: Tensor, noise: Tensor | None, loss: Loss, n: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Sums over `n` stacked draws of the loss [B] and of its gradient."""
        image = x.detach().requires_grad_(True)
        with torch.enable_grad():
            whole = getattr(self.model, "sensitive_logits", None)
            z = whole(image, noise, n) if whole else logits(self.model, many(image, n), noise)
            value = _each(z, y, n, loss).sum(0)
        (grad,) = torch.autograd.grad(value.sum(), image, allow_unused=True, materialize_grads=True)
        return value.detach().to(x.dtype), grad

    def _only_cross_entropy(self, loss: Loss) -> None:
        if loss is not cross_entropy:
            raise UsageError(
                "Averaging probabilities needs the cross-entropy.",
                "Other losses are no function of a mean probability.",
                "Use average='loss' or a cross-entropy attack.",
            )


def as_eot(model: StochasticModel | Eot) -> Eot:
    """The model itself if it is averaged already, else with one draw."""
    return model if isinstance(model, Eot) else Eot(model)


def many(values: Tensor, n: int) -> Tensor:
    """n copies one after the other, [n * B, ...]."""
    return values.repeat(n, *[1] * (values.ndim - 1)) if n > 1 else values


def _each(z: Tensor, y: Tensor, n: int, loss: Loss) -> Tensor:
    """Losses [n, B] of logits [n * B, K]."""
    return torch.stack([loss(part, y) for part in z.unflatten(0, (n, -1))])


def _rows(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))
