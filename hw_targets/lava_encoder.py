"""The encoder and the vote of a program as Lava processes: what the worker needs to draw and to decide.

The encoder's process adds integers: a level (or a coin's limit) of the image, and noise drawn by the file
`rsc/coding/words.py`, which the worker loads. What is sent for a sum comes from a table that is made here
with the program's own stages and input grid, so the frames are bit for bit those of `rsc.coding.encode`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from rsc import coding
from rsc.coding import ENCODERS
from rsc.coding.gaussian import sigma_levels
from rsc.coding.noise import STREAMS
from rsc.coding.stages import after_noise, before_noise
from rsc.coding.thresholds import thresholds
from rsc.coding.words import tags
from rsc.encoder_spec import COINS, EncoderSpec
from rsc.errors import UnsupportedNode, UsageError
from rsc.layered import Layer, LayeredProgram, Source
from rsc.program import Program
from rsc.results import Keys

WORDS = Path(coding.__file__).with_name("words.py")


@dataclasses.dataclass(frozen=True, eq=False)
class EncoderJob:
    """One Input node that the worker draws itself.

    Fields:
        header: plain values for the job's header.
        arrays: arrays of the job, by name.
    """

    header: dict[str, Any]
    arrays: dict[str, np.ndarray]


def check_encoder(program: Program) -> EncoderSpec:
    """The encoder, if a process can draw it in integers.

    Raises:
        UsageError: the program has none.
        UnsupportedNode: its noise is real-valued, or it has several inputs.
    """
    spec = program.encoder
    if spec is None:
        raise UsageError(
            "This program has no encoder.", "It can only be fed ready-made frames.", "Leave 'encoder' out."
        )
    if len(program.inputs) > 1:
        raise UnsupportedNode(
            "Lava cannot run the encoder of this program.", "It has several inputs.", "Feed frames."
        )
    if spec.stochastic and spec.kind not in COINS and spec.grid is None:
        raise UnsupportedNode(
            "Lava cannot run the encoder of this program.",
            "Its noise is real-valued; a process on the chip draws integers.",
            "Put image and noise on a grid (rsc export --grid 255), or leave the option 'encoder' out.",
        )
    return spec


def encoder_job(spec: EncoderSpec, source: Source, arithmetic: str, x: np.ndarray, keys: Keys) -> EncoderJob:
    """The encoder's part of a job for images float32 [N, ...] under their keys."""
    x = np.asarray(x, np.float32)
    frames = ENCODERS[spec.kind].noise_frames(spec)
    level = np.asarray(before_noise(spec, x[None])[0], np.float64)
    law, reach, tables = "none", 0, ()
    if spec.kind in COINS:
        law, low, high = "coin", -1, 1
        level = np.sign(level) * np.rint(np.abs(level) * 2.0**spec.bits)
    elif frames:
        law, tables = "gaussian", tuple(thresholds(s) for s in sigma_levels(spec, frames))
        reach = max(len(t) // 2 for t in tables)
    if law != "coin":
        low, high = int(level.min()) - reach, int(level.max()) + reach
    if spec.grid is None and law == "none":
        low, (level, table) = 0, _indexed(source.payload(after_noise(spec, x[None])[0], arithmetic))
    else:
        table = _table(spec, source, arithmetic, np.arange(low, high + 1), x.ndim - 1)
    draws = np.broadcast_to(np.asarray(keys.draw, np.int64), (len(x),))
    header = {
        "law": law,
        "words": str(WORDS),
        "seed": int(keys.seed),
        "fresh": frames > 1,
        "bits": spec.bits,
        "low": low,
        "frames": len(tables),
    }
    arrays = {
        "encoder.image": level.astype(np.int64),
        "encoder.sample": keys.samples.astype(np.uint64),
        "encoder.tag": tags(draws, STREAMS[keys.stream]),
        "encoder.table": table,
    } | {f"encoder.thresholds.{t}": values for t, values in enumerate(tables)}
    return EncoderJob(header, arrays)


def _table(spec: EncoderSpec, source: Source, arithmetic: str, levels: np.ndarray, axes: int) -> np.ndarray:
    """What is sent for each level, [C or 1, R]; in integers as payloads, else as frames."""
    channels = len(spec.mean)
    shape = (1, len(levels), channels) + (1,) * (axes - 1)
    level = np.broadcast_to(levels.astype(np.float32).reshape(1, -1, *[1] * axes), shape)
    frames = np.asarray(after_noise(spec, level), np.float32)
    sent = np.asarray(source.payload(frames, arithmetic))
    return np.ascontiguousarray(sent.reshape(len(levels), channels).T)


def _indexed(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values without noise as numbers of the entries of a table [1, R]."""
    table, index = np.unique(values, return_inverse=True)
    return index.reshape(values.shape), table[None]


def decision_fields(layered: LayeredProgram, rule: str) -> tuple[Layer, dict[str, Any]]:
    """The layer that decides, and the plain fields of its `Decision` process.

    Raises:
        UnsupportedNode: several outputs, or several layers are added at the output.
    """
    outputs = [names for _, names in layered.outputs]
    if len(outputs) > 1 or len(outputs[0]) > 1:
        raise UnsupportedNode(
            "Lava cannot vote in this program.",
            "More than one layer is read at its outputs.",
            "Count the votes from RunResult.predictions.",
        )
    layer = layered.by_name[outputs[0][0]]
    unit = layer.scale * (64 if layered.arithmetic == "integer" else 1)
    return layer, {"rule": "last" if rule == "last" else "total", "readout": layer.readout, "unit": unit}


@dataclasses.dataclass(frozen=True, eq=False)
class Extras:
    """Processes of a job beyond the network: an encoder in place of frames, and a vote at the end.

    Fields:
        encoder: of the only Input node; None: frames are sent from memory.
        rule: readout rule of the program ("mean", "sum", "last").
        group: int64 [N], the image of each sample; None: no vote is taken.
        images: how many there are.
    """

    encoder: EncoderJob | None = None
    rule: str = "mean"
    group: np.ndarray | None = None
    images: int = 0

    def described(self, layered: LayeredProgram) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Entries of the job's header and its arrays, in torch's layout.

        Raises:
            UnsupportedNode: see `decision_fields`.
        """
        header: dict[str, Any] = {}
        arrays: dict[str, np.ndarray] = {}
        if self.encoder is not None:
            header["encoder"] = self.encoder.header
            arrays |= self.encoder.arrays
        if self.group is not None:
            layer, fields = decision_fields(layered, self.rule)
            place = next(i for i, other in enumerate(layered.layers) if other is layer)
            header["decision"] = fields | {"layer": place, "images": self.images}
            arrays["decision.group"] = np.asarray(self.group, np.int64)
            for name, value in (("offset", layer.offset), ("first", layer.v_init)):
                whole = np.broadcast_to(np.asarray(value, np.float64), layer.shape)
                arrays[f"decision.{name}"] = np.ascontiguousarray(whole.transpose())
        return header, arrays
