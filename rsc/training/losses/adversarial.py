"""The inner maximisation of adversarial training, through the coder.

    z <- project(z + step * direction(mean_k grad_z L(f(code_k(z)), y)))        k = 1..eot fresh noise draws

FGSM (Goodfellow et al., arXiv 1412.6572) is one step of size eps from the image; PGD is Madry et al., arXiv
1706.06083; the mean over draws is EOT (Athalye et al., arXiv 1707.07397). Training spiking networks so,
in eval mode for the search, with fresh noise for the step: Mukhoty et al., ICLR 2024. For measuring
robustness use `rsc.robustness`, which searches harder and scores on noise the attack never saw.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Literal

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsc.errors import UsageError
from rsc.training.losses.draws import normal, uniform, uniform_per_image
from rsc.training.step import Step


class Attack(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the worst images of a training step are sought.

    Fields:
        norm: of the ball, over all axes of an image.
        eps, step: radius and step size in pixel units, a number or text such as "8/255". The defaults are
            those of Mukhoty et al., ICLR 2024 (final tables); SNN-RAT and others use eps 2/255, step 1/255.
        steps: gradient steps; `steps = 1, step = eps, start = "clean"` is FGSM.
        start: "clean" image, "uniform" in the ball (a direction and length in L2), or "normal", x + 0.001
            N(0, 1), as in TRADES.
        loss: what is maximised: "cross_entropy" with the label, or "kl" from the answer to the clean image.
        eot: noise draws per gradient; a coder without noise always takes one.
        mode: whether the network is in "eval" or "train" mode during the search (batch norm, dropout).
    """

    norm: Literal["linf", "l2"] = "linf"
    eps: float | str = "8/255"
    step: float | str = "2/255"
    steps: int = 4
    start: Literal["clean", "uniform", "normal"] = "uniform"
    loss: Literal["cross_entropy", "kl"] = "cross_entropy"
    eot: int = 1
    mode: Literal["eval", "train"] = "eval"

    def __post_init__(self) -> None:
        pixels(self.eps)
        pixels(self.step)
        for name in ("steps", "eot"):
            if getattr(self, name) < 1:
                raise UsageError(
                    f"attack.{name} is {getattr(self, name)}.", "At least one is needed.", "Correct it."
                )
        if self.loss == "kl" and self.start == "clean":
            raise UsageError(
                "The attack maximises a KL divergence from its own starting point.",
                "Its gradient is zero there.",
                "Use start = 'normal' or 'uniform'.",
            )

    @classmethod
    def fgsm(cls, eps: float | str = "8/255", eot: int = 1) -> Attack:
        """One full step from the image."""
        return cls(eps=eps, step=eps, steps=1, start="clean", eot=eot)


def pixels(size: float | str) -> float:
    """A size in pixel units of 0.03 or "8/255".

    Raises:
        UsageError: not a finite number >= 0.
    """
    try:
        value = float(Fraction(size)) if isinstance(size, str) else float(size)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(
            f"{size!r} is no size of a perturbation.",
            "It is finite and not negative.",
            "Write 8/255 or 0.03.",
        )
    return value


def maximise(step: Step, attack: Attack) -> Tensor:
    """Images [B, ...] in the ball around those of the step and in bounds, with a raised loss; no graph."""
    eps, size = pixels(attack.eps), pixels(attack.step)
    with in_mode(step.network, attack.mode):
        loss = _loss(step, attack)
        z = _start(step, attack, eps)
        for _ in range(attack.steps):
            moved = z + size * _direction(_gradient(step, z, loss, _draws(step, attack)), attack.norm)
            z = _project(moved, step, attack.norm, eps)
    return z


@contextlib.contextmanager
def in_mode(network: nn.Module, mode: Literal["eval", "train"]) -> Iterator[None]:
    """The network in eval or train mode inside the block; every module gets its own mode back."""
    modes = [(module, module.training) for module in network.modules()]
    network.train(mode == "train")
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _draws(step: Step, attack: Attack) -> int:
    return attack.eot if step.encoder is not None and step.encoder.stochastic else 1


def _loss(step: Step, attack: Attack) -> Callable[[Tensor], Tensor]:
    """Logits [B, K] -> what is maximised, summed over the batch."""
    if attack.loss == "cross_entropy":
        return lambda logits: F.cross_entropy(logits, step.y, reduction="sum")
    with torch.no_grad():
        runs = [step.outputs().mean(0) for _ in range(_draws(step, attack))]
        answer = F.log_softmax(torch.stack(runs).mean(0), 1)
    return lambda logits: F.kl_div(F.log_softmax(logits, 1), answer, reduction="sum", log_target=True)


def _gradient(step: Step, z: Tensor, loss: Callable[[Tensor], Tensor], draws: int) -> Tensor:
    """Gradient of the loss with respect to the images, averaged over noise, one draw in memory at a time."""
    total = torch.zeros_like(z)
    for _ in range(draws):
        image = z.detach().requires_grad_(True)
        with torch.enable_grad():
            value = loss(step.outputs(image).mean(0))
        total += torch.autograd.grad(value, image)[0]
    return total / draws


def _start(step: Step, attack: Attack, eps: float) -> Tensor:
    x = step.x.detach()
    if attack.start == "clean":
        return x
    if attack.start == "normal":
        delta = 1e-3 * normal(step)
    elif attack.norm == "linf":
        delta = (2 * uniform(step) - 1) * eps
    else:
        delta = eps * uniform_per_image(step) * _direction(normal(step), "l2")
    return _project(x + delta, step, attack.norm, eps)


def _direction(grad: Tensor, norm: str) -> Tensor:
    """Steepest direction of unit norm; zero where the gradient is."""
    return grad.sign() if norm == "linf" else grad / _length(grad).clamp_min(1e-12)


def _project(z: Tensor, step: Step, norm: str, eps: float) -> Tensor:
    """Into the ball, then into the bounds, which only brings it closer to x."""
    x = step.x.detach()
    delta = z - x
    if norm == "linf":
        delta = delta.clamp(-eps, eps)
    else:
        delta = delta * (eps / _length(delta).clamp_min(1e-12)).clamp_max(1)
    return (x + delta).clamp(*step.bounds)


def _length(delta: Tensor) -> Tensor:
    """L2 norm of every image, [B, 1, ...]."""
    return torch.linalg.vector_norm(delta.flatten(1), dim=1).reshape(-1, *[1] * (delta.ndim - 1))
