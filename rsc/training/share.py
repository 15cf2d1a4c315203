"""A step of which this process computes a part: the noise of the whole batch, cut to its rows."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from rsc.coding import draw_noise, encode_torch
from rsc.training.step import Step


@dataclasses.dataclass(frozen=True, eq=False)
class Share(Step):
    """Some rows of a batch, seeing the noise that they would see if the batch were computed as a whole.

    Each part draws the noise of all, so that neither the number of ranks nor of passes changes a frame.

    Fields:
        first: where the rows begin in the batch.
        total: rows of the batch.
    """

    first: int = 0
    total: int = 0

    def frames(self, x: Tensor | None = None) -> Tensor:
        """Frames [T, B, ...] of images (the part's own if None), or of several such parts in a row."""
        x = self.x if x is None else x
        rows = len(self.y)
        if self.encoder is None or self.total == rows or len(x) % rows:
            return super().frames(x)
        copies = len(x) // rows
        whole = draw_noise(self.encoder, x.new_empty((copies * self.total, *x.shape[1:])), self.generator)
        if whole is None:
            return encode_torch(self.encoder, x, None)
        starts = [copy * self.total + self.first for copy in range(copies)]
        noise = torch.cat([whole[:, start : start + rows] for start in starts], 1)
        return encode_torch(self.encoder, x, noise)
