"""The ANN that E-RSCT distils from: the ReLU twin of the student, given as a file or trained once and kept.

A trained teacher is stored under the digest of all that decides its weights (network, encoder, training,
data), so the next run with the same settings finds it. Of several processes that want the same one, one
trains it; when it is stopped, the next goes on where it stood.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from rsc.data import Dataset
from rsc.encoder_spec import EncoderSpec
from rsc.errors import UsageError
from rsc.networks import NetworkSpec
from rsc.training.losses.recording import recording
from rsc.training.progress import Watcher, nobody
from rsc.training.teacher_store import (
    cache_folder,
    content_digest,
    filled,
    given,
    one_at_a_time,
    store,
    stored,
)
from rsc.training.teacher_training import fresh, quiet_frames, train_teacher

__all__ = [
    "Answer",
    "Teacher",
    "TeacherConfig",
    "content_digest",
    "digest_of",
    "get_teacher",
    "train_teacher",
    "twin_of",
]

_NOISE = {"kind", "steps", "sigma", "step_sigma", "shared", "bits", "version"}


class TeacherConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the teacher comes from. What the RSC paper used is not known.

    Fields:
        source: a bundle folder or .safetensors file with the state of the ReLU network; None trains it.
        cache: folder of trained teachers; None is $XDG_CACHE_HOME/rsc-snn/teachers (~/.cache without it).
        sees: "clean", the teacher is trained on and answers to clean images, normalised as the student's;
            "coded", it is trained on coded frames and answers to the very frames the student sees,
            averaging its logits over T.
        epochs, batch_size, lr, weight_decay, label_smoothing, seed: of its training, AdamW with a
            one-cycle schedule up to `lr`; no use with `source`.
    """

    source: str | None = None
    cache: str | None = None
    sees: Literal["clean", "coded"] = "clean"
    epochs: int = 40
    batch_size: int = 64
    lr: float = 5e-3
    weight_decay: float = 1e-3
    label_smoothing: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise self._wrong(name, "It must be positive and finite.")
        if not 0 <= self.weight_decay < math.inf:
            raise self._wrong("weight_decay", "It must be finite and not negative.")
        if not 0 <= self.label_smoothing < 1:
            raise self._wrong("label_smoothing", "It lies in [0, 1).")
        if not 0 <= self.seed <= 1 << 40:
            raise self._wrong("seed", f"It must be from 0 to {1 << 40}.")

    def _wrong(self, name: str, rule: str) -> UsageError:
        return UsageError(f"teacher.{name} is {getattr(self, name)}.", rule, "Correct the config.")


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """What a teacher says: logits [B, K], and the inputs of its ReLU layers [B, ...], averaged over time."""

    logits: Tensor
    currents: tuple[Tensor, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """A frozen ANN.

    Fields:
        network: frames [T, B, ...] -> logits [T, B, K], in eval mode, without gradients.
        sees: "clean" or "coded", see TeacherConfig.
        digest: what identifies it in records: of its configuration, or SHA-256 of the given weights.
        train_accuracy: on its last epoch; None for a given teacher.
    """

    network: nn.Module
    sees: str
    digest: str
    train_accuracy: float | None = None

    def __call__(self, frames: Tensor) -> Answer:
        """Its answer to frames [T, B, ...], averaged over T."""
        with torch.no_grad(), recording(self.network) as made:
            outputs = self.network(frames)
        return Answer(outputs.mean(0), made.currents(*outputs.shape[:2]))

    quiet_frames = staticmethod(quiet_frames)


def twin_of(network: NetworkSpec) -> NetworkSpec:
    """The ReLU network of the same shape; constants that only spiking neurons have are at their defaults."""
    plain = NetworkSpec()
    unused = ("decay", "surrogate", "reset", "detach_reset", "learn_decay", "readout")
    return msgspec.structs.replace(network, neuron="relu", **{name: getattr(plain, name) for name in unused})


def get_teacher(
    config: TeacherConfig,
    data: Dataset,
    network: NetworkSpec,
    encoder: EncoderSpec | None,
    device: torch.device | str = "cpu",
    watcher: Watcher = nobody,
) -> Teacher:
    """Load, find or train the teacher of a student.

    Args:
        network: of the student; the teacher has neuron "relu" in it.
        encoder: of the student, with the constants of the data.
        watcher: told after every step, if the teacher is trained.

    Raises:
        UsageError: the data are event frames.
        InputRefused, MalformedFile: a given or stored teacher cannot be used.
        StorageError: the trained teacher cannot be stored.
        RscError: its training diverged.
    """
    twin, accuracy = twin_of(network), None
    if data.frames or encoder is None:
        raise UsageError(
            f"'{data.name}' holds event frames.", "The teacher is an ANN of images.", "Drop its loss terms."
        )
    if config.source is not None:
        state = given(Path(config.source))
        digest = content_digest(state)
    else:
        digest = digest_of(config, data, twin, encoder)
        file = cache_folder(config.cache) / f"{digest}.safetensors"
        if not file.exists():
            with one_at_a_time(file):
                _train_into(file, digest, config, data, twin, encoder, device, watcher)
        state, accuracy = stored(file, digest)
    module = filled(fresh(twin, data, config.seed), state, config.source or "the cache")
    return Teacher(module.to(device).eval().requires_grad_(False), config.sees, digest, accuracy)


def _train_into(
    file: Path,
    digest: str,
    config: TeacherConfig,
    data: Dataset,
    twin: NetworkSpec,
    encoder: EncoderSpec,
    device: torch.device | str,
    watcher: Watcher,
) -> None:
    """Train a teacher and store it, unless another process has done so meanwhile."""
    unfinished = file.with_suffix(".unfinished")
    if not file.exists():
        made, reached = train_teacher(config, data, twin, encoder, device, unfinished, watcher)
        store(file, made.state_dict(), digest, reached, _made_from(config, data, twin, encoder))
    unfinished.unlink(missing_ok=True)


def digest_of(config: TeacherConfig, data: Dataset, twin: NetworkSpec, encoder: EncoderSpec) -> str:
    """SHA-256 of everything that decides the weights of a trained teacher."""
    return hashlib.sha256(_made_from(config, data, twin, encoder)).hexdigest()


def _made_from(config: TeacherConfig, data: Dataset, twin: NetworkSpec, encoder: EncoderSpec) -> bytes:
    """Canonical JSON of what decides the weights; where files lie is no part of it."""
    training = msgspec.structs.asdict(config)
    del training["source"], training["cache"]
    coder = msgspec.structs.asdict(encoder)
    if config.sees == "clean":  # what only the noise stage uses
        coder = {k: v for k, v in coder.items() if k not in _NOISE}
    facts = {
        "version": 1,
        "network": twin,
        "encoder": coder,
        "training": training,
        "data": {"name": data.name, "classes": len(data.labels), "sha256": _data_digest(data)},
    }
    return msgspec.json.encode(facts, order="deterministic")


def _data_digest(data: Dataset) -> str:
    """SHA-256 over labels and images; of images decoded on demand about a thousand, evenly spread."""
    n = len(data)
    rows = np.arange(n) if isinstance(data.images, np.ndarray) else np.arange(0, n, max(1, n // 1000))
    sha = hashlib.sha256(f"{data.images.shape}".encode())
    sha.update(np.ascontiguousarray(data.targets).tobytes())
    for start in range(0, len(rows), 256):
        sha.update(np.ascontiguousarray(data.images[rows[start : start + 256]]).tobytes())
    return sha.hexdigest()
