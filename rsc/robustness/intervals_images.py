"""From an L_inf ball of images to boxes of payloads, under noise that is held.

Every stage of every encoder is monotone in the pixel, in float32 too (a rounded sum or quotient never
decreases where the exact one does not, and a coin falls once its limit is high enough). So the frames of all
float32 images of a ball lie between the frames of its two corners, and these are images themselves.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from rsc.coding import ENCODERS, keyed_noise
from rsc.coding.stages import apply_stages
from rsc.encoder_spec import EncoderSpec
from rsc.errors import UnsupportedNode
from rsc.layered import LayeredProgram
from rsc.results import Keys
from rsc.robustness.intervals import payload_box
from rsc.robustness.intervals_box import Box


def ball(x: np.ndarray, eps: float, bounds: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """(lowest, highest) float32 image of {x' : |x' - x| <= eps, x' in bounds}, rounded outwards.

    A point of float32 for eps = 0.
    """
    centre = np.asarray(x, np.float32)
    if eps == 0:
        return centre, centre
    wide = centre.astype(np.float64)
    low, high = _ends(wide, eps)
    least, most = (np.float32(b) for b in bounds)
    return np.clip(low, least, most), np.clip(high, least, most)


def _ends(wide: np.ndarray, eps: float) -> tuple[np.ndarray, np.ndarray]:
    low, high = (wide - eps).astype(np.float32), (wide + eps).astype(np.float32)
    low = np.where(low > wide - eps, np.nextafter(low, np.float32(-np.inf)), low)
    return low, np.where(high < wide + eps, np.nextafter(high, np.float32(np.inf)), high)


@dataclasses.dataclass(frozen=True, eq=False)
class Coded:
    """Images under one draw of noise each, as payload boxes.

    Fields:
        layered: a program with one Input node.
        encoder: of the program.
        noise: [T or 1, B, ...] as `keyed_noise` draws it, or None.
    """

    layered: LayeredProgram
    encoder: EncoderSpec
    noise: np.ndarray | None

    @classmethod
    def drawn(cls, layered: LayeredProgram, encoder: EncoderSpec, keys: Keys) -> Coded:
        """The noise that every target draws for these keys.

        Raises:
            UnsupportedNode: a program with several inputs.
        """
        if len(layered.inputs) != 1:
            raise UnsupportedNode(
                f"The program has {len(layered.inputs)} inputs.",
                "An encoder feeds one.",
                "Verify boxes of frames with rsc.robustness.intervals.",
            )
        return cls(layered, encoder, keyed_noise(encoder, keys, layered.inputs[0].shape))

    def rows(self, index: np.ndarray) -> Coded:
        """The noise of some rows; a row may repeat."""
        return dataclasses.replace(self, noise=None if self.noise is None else self.noise[:, index])

    def boxes(self, low: np.ndarray, high: np.ndarray) -> dict[str, Box]:
        """Payload boxes [T, B, ...] of images between two [B, ...]."""
        ends = [self._frames(end) for end in (low, high)]
        (source,) = self.layered.inputs
        return {source.name: payload_box(source, *ends)}

    def _frames(self, x: np.ndarray) -> np.ndarray:
        """As `rsc.coding.encode` makes them."""
        x = np.asarray(x, np.float32)
        frames = apply_stages(self.encoder, x[None], self.noise, ENCODERS[self.encoder.kind])
        return np.require(np.broadcast_to(frames, (self.encoder.steps, *x.shape)), np.float32)
