"""Operations of the encoders, and the closed form of what a Bernoulli encoder feeds into the first layer."""

from __future__ import annotations

import math

import numpy as np

from rsc.encoder_spec import COINS
from rsc.energy.results import EncoderCounts
from rsc.errors import UsageError
from rsc.program import EncoderSpec

NO_ENCODER = EncoderCounts("none")


def encoder_counts(spec: EncoderSpec | None, shape: tuple[int, ...]) -> EncoderCounts:
    """Operations per pass of an encoder on an image of `shape`.

    An encoder makes T frames, or one that is latched (direct, rsc1, shared coins). Gaussian noise costs one
    draw, one multiplication and one addition per element, and on a grid, where a table gives the draw in
    levels, no multiplication; a coin one draw and one comparison; clipping two comparisons; normalising one
    multiplication and one addition.
    """
    if spec is None:
        return NO_ENCODER
    elements = math.prod(shape) * (1 if spec.latched else spec.steps)
    noisy = elements if spec.stochastic else 0
    coins = noisy if spec.kind in COINS else 0
    added = noisy - coins
    scaled = elements if any(spec.mean) or any(s != 1 for s in spec.std) else 0
    return EncoderCounts(
        kind=spec.kind,
        draws=noisy,
        comparisons=coins + (2 * elements if spec.clip is not None else 0),
        multiplies=(0 if spec.grid else added) + scaled,
        adds=added + scaled,
        pixel_reads=elements,
    )


def bernoulli_encoder(p: np.ndarray, steps: int, skip_certain: bool = False) -> EncoderCounts:
    """Operations per pass of a rate encoder that spikes with probability `p` at every site and step.

    Args:
        skip_certain: draw no random number where p is 0 or 1.
    """
    p = _probabilities(p)
    draws = steps * int(np.count_nonzero((p > 0) & (p < 1)) if skip_certain else p.size)
    return EncoderCounts("bernoulli", draws=draws, comparisons=draws, pixel_reads=steps * p.size)


def expected_sop(p: np.ndarray, fan_out: np.ndarray, steps: int) -> tuple[float, float]:
    """Mean and variance of the first layer's synaptic operations under independent Bernoulli(p) events.

    E = T sum p F,  Var = T sum p (1 - p) F^2, with p and the fan-out map F in the shape of the image.
    """
    p, f = _probabilities(p), np.asarray(fan_out, dtype=np.float64)
    if p.shape != f.shape:
        raise UsageError(
            f"p has shape {p.shape}.", f"The fan-out map has {f.shape}.", "Give one probability per site."
        )
    return float(steps * (p * f).sum()), float(steps * (p * (1 - p) * f**2).sum())


def _probabilities(p: np.ndarray) -> np.ndarray:
    p = np.asarray(p, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise UsageError("p holds values outside [0, 1].", "They are probabilities.", "Scale the image.")
    return p
