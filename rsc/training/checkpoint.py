"""Saves of a run: tensors and facts in one safetensors file each, no pickle, all of it or nothing.

A save is written beside its final name, flushed and renamed (`rsc.files`), and carries a digest of its
own content. Reading takes the newest whole one; what a power cut or a copy has damaged is passed over.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from rsc.errors import MalformedFile
from rsc.files import write_atomic

_NAME = re.compile(r"step-(\d{10})\.safetensors")
BEST = "best.safetensors"


@dataclasses.dataclass(frozen=True, eq=False)
class Snapshot:
    """Everything that a run needs to go on: tensors by name, and facts that JSON can hold."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        """The content of a file."""
        tensors = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in self.tensors.items()}
        facts = msgspec.json.encode(self.facts).decode()
        return save_tensors(tensors, {"rsc": facts, "sha256": _digest(tensors, facts)})

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "checkpoint") -> Snapshot:
        """Read and verify.

        Raises:
            MalformedFile: damaged, or no checkpoint.
        """
        try:
            tensors = load_tensors(data)
            (length,) = struct.unpack_from("<Q", data)
            metadata = json.loads(data[8 : 8 + length])["__metadata__"]
            facts, digest = metadata["rsc"], metadata["sha256"]
        except (SafetensorError, ValueError, KeyError, TypeError, struct.error) as error:
            raise MalformedFile(f"'{name}' is no whole checkpoint.", str(error), "Use another.") from error
        if _digest(tensors, facts) != digest:
            raise MalformedFile(f"'{name}' is damaged.", "Its SHA-256 differs.", "Use another.")
        return cls(tensors, msgspec.json.decode(facts))


class Checkpoints:
    """The folder that saves lie in, for one writer."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def save(self, snapshot: Snapshot, step: int, best: bool = False) -> None:
        """Write the state after `step` optimiser steps, and drop the oldest of more than `keep`.

        Raises:
            StorageError: it could not be written; the saves before are as they were.
        """
        data = snapshot.to_bytes()
        if best:
            write_atomic(self.folder / BEST, data)
        write_atomic(self.folder / f"step-{step:010d}.safetensors", data)
        for old in self.files()[self.keep :]:
            old.unlink(missing_ok=True)

    def files(self) -> list[Path]:
        """All saves but the best, the newest first."""
        if not self.folder.is_dir():
            return []
        return sorted((f for f in self.folder.iterdir() if _NAME.fullmatch(f.name)), reverse=True)

    def newest(self) -> bytes | None:
        """The content of the newest whole save, or None if there is none at all.

        Raises:
            MalformedFile: there are saves, and all of them are damaged.
        """
        last: MalformedFile | None = None
        for file in [*self.files(), self.folder / BEST]:
            try:
                data = file.read_bytes()
                Snapshot.from_bytes(data, str(file))
            except FileNotFoundError:
                continue
            except MalformedFile as error:
                warnings.warn(f"{error.what} {error.why} An older one is taken.", stacklevel=2)
                last = error
            else:
                return data
        if last is not None:
            raise last
        return None


def _digest(tensors: Mapping[str, Tensor], facts: str) -> str:
    """SHA-256 over facts, names, types, shapes and values."""
    digest = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"/{name}/{value.dtype}/{list(value.shape)}/".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
