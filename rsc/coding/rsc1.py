"""RSC-I: one Gaussian draw per run, the same at every step (Wu et al., arXiv 2407.20099)."""

from __future__ import annotations

from rsc.program import EncoderSpec


def noise_frames(spec: EncoderSpec) -> int:
    """Independent noise frames per run: one, shared by all steps."""
    return 1 if spec.sigma else 0
