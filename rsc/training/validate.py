"""Accuracy on held-out images: of single runs, and of the vote of K runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from rsc.program import EncoderSpec
from rsc.training.distributed import World
from rsc.training.event_frames import frames_of

CHUNK = 256  # fixed: noise is keyed by chunk, so that ranks may share the work

Forward = Callable[[Tensor], Tensor]


@torch.no_grad()
def validate(
    forward: Forward,
    encoder: EncoderSpec | None,
    load: Callable[[np.ndarray], tuple[Tensor, Tensor]],
    positions: np.ndarray,
    draws: int,
    seed: int,
    world: World,
    poll: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Accuracies "per_run" and "vote"; the lowest class wins a tie.

    Args:
        forward: frames [T, B, ...] -> outputs [T, B, K], in eval mode.
        encoder: None if the samples are frames.
        load: positions -> images [B, C, H, W], or frames [B, T, C, H, W], and labels [B], on the world's
            device.
        draws: noise draws per image; frames and a deterministic encoder take one. The draws are the same at
            every call with this seed, so that epochs differ by their weights alone.
        poll: called between chunks; may raise.
    """
    draws = draws if encoder is not None and encoder.stochastic else 1
    counts = torch.zeros(2, dtype=torch.float64, device=world.device)
    for chunk in range(world.rank, -(-len(positions) // CHUNK), world.size):
        poll()
        x, y = load(positions[chunk * CHUNK : (chunk + 1) * CHUNK])
        tally = torch.zeros((), device=world.device)
        for draw in range(draws):
            logits = forward(frames_of(encoder, x, _generator(seed, draw, chunk, x.device))).mean(0)
            choice = logits.argmax(1)
            tally = tally + one_hot(choice, logits.shape[1])
            counts[0] += (choice == y).sum()
        counts[1] += (tally.argmax(1) == y).sum()
    per_run, vote = (world.sum(counts) / len(positions)).tolist()
    return {"per_run": per_run / draws, "vote": vote}


def _generator(seed: int, draw: int, chunk: int, device: torch.device) -> torch.Generator:
    digest = hashlib.sha256(f"validate/{seed}/{draw}/{chunk}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
