"""Small networks for the robustness tests: analytic ones, a trained spiking one, and broken controls."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rsc.program import EncoderSpec
from rsc.robustness.model import ModuleModel, from_module, logits, stream_generator

torch.set_num_threads(1)


class Spike(torch.autograd.Function):
    """Heaviside forward, scaled arctan slope backward; a scale of 0 gives no gradient at all."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, sharpness: float) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(u)
        ctx.sharpness = sharpness
        return (u > 0).to(u)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (u,) = ctx.saved_tensors
        a = ctx.sharpness
        return grad * (a / 2) / (1 + (torch.pi * a * u / 2) ** 2), None


class Lif(nn.Module):
    """v <- v/2 + i, fires above 1, hard reset; state starts at zero in every call."""

    def __init__(self, surrogate: float = 2.0) -> None:
        super().__init__()
        self.surrogate = surrogate

    def forward(self, current: Tensor) -> Tensor:
        v, spikes = torch.zeros_like(current[0]), []
        for i in current:
            v = v / 2 + i
            spikes.append(Spike.apply(v - 1, self.surrogate))
            v = v * (1 - spikes[-1].detach())
        return torch.stack(spikes)


class Network(nn.Module):
    """Two spiking layers over frames [T, B, 64] -> [T, B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 96), Lif(), nn.Linear(96, 64), Lif(), nn.Linear(64, 10))

    def forward(self, frames: Tensor) -> Tensor:
        return self.layers(frames)


@lru_cache(maxsize=1)
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Train and test images [N, 64] in [0, 1] and labels, a fixed split."""
    from sklearn.datasets import load_digits

    images, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    order = np.random.default_rng(0).permutation(len(labels))
    x = torch.tensor(images[order] / 16, dtype=torch.float32)
    y = torch.tensor(labels[order])
    return x[:1297], y[:1297], x[1297:], y[1297:]


@lru_cache(maxsize=4)
def trained(sigma: float = 0.25, steps: int = 4, epochs: int = 10) -> ModuleModel:
    """A spiking network trained on noisy digits (some seconds on one core)."""
    x, y, _, _ = digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = Network()
    encoder = EncoderSpec("rsc2", steps, sigma) if sigma else EncoderSpec("direct", steps)
    generator = stream_generator(0, "train")
    model = ModuleModel(network, encoder, (0.0, 1.0), name="toy")
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(64):
            noise = torch.randn((steps, len(rows), 64), generator=generator) if sigma else None
            loss = nn.functional.cross_entropy(logits(model, x[rows], noise), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    network.eval().requires_grad_(False)
    return from_module(network, encoder, (0.0, 1.0), name="toy")


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """Two classes by the sign of w . mean_t z_t + b: everything about it has a closed form."""

    weight: Tensor
    bias: float
    encoder: EncoderSpec
    bounds: tuple[float, float] = (-100.0, 100.0)

    def core(self, frames: Tensor) -> Tensor:
        """Logits [B, 2]."""
        score = frames.mean(0) @ self.weight.to(frames) + self.bias
        return torch.stack([score, -score], 1)
