"""An exported ONNX file that is run as it stands, without its program: what `rsc run MODEL.onnx` does.

The file may be anybody's: `rsc.export.onnx_reader` reads it before ONNX Runtime does. What it is fed follows
from its metadata and its inputs, as the table at the head of `rsc.export.onnx` says.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from rsc.coding import encode, keyed_noise
from rsc.encoder_spec import EncoderSpec
from rsc.errors import InputRefused, MalformedFile, TargetFault
from rsc.export.onnx import Arithmetic, Feed
from rsc.export.onnx_reader import OnnxLimits, labels, properties, read_onnx
from rsc.hw_targets.onnxruntime_session import Runtime
from rsc.results import Keys

BATCH = 64  # samples that are run at once


class _Told(msgspec.Struct, frozen=True):
    encoder: EncoderSpec | None = None


class _Form(msgspec.Struct, frozen=True):
    arithmetic: Arithmetic
    feed: Feed
    votes: Annotated[int, msgspec.Meta(ge=1, le=OnnxLimits.runs)] | None = None


class OnnxFile:
    """A model in a file, and a session of it.

    Fields:
        digest: of the program that it was made of.
        arithmetic, feed, votes: of its form, see `rsc.export.onnx.OnnxForm`.
        encoder, labels: of the program.
        version: of ONNX Runtime, and the provider.

    Raises:
        MalformedFile: it is no ONNX file, contradicts itself, or is not one that rsc exported.
        InputRefused: it is one that is not run here.
        TargetFault: ONNX Runtime refuses it.
    """

    def __init__(self, path: Path, runtime: Runtime) -> None:
        model = read_onnx(path)
        given = properties(model)
        try:
            told = msgspec.json.decode(given["rsc.program"], type=_Told)
            form = msgspec.json.decode(given["rsc.form"], type=_Form)
        except (KeyError, msgspec.DecodeError) as error:
            raise MalformedFile(
                f"'{path}' does not say what it is fed.",
                f"Its metadata are missing or wrong: {error}.",
                "Only models of `rsc export --to onnx` can be run.",
            ) from error
        self.name, self.digest = str(path), given.get("rsc.digest", "")
        self.arithmetic, self.feed, self.votes = form.arithmetic, form.feed, form.votes
        self.encoder, self.labels = told.encoder, labels(model)
        if self.encoder is not None and self.encoder.steps > OnnxLimits.steps:
            raise self._refused("images", f"Its encoder makes {self.encoder.steps} frames of each.")
        self.version = runtime.version
        self._session = runtime.session(model.SerializeToString())
        self._shapes = {value.name: list(value.shape) for value in self._session.get_inputs()}

    def run_images(self, images: np.ndarray, keys: Keys) -> dict[str, np.ndarray]:
        """Outputs by name, of images [B, ...] with keyed noise where the model takes noise or frames.

        With a vote over K runs of fed noise, these are `keys.draw` and the K - 1 after it.
        """
        x = np.require(images, np.float32, "C")
        return self._run(self._fed(x[at], keys, at) for at in _parts(len(x)))

    def run_frames(self, frames: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name, of frames [T, B, ...], by Input node if there are several.

        Raises:
            InputRefused: the model takes images.
        """
        if self.feed != "frames":
            raise self._refused("frames", f"It takes {', '.join(self._shapes)}.")
        inputs = [name for name in self._shapes if name.startswith("frames.")]
        if not isinstance(frames, Mapping):
            frames = {name.removeprefix("frames."): frames for name in inputs}
        named = {f"frames.{name}": np.require(x, np.float32, "C") for name, x in frames.items()}
        if sorted(named) != sorted(inputs):
            raise self._refused("frames", f"It takes {', '.join(inputs)}; given were {', '.join(named)}.")
        batch = next(iter(named.values())).shape[1]
        return self._run({name: x[:, at] for name, x in named.items()} for at in _parts(batch))

    def _fed(self, images: np.ndarray, keys: Keys, at: slice) -> dict[str, np.ndarray]:
        spec, some = self.encoder, dataclasses.replace(keys, samples=keys.samples[at])
        if self.feed == "graph":
            return {"image": images}
        if spec is None:
            raise self._refused("images", "Its program has no encoder.")
        if self.feed == "frames":
            (name, *others) = (name for name in self._shapes if name.startswith("frames."))
            if others:
                raise self._refused("images", "It has several inputs.")
            return {name: encode(spec, images, some)}
        draws = [dataclasses.replace(some, draw=keys.draw + k) for k in range(self.votes or 1)]
        noise: list[Any] = [keyed_noise(spec, draw, images.shape[1:]) for draw in draws]
        if "noise" not in self._shapes:
            return {"image": images}
        return {"image": images, "noise": np.stack(noise) if self.votes else noise[0]}

    def _run(self, parts: Iterator[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Run parts of a batch and join what they give; "seconds" is the time that ONNX Runtime took."""
        names = [value.name for value in self._session.get_outputs()]
        found, seconds = [], 0.0
        for fed in parts:
            self._check(fed)
            start = time.perf_counter()
            try:
                found.append(self._session.run(names, fed))
            except Exception as error:  # its errors have no common class
                raise TargetFault(
                    f"ONNX Runtime failed on '{self.name}'.", str(error)[:500], "Check what it is fed."
                ) from error
            seconds += time.perf_counter() - start
        joined = {
            name: _joined(name, [np.asarray(outputs[i]) for outputs in found]) for i, name in enumerate(names)
        }
        return joined | {"seconds": np.asarray(seconds)}

    def _check(self, fed: Mapping[str, np.ndarray]) -> None:
        for name, value in fed.items():
            if name not in self._shapes:
                raise self._refused(name, f"It takes {', '.join(self._shapes)}.")
            wanted = self._shapes[name]
            fixed = [(d, n) for d, n in zip(wanted, value.shape, strict=False) if isinstance(d, int)]
            if len(wanted) != value.ndim or any(d != n for d, n in fixed):
                raise self._refused(name, f"It takes {wanted}; given were {list(value.shape)}.")

    def _refused(self, what: str, why: str) -> InputRefused:
        return InputRefused(f"'{self.name}' cannot be fed these {what}.", why, "Feed it what it takes.")


def _parts(n: int) -> list[slice]:
    return [slice(i, i + BATCH) for i in range(0, n, BATCH)]


def _joined(name: str, parts: list[np.ndarray]) -> np.ndarray:
    """Outputs of several parts of a batch, whose axis of samples is the first, or the second after time."""
    if name == "saturated":
        return np.asarray(sum(int(part) for part in parts))
    later = name.startswith(("outputs.", "spikes.", "states.", "next.line."))
    return np.concatenate(parts, 1 if later else 0)
