"""Constants of neurons: fixed, per channel, or learnt within their bounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rsc.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Where a constant lies, and how a free real number is mapped into its inside.

    Fields:
        text: for messages.
        holds: per element, whether a fixed value is legal.
        inside: per element, whether a value is a legal start for learning.
        bound, free: real number -> constant, and back.
    """

    text: str
    holds: Callable[[Tensor], Tensor]
    inside: Callable[[Tensor], Tensor]
    bound: Callable[[Tensor], Tensor]
    free: Callable[[Tensor], Tensor]


def _sigmoid(raw: Tensor) -> Tensor:
    eps = torch.finfo(raw.dtype).eps  # rounding must not reach 0 or 1
    return raw.sigmoid().clamp(eps, 1 - eps)


_DECAY = Bounds("[0, 1]", lambda k: (k >= 0) & (k <= 1), lambda k: (k > 0) & (k < 1), _sigmoid, torch.logit)
_THRESHOLD = Bounds("(0, inf)", lambda k: (k > 0) & k.isfinite(), lambda k: k > 0, torch.exp, torch.log)
BOUNDS: dict[str, Bounds] = {"decay": _DECAY, "v_threshold": _THRESHOLD}


class Constant(nn.Module):
    """A number for all neurons, or one per channel (the axis behind the batch); learnable if `learn`.

    `name` is one of `BOUNDS`, which are its bounds.

    A learnt one is kept as the parameter `raw`, whose image under `Bounds.bound` is the constant: the
    sigmoid for decays (Fang et al., arXiv 2007.05785), exp for thresholds.

    Raises:
        UsageError: out of bounds, not finite, or neither a number nor one axis of them.
    """

    values: Tensor

    def __init__(self, name: str, value: float | Tensor, learn: bool) -> None:
        super().__init__()
        bounds = BOUNDS[name]
        given = torch.as_tensor(value, dtype=torch.float64).detach()
        if given.ndim > 1 or not given.numel() or not bounds.holds(given).all():
            raise UsageError(
                f"Neurons with {name} {value}.",
                f"It is a number or one per channel [C], in {bounds.text}.",
                "Correct it.",
            )
        if learn and not bounds.inside(given).all():
            raise UsageError(
                f"Neurons that learn their {name} from {value}.",
                f"A learnt one lies strictly inside {bounds.text}.",
                "Start inside, or do not learn it.",
            )
        self.name, self.channels = name, len(given) if given.ndim else None
        self.number = float(given) if given.ndim == 0 and not learn else None
        if learn:
            self.raw = nn.Parameter(bounds.free(given).to(torch.get_default_dtype()))
        elif self.channels is not None:
            self.register_buffer("values", given.to(torch.get_default_dtype()))

    @property
    def learnt(self) -> bool:
        """Whether it is a parameter."""
        return hasattr(self, "raw")

    def read(self) -> float | Tensor:
        """Its present value: a float, or a tensor [C] without gradient."""
        found = self._value()
        if not isinstance(found, Tensor):
            return found
        return found.detach().clone() if found.ndim else found.item()

    def over(self, x: Tensor) -> float | Tensor:
        """Its value, with gradient, of a shape that broadcasts to one step of x [T, B, C, ...].

        Raises:
            UsageError: it is per channel, and x has other channels.
        """
        found = self._value()
        if self.channels is None or not isinstance(found, Tensor):
            return found
        if x.ndim < 3 or self.channels not in (1, x.shape[2]):
            raise UsageError(
                f"Neurons with {self.channels} values of {self.name} got an input of shape {tuple(x.shape)}.",
                "Channels are the axis behind time and batch, [T, B, C, ...].",
                "Give one value per channel.",
            )
        return found.reshape(-1, *[1] * (x.ndim - 3))

    def _value(self) -> float | Tensor:
        if self.number is not None:
            return self.number
        return BOUNDS[self.name].bound(self.raw) if self.learnt else self.values

    def extra_repr(self) -> str:
        shape = "" if self.channels is None else f" [{self.channels}]"
        return f"{self.name}{shape} learnt" if self.learnt else f"{self.name}{shape or f'={self.number}'}"
