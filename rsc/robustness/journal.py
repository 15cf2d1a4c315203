"""What a long evaluation has done so far, on the disk: it goes on where it was stopped.

One file per finished part, written whole or not at all. The folder belongs to one question, whose digest it
keeps; another question is refused, never mixed in.
"""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from rsc.errors import MalformedFile, UsageError
from rsc.files import make_parents, write_atomic

_QUESTION = "question.txt"


@dataclasses.dataclass(frozen=True)
class Journal:
    """Finished parts by name.

    Fields:
        folder: where they are kept; None keeps nothing.
        question: digest of everything that the parts depend on.

    Raises:
        UsageError: the folder belongs to another question.
        StorageError: it cannot be written.
    """

    folder: Path | None = None
    question: str = ""

    def __post_init__(self) -> None:
        if self.folder is None:
            return
        make_parents(self.folder / _QUESTION)
        note = self.folder / _QUESTION
        if not note.exists():
            write_atomic(note, self.question.encode())
        elif note.read_bytes() != self.question.encode():
            raise UsageError(
                f"{self.folder} holds the state of another evaluation.",
                "Its program, images or plan differ, so its parts cannot be used here.",
                "Give another folder, or remove this one.",
            )

    def part(self, name: str, make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The arrays of a part: read if it was finished before, else made and kept.

        Raises:
            MalformedFile: the file that keeps it was damaged.
        """
        if self.folder is None:
            return dict(make())
        path = self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.npz"
        if path.exists():
            return _read(path)
        made = dict(make())

        def save(target: Path) -> None:
            with target.open("wb") as file:
                np.savez(file, **made)  # type: ignore[arg-type]

        write_atomic(path, save)
        return made


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            return {key: kept[key] for key in kept.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise MalformedFile(
            f"'{path}' holds no finished part.", str(error), "Remove that file: the part is made again."
        ) from error


def digest_of(*parts: bytes | str | np.ndarray) -> str:
    """SHA-256 over values, in order."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            sha.update(f"{part.shape} {part.dtype}".encode())
            sha.update(np.ascontiguousarray(part).data)
        else:
            sha.update(part.encode() if isinstance(part, str) else part)
        sha.update(b"\0")
    return sha.hexdigest()
