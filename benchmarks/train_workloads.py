"""The two workloads of `train.py`: layers with their weights, images, labels, and the noise of every step.

    h_t = v_{t-1}/2 + x_t,   s_t = [h_t >= 1],   v_t = 0 where s_t else h_t,   ds/dh = 1 / (1 + |h - 1|)^2

Logits are the mean over T of a linear layer. Imports numpy and torch alone, as it runs in any environment.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

# A layer: its kind (a 3 x 3 "conv" with padding 1, "lif", 2 x 2 average "pool", "flatten", "linear"), weight.
Layer = tuple[str, Tensor | None]


@dataclasses.dataclass(frozen=True)
class Workload:
    """Sizes, and what a right implementation gives.

    Fields:
        shape: of one image; steps, batch: T, B.
        warm: steps before the timed ones.
        logits: sum of all logits of the first inference step, by (comparison, whether in channels_last).
        loss: of the first training step.
    """

    name: str
    shape: tuple[int, ...]
    steps: int
    warm: int
    logits: dict[tuple[str, bool], float]
    loss: float
    batch: int = 32

    def layers(self) -> list[Layer]:
        """Layers in order, weights from RandomState(0)."""
        rng = np.random.RandomState(0)

        def draw(gain: float, fan_in: int, *size: int) -> Tensor:
            return torch.from_numpy((rng.randn(*size) * gain / np.sqrt(fan_in)).astype(np.float32))

        def conv(n: int, m: int, gain: float) -> list[Layer]:
            return [("conv", draw(gain, 9 * n, m, n, 3, 3)), ("lif", None)]

        if self.name == "mlp":
            first = draw(1, 784, 512, 784)
            return [("linear", first), ("lif", None), ("linear", draw(1, 512, 10, 512))]
        block = [*conv(3, 64, 0.75), *conv(64, 64, 2.6), ("pool", None)]
        block += [*conv(64, 128, 2.6), *conv(128, 128, 2.7), ("pool", None), ("flatten", None)]
        return [*block, ("linear", draw(1, 8192, 10, 8192))]

    def data(self) -> tuple[Tensor, Tensor]:
        """Images [B, ...] and labels [B]."""
        generator = torch.Generator().manual_seed(1)
        images = torch.rand(self.batch, *self.shape, generator=generator)
        return images, torch.randint(0, 10, (self.batch,), generator=generator)

    def frames(self, images: Tensor) -> Tensor:
        """Images under fresh noise of torch's global generator, [T, B, ...]."""
        return images + 0.25 * torch.randn((self.steps, *images.shape))


_CONV = {(">=", False): -1.34021, (">", False): -1.37148, (">=", True): -1.34147, (">", True): -1.37274}
_MLP = dict.fromkeys(_CONV, 17.11790)
WORKLOADS = {
    "conv": Workload("conv", (3, 32, 32), 8, 1, _CONV, 2.34025),
    "mlp": Workload("mlp", (784,), 16, 6, _MLP, 2.31365),
}
