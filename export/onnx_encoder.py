"""The encoder inside an ONNX graph: image [B, ...] and noise, fed or drawn there, become frames [T, B, ...].

The stages are those of `rsc.coding.stages`, in float32 as there, so that fed noise gives the same frames bit
for bit. Noise drawn in the graph has the same law and other numbers: ONNX Runtime draws it anew in every run,
from a seed of the process (`onnxruntime.set_seed`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from rsc.coding import ENCODERS
from rsc.coding.gaussian import sigma_levels
from rsc.coding.stages import mean_level
from rsc.encoder_spec import COINS, GAUSSIAN, EncoderSpec, Stage
from rsc.export.onnx_scope import Scope
from rsc.export.onnx_series import Extent, Series
from rsc.shapes import Shape


@dataclasses.dataclass(frozen=True)
class Encoded:
    """The frames, how far they go, and the number of runs of each image ("" without a vote)."""

    frames: Series
    extent: Extent
    runs: str


def encode(s: Scope, spec: EncoderSpec, shape: Shape, fed: bool, votes: int | None) -> Encoded:
    """Declare the inputs of a model and make its frames; the stages compute in float32.

    Inputs: `image` [B, ...]; `noise` [T or 1, B, ...] where it is fed, with a vote [K, T or 1, B, ...]; and
    with a default each `steps`, `sigma` and `runs` (K) where the encoder has them and no input tells.

    Args:
        fed: whether the noise is an input.
        votes: default of K; None runs every image once.
    """
    return _Encoding(s, spec, shape, fed, votes).encoded()


class _Encoding:
    def __init__(self, s: Scope, spec: EncoderSpec, shape: Shape, fed: bool, votes: int | None) -> None:
        self.s, self.spec, self.shape, self.votes = s, spec, shape, votes
        self.frames_of_noise = ENCODERS[spec.kind].noise_frames(spec)
        self.fed = fed and self.frames_of_noise > 0
        self.image = s.declare("image", "float32", ("B", *shape), "input")
        self.image_batch = s.op("Shape", self.image, start=0, end=1)

    def encoded(self) -> Encoded:
        s, spec = self.s, self.spec
        noise = self._fed_noise() if self.fed else ""
        runs = self._runs(noise)
        steps, image, batch = self._steps(noise), self.image, self.image_batch
        if runs:
            batch = s.op("Mul", runs, batch)
            size = s.op("Concat", runs, self.image_batch, s.ints(*self.shape), axis=0)
            image = s.op("Expand", image, size)
            image = s.op("Reshape", image, s.ints(-1, *self.shape))
        if noise and runs:
            noise = s.op("Transpose", noise, perm=[1, 0, *range(2, 3 + len(self.shape))])
            flat = s.op("Concat", s.op("Shape", noise, start=0, end=1), batch, s.ints(*self.shape), axis=0)
            noise = s.op("Reshape", noise, flat)
        extent = Extent(steps, batch)
        frames = self._before(s.op("Unsqueeze", image, s.ints(0)))
        if self.frames_of_noise:
            frames = self._noisy(frames, noise or self._drawn(extent))
        frames = self._after(frames)
        real = frames if s.real == "float32" else s.cast(frames, s.real)
        return Encoded(Series(self.shape, spec.latched, real), extent, runs)

    def _fed_noise(self) -> str:
        kind = "int64" if self.spec.kind in COINS or self.spec.grid is not None else "float32"
        lead: list[int | str] = [] if self.votes is None else ["K"]
        length = 1 if self.frames_of_noise == 1 and self.spec.latched else "T"
        return self.s.declare("noise", kind, (*lead, length, "B", *self.shape), "input")

    def _runs(self, noise: str) -> str:
        if self.votes is None:
            return ""
        if noise:
            return self.s.op("Shape", noise, start=0, end=1)
        self.s.optional("runs", "int64", np.array([self.votes], np.int64), (1,))
        return "runs"

    def _steps(self, noise: str) -> str:
        if self.spec.step_sigma:
            return self.s.ints(self.spec.steps)
        if noise and not self.spec.latched:
            axis = 0 if self.votes is None else 1
            return self.s.op("Shape", noise, start=axis, end=axis + 1)
        self.s.optional("steps", "int64", np.array([self.spec.steps], np.int64), (1,))
        return "steps"

    def _drawn(self, extent: Extent) -> str:
        """Noise of the encoder's law; coins get integers as real numbers in float64."""
        s, spec = self.s, self.spec
        steps = s.ints(1) if spec.latched else extent.steps
        like = s.op(
            "ConstantOfShape", s.op("Concat", steps, extent.batch, s.ints(*self.shape), axis=0)
        )  # of float32 zeros
        if spec.kind in COINS:
            uniform = s.op("RandomUniformLike", like, dtype=11)  # in [0, 1)
            return s.op("Floor", s.op("Mul", uniform, s.constant(2.0**spec.bits, "float64")))
        return s.op("RandomNormalLike", like)  # standard ones

    def _noisy(self, frames: str, noise: str) -> str:
        """The "noise" stage."""
        s, spec = self.s, self.spec
        if spec.kind in COINS:
            return self._tossed(frames, noise)
        if spec.grid is None:
            return s.op("Add", frames, s.op("Mul", noise, self._sigma(spec.sigmas)))
        if self.fed:
            return s.op("Add", frames, s.cast(noise, "float32"))
        levels = sigma_levels(spec, spec.steps)
        return s.op("Add", frames, s.op("Round", s.op("Mul", noise, self._sigma(levels))))

    def _sigma(self, sigmas: Sequence[float]) -> str:
        """A column of standard deviations, or one that may be fed."""
        s = self.s
        if self.spec.step_sigma:
            return s.constant(np.reshape(sigmas, (-1, *[1] * (1 + len(self.shape)))), "float32")
        s.optional("sigma", "float32", np.array(self.spec.sigma, np.float32), ())
        unit = sigmas[0] / self.spec.sigma
        return "sigma" if self.spec.grid is None else s.op("Mul", "sigma", s.number(unit, "float32"))

    def _tossed(self, frames: str, noise: str) -> str:
        """[U < round(2^r |x|)] sign(x); exact, in float64."""
        s, p = self.s, self.s.cast(frames, "float64")
        limit = s.op("Round", s.op("Mul", s.op("Abs", p), s.constant(2.0**self.spec.bits, "float64")))
        if self.fed:
            noise = s.cast(noise, "float64")
        spikes = s.cast(s.op("Less", noise, limit), "float32")
        return s.op("Mul", spikes, s.op("Sign", frames))

    def _before(self, image: str) -> str:
        at = self.spec.order.index("noise")
        if self.spec.grid is None:
            return self._stages(image, self.spec.order[:at])
        level = self.s.op("Round", self.s.op("Mul", image, self.s.number(self.spec.grid, "float32")))
        return self._clip_level(level) if "clip" in self.spec.order[:at] else level

    def _after(self, frames: str) -> str:
        spec, s = self.spec, self.s
        at = spec.order.index("noise")
        if spec.grid is None:
            return self._stages(frames, spec.order[at + 1 :])
        level = self._clip_level(frames) if "clip" in spec.order[at:] else frames
        centred = s.op("Sub", level, self._channels(mean_level(spec)))
        return s.op("Div", centred, s.number(spec.grid * spec.std[0], "float32"))

    def _stages(self, frames: str, stages: Sequence[Stage]) -> str:
        s, spec = self.s, self.spec
        for stage in stages:
            if stage == "clip" and spec.clip is not None:
                low, high = (s.number(end, "float32") for end in spec.clip)
                frames = s.op("Clip", frames, low, high)
            elif stage == "normalise" and (spec.mean != (0.0,) or spec.std != (1.0,)):
                frames = s.op("Sub", frames, self._channels(spec.mean))
                frames = s.op("Div", frames, self._channels(spec.std))
        return frames

    def _clip_level(self, level: str) -> str:
        s, spec = self.s, self.spec
        if spec.clip is None:
            return level
        normalised = spec.order.index("normalise") < spec.order.index("clip")
        mean, std = (spec.mean, spec.std[0]) if normalised else ((0.0,), 1.0)
        ends = [
            self._channels(tuple(float(np.rint((spec.grid or 1) * (end * std + m))) for m in mean))
            for end in spec.clip
        ]
        return s.op("Min", s.op("Max", level, ends[0]), ends[1])

    def _channels(self, values: Sequence[float]) -> str:
        """Constants along the channel axis of [T, B, C, ...]."""
        if len(values) == 1:
            return self.s.number(values[0], "float32")
        return self.s.constant(np.reshape(values, (-1, *[1] * (len(self.shape) - 1))), "float32")


def has_noise(spec: EncoderSpec) -> bool:
    """Whether images need noise beside them."""
    return ENCODERS[spec.kind].noise_frames(spec) > 0


def is_gaussian(spec: EncoderSpec) -> bool:
    """Whether the noise is a standard normal, or whole levels of one."""
    return spec.kind in GAUSSIAN
