"""The ANN that E-RSCT distils from: the ReLU twin of the student, given as a file or trained once and kept.

A trained teacher is stored under the digest of all that decides its weights (network, encoder, training,
data), so the next run with the same settings finds it. It has a plain loop of its own: no objective, no
communication between processes, so any process of a distributed run can make it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsc.bundle import Bundle
from rsc.coding import draw_noise, encode_torch
from rsc.data import Dataset
from rsc.encoder_spec import EncoderSpec
from rsc.errors import InputRefused, MalformedFile, RscError, UsageError
from rsc.files import make_parents, write_atomic
from rsc.networks import NetworkSpec, build
from rsc.training.losses.recording import recording

_NOISE = {"kind", "steps", "sigma", "step_sigma", "shared", "bits", "version"}
_DIGEST, _CONTENT, _MADE, _ACCURACY = "digest", "content", "made_from", "train_accuracy"


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
            if not getattr(self, name) > 0:
                raise UsageError(
                    f"teacher.{name} is {getattr(self, name)}.", "It must be positive.", "Correct the config."
                )


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

    @staticmethod
    def quiet_frames(encoder: EncoderSpec, x: Tensor) -> Tensor:
        """One frame [1, B, ...] of images: clipped and normalised as the student's, without noise."""
        return encode_torch(encoder, x, None)[:1]


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
) -> Teacher:
    """Load, find or train the teacher of a student.

    Args:
        network: of the student; the teacher has neuron "relu" in it.
        encoder: of the student, with the constants of the data.

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
        state = _given(Path(config.source))
        digest = content_digest(state)
    else:
        digest = digest_of(config, data, twin, encoder)
        file = _folder(config) / f"{digest}.safetensors"
        if not file.exists():
            made, reached = train_teacher(config, data, twin, encoder, device)
            _store(file, made.state_dict(), digest, reached, _made_from(config, data, twin, encoder))
        state, accuracy = _stored(file, digest)
    module = _filled(_fresh(twin, data, config.seed), state, config.source or "the cache")
    return Teacher(module.to(device).eval().requires_grad_(False), config.sees, digest, accuracy)


def digest_of(config: TeacherConfig, data: Dataset, twin: NetworkSpec, encoder: EncoderSpec) -> str:
    """SHA-256 of everything that decides the weights of a trained teacher."""
    return hashlib.sha256(_made_from(config, data, twin, encoder)).hexdigest()


def train_teacher(
    config: TeacherConfig,
    data: Dataset,
    twin: NetworkSpec,
    encoder: EncoderSpec,
    device: torch.device | str = "cpu",
) -> tuple[nn.Module, float]:
    """A trained ReLU network and its accuracy on the images of its last epoch.

    Raises:
        RscError: the loss stopped being finite.
    """
    network = _fresh(twin, data, config.seed).to(device).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    total = config.epochs * -(-len(data) // config.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.lr, total_steps=total, cycle_momentum=False
    )
    generator = torch.Generator(device).manual_seed(config.seed)
    hits = 0
    for epoch in range(config.epochs):
        hits = 0
        for x, y in _batches(data, config, epoch, device):
            logits = network(_frames(config, encoder, x, generator)).mean(0)
            loss = F.cross_entropy(logits, y, label_smoothing=config.label_smoothing)
            if not torch.isfinite(loss):
                raise RscError(
                    f"Training the teacher stopped in epoch {epoch + 1}.",
                    f"The loss is {loss.item()}.",
                    "Lower teacher.lr.",
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            hits += int((logits.argmax(1) == y).sum())
    return network.eval(), hits / len(data)


def content_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of a state."""
    sha = hashlib.sha256()
    for name, value in sorted(state.items()):
        array = np.ascontiguousarray(value.detach().cpu().numpy())
        sha.update(f"\0{name} {array.dtype.str} {array.shape}".encode() + array.tobytes())
    return sha.hexdigest()


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


def _folder(config: TeacherConfig) -> Path:
    if config.cache is not None:
        return Path(config.cache)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "rsc-snn" / "teachers"


def _fresh(twin: NetworkSpec, data: Dataset, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(twin, data.images.shape[1:], len(data.labels))


def _frames(config: TeacherConfig, encoder: EncoderSpec, x: Tensor, generator: torch.Generator) -> Tensor:
    if config.sees == "clean":
        return Teacher.quiet_frames(encoder, x)
    return encode_torch(encoder, x, draw_noise(encoder, x, generator))


def _batches(data: Dataset, config: TeacherConfig, epoch: int, device: torch.device | str) -> Any:
    order = np.random.Generator(np.random.PCG64([config.seed, epoch])).permutation(len(data))
    for start in range(0, len(order), config.batch_size):
        rows = order[start : start + config.batch_size]
        yield (
            torch.from_numpy(data.images[rows]).to(device),
            torch.from_numpy(data.targets[rows]).to(device),
        )


def _store(file: Path, state: Mapping[str, Tensor], digest: str, accuracy: float, made_from: bytes) -> None:
    from safetensors.torch import save

    plain = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    facts = {
        _DIGEST: digest,
        _CONTENT: content_digest(plain),
        _MADE: made_from.decode(),
        _ACCURACY: repr(accuracy),
    }
    make_parents(file)
    write_atomic(file, save(plain, facts))


def _stored(file: Path, digest: str) -> tuple[dict[str, Tensor], float]:
    state, facts = _read(file)
    if facts.get(_DIGEST) != digest or facts.get(_CONTENT) != content_digest(state):
        raise MalformedFile(
            f"The stored teacher '{file}' is damaged.",
            "Its content is not what was written there.",
            "Delete it; it is trained again.",
        )
    return state, float(facts[_ACCURACY])


def _given(path: Path) -> dict[str, Tensor]:
    """The state in a bundle folder or safetensors file."""
    if not path.is_dir():
        return _read(path)[0]
    bundle = Bundle.load(path)
    neuron = (bundle.config.get("network") or {}).get("neuron", "relu")
    if neuron != "relu":
        raise InputRefused(
            f"Bundle '{path}' is no teacher.",
            f"Its network has neuron '{neuron}'; a teacher is an ANN.",
            "Give a network trained with neuron = 'relu', or leave source out.",
        )
    return {name: torch.from_numpy(np.array(value)) for name, value in bundle.state.items()}


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise MalformedFile(
            f"Teacher '{file}' cannot be read.", str(error), "Check the path, or leave source out."
        ) from error


def _filled(module: nn.Module, state: Mapping[str, Tensor], where: str) -> nn.Module:
    own = module.state_dict()
    wrong = sorted(
        set(own) ^ set(state) | {k for k in set(own) & set(state) if own[k].shape != state[k].shape}
    )
    if wrong:
        raise InputRefused(
            f"The teacher from {where} is not the twin of the student.",
            f"These parameters do not fit: {', '.join(wrong[:4])}.",
            "Give the state of a network of the same shape with neuron 'relu'.",
        )
    module.load_state_dict(dict(state))
    return module
