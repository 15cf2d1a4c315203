"""RSC-II: a fresh Gaussian draw at every step (Wu et al., arXiv 2407.20099)."""

from __future__ import annotations

from rsc.program import EncoderSpec


def noise_frames(spec: EncoderSpec) -> int:
    """Independent noise frames per run: one per step."""
    return spec.steps if spec.sigma else 0
