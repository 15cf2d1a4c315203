"""Direct coding: every step sees the image itself."""

from __future__ import annotations

from rsc.program import EncoderSpec


def noise_frames(spec: EncoderSpec) -> int:
    """Independent noise frames per run: none."""
    return 0
