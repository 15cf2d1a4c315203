"""Direct coding: every step sees the image itself."""

from __future__ import annotations

from typing import Any

from rsc.encoder_spec import EncoderSpec


class Direct:
    """z_t = x; there is no noise, and nothing asks for it."""

    def noise_frames(self, spec: EncoderSpec) -> int:
        """None."""
        return 0

    def keyed(self, spec: EncoderSpec, keys: Any, shape: tuple[int, ...]) -> Any:
        """Never asked for."""
        raise NotImplementedError(spec.kind)

    def generated(self, spec: EncoderSpec, like: Any, generator: Any) -> Any:
        """Never asked for."""
        raise NotImplementedError(spec.kind)

    def noisy(self, spec: EncoderSpec, frames: Any, noise: Any) -> Any:
        """The frames."""
        return frames


DIRECT = Direct()
