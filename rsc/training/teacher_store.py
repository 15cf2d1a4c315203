"""Teachers on the disk: given ones, trained ones by the digest of what made them, and who trains one."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rsc.bundle import Bundle
from rsc.errors import InputRefused, MalformedFile, StorageError
from rsc.files import make_parents, write_atomic

_DIGEST, _CONTENT, _MADE, _ACCURACY = "digest", "content", "made_from", "train_accuracy"


def cache_folder(cache: str | None) -> Path:
    """Where trained teachers lie."""
    if cache is not None:
        return Path(cache)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "rsc-snn" / "teachers"


@contextlib.contextmanager
def one_at_a_time(file: Path) -> Iterator[None]:
    """A block that one process at a time is in, for this file; others wait. Without locks all go ahead.

    Raises:
        StorageError: the folder cannot be used.
    """
    make_parents(file)
    lock = file.with_suffix(".lock")
    try:
        handle = os.open(lock, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise StorageError(
            f"'{file.parent}' cannot be used.", f"{error.strerror}.", "Choose another teacher.cache."
        ) from error
    try:
        with contextlib.suppress(OSError):
            _wait_for(handle, lock)
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)


def _wait_for(handle: int, lock: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        warnings.warn(f"Waiting for the process that trains this teacher ({lock}).", stacklevel=2)
        fcntl.flock(handle, fcntl.LOCK_EX)


def content_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of a state."""
    sha = hashlib.sha256()
    for name, value in sorted(state.items()):
        array = np.ascontiguousarray(value.detach().cpu().numpy())
        sha.update(f"\0{name} {array.dtype.str} {array.shape}".encode() + array.tobytes())
    return sha.hexdigest()


def store(file: Path, state: Mapping[str, Tensor], digest: str, accuracy: float, made_from: bytes) -> None:
    """Write the state of a trained teacher, with what identifies it.

    Raises:
        StorageError: it cannot be written.
    """
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


def stored(file: Path, digest: str) -> tuple[dict[str, Tensor], float]:
    """State and training accuracy in a file of `store`.

    Raises:
        MalformedFile: it is damaged.
    """
    state, facts = _read(file)
    if facts.get(_DIGEST) != digest or facts.get(_CONTENT) != content_digest(state):
        raise MalformedFile(
            f"The stored teacher '{file}' is damaged.",
            "Its content is not what was written there.",
            "Delete it; it is trained again.",
        )
    return state, float(facts[_ACCURACY])


def given(path: Path) -> dict[str, Tensor]:
    """The state in a bundle folder or safetensors file.

    Raises:
        InputRefused, MalformedFile: it is no teacher.
    """
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


def filled(module: nn.Module, state: Mapping[str, Tensor], where: str) -> nn.Module:
    """The network with a state.

    Raises:
        InputRefused: it is of another network.
    """
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
