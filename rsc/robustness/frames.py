"""Attacks on the spikes between encoder and network: the attacker sees and changes one run's frames.

An "image" is then a whole tensor of frames [T, ...], and its noise is known by the nature of the threat. All
attacks of images run on it unchanged.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsc.coding import encode
from rsc.encoder_spec import COINS
from rsc.errors import UsageError
from rsc.program import EncoderSpec
from rsc.results import Keys
from rsc.robustness.attacks import Attack, Sea
from rsc.robustness.evaluate import Runs, Scoring, craft
from rsc.robustness.model import StochasticModel, label_of
from rsc.robustness.results import Scores


@dataclasses.dataclass(frozen=True, eq=False)
class FrameModel:
    """A network without its encoder, for spike frames as input.

    Fields:
        inner: the network; its encoder sends spikes ("bernoulli", "signed") and nothing else.

    Raises:
        UsageError: its encoder does not.
    """

    inner: StochasticModel
    encoder: EncoderSpec = dataclasses.field(default_factory=lambda: EncoderSpec("direct", 1))

    def __post_init__(self) -> None:
        spec = self.inner.encoder
        if spec.kind not in COINS or spec.scaled_after_noise:
            raise UsageError(
                f"Encoder '{spec.kind}' sends no bare spikes.",
                "The attack flips 0 to 1 and back.",
                "Use a network with a bernoulli or signed coder and without normalisation.",
            )

    @property
    def bounds(self) -> tuple[float, float]:
        """0 and 1, or -1 and 1 of signed spikes."""
        return (-1.0, 1.0) if self.inner.encoder.kind == "signed" else (0.0, 1.0)

    @property
    def levels(self) -> int:
        """Steps between the bounds."""
        return 2 if self.inner.encoder.kind == "signed" else 1

    @property
    def name(self) -> str:
        """For reports."""
        return f"{label_of(self.inner)} (frames)"

    def core(self, frames: Tensor) -> Tensor:
        """Logits [B, K] of frames [1, B, T, ...]."""
        return self.inner.core(frames[0].movedim(0, 1))


def spike_frames(model: FrameModel, x: Tensor, keys: Keys) -> Tensor:
    """Frames [B, T, ...] of images [B, ...] under noise keys."""
    frames = encode(model.inner.encoder, x.detach().cpu().numpy(), keys)
    return torch.tensor(frames, device=x.device).movedim(0, 1).contiguous()


def attack_frames(
    model: StochasticModel, x: Tensor, y: Tensor, flips: int, scoring: Scoring, attack: Attack | None = None
) -> tuple[Scores, Scores]:
    """Accuracies with at most `flips` spikes changed in every run, and without.

    Each scoring draw's frames are attacked for themselves; `worst_of` is an attacker with that many tries.
    """
    frame_model, labels = FrameModel(model), y.cpu().numpy()
    classes: dict[str, list[Any]] = {"attacked": [], "clean": []}
    for draw in range(scoring.draws):
        keys = Keys(scoring.seed, np.arange(len(x)), draw, "score")
        frames = spike_frames(frame_model, x, keys)
        aimed = dataclasses.replace(scoring, levels=frame_model.levels)
        found = craft(attack or Sea(), frame_model, frames, y, float(flips), aimed)
        for name, value in (("attacked", found.x), ("clean", frames)):
            with torch.no_grad():
                classes[name].append(frame_model.core(value[None]).argmax(1).cpu().numpy())
    attacked, clean = (
        Runs(np.stack(classes[n]), labels, frame_model.name, scoring.seed, "score", "keyed").scores()
        for n in ("attacked", "clean")
    )
    return attacked, clean
