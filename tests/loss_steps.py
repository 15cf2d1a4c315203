"""Small steps and textbook formulas for the tests of losses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from rsc.encoder_spec import EncoderSpec
from rsc.networks import NetworkSpec, build
from rsc.training.step import Step

SHAPE, CLASSES = (1, 4, 4), 5
SPEC = NetworkSpec("mlp", (9, 7))


class Affine(nn.Module):
    """O_t = W z_t + b, no neurons; counts its runs."""

    def __init__(self, classes: int = CLASSES, seed: int = 0) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.weight = nn.Parameter(torch.from_numpy(rng.normal(size=(classes, 16))))
        self.bias = nn.Parameter(torch.from_numpy(rng.normal(size=classes)))
        self.runs = 0

    def forward(self, frames: Tensor) -> Tensor:
        """Outputs [T, B, K]."""
        self.runs += 1
        return frames.flatten(2) @ self.weight.T + self.bias


def network(spec: NetworkSpec = SPEC, seed: int = 0) -> nn.Module:
    """Fresh weights, large enough that neurons fire, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = build(spec, SHAPE, CLASSES).double()
    with torch.no_grad():
        for layer in made.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(3)
    return made


def step(
    of: nn.Module | None = None, sigma: float = 0.3, steps: int = 3, batch: int = 8, seed: int = 1
) -> Step:
    """Random images and labels in float64 under rsc2, or direct coding for sigma 0."""
    rng = np.random.default_rng(seed)
    encoder = EncoderSpec("rsc2", steps, sigma) if sigma else EncoderSpec("direct", steps)
    x = torch.from_numpy(rng.uniform(size=(batch, *SHAPE)))
    y = torch.from_numpy(rng.integers(0, CLASSES, batch))
    return Step(network() if of is None else of, encoder, x, y, torch.Generator().manual_seed(seed))


def replay(of: Step) -> Callable[[], Step]:
    """Makes the same step with its generator where it is now."""
    state = of.generator.get_state()

    def again() -> Step:
        generator = torch.Generator()
        generator.set_state(state)
        return Step(of.network, of.encoder, of.x, of.y, generator, of.bounds, of.seen)

    return again


def log_softmax(z: np.ndarray) -> np.ndarray:
    """Textbook form over the last axis."""
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def cross_entropy(z: np.ndarray, y: np.ndarray, smoothing: float = 0.0) -> float:
    """-sum_k q_k log p_k, q the one-hot label mixed with the uniform one; mean over rows."""
    q = np.full(z.shape, smoothing / z.shape[1])
    q[np.arange(len(y)), y] += 1 - smoothing
    return float(-(q * log_softmax(z)).sum(1).mean())


def kl(p: np.ndarray, q: np.ndarray) -> float:
    """KL(softmax(p) || softmax(q)), mean over rows."""
    a, b = log_softmax(p), log_softmax(q)
    return float((np.exp(a) * (a - b)).sum(1).mean())
