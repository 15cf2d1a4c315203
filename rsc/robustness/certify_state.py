"""The tallies of a long certification on the disk: what a killed process leaves is whole or ignored.

A folder belongs to one job, which a digest names. Every process that works on it appends to a file of its
own, one line per finished unit (an image, a series of draws, a chunk of it) with a checksum, so a kill -9
loses the units of the batch at work and tears at most the last line of one file. A unit that two processes
have finished counts once: the first file by name is believed, a choice that no outcome can influence.
"""

from __future__ import annotations

import os
import secrets
import time
import zlib
from io import RawIOBase
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from rsc.errors import MalformedFile, StorageError, UsageError
from rsc.files import make_parents

SUFFIX = ".tallies"
VERSION = 1  # of the lines below
FLUSH_S = 1.0  # between flushes to the disk; a kill loses nothing of what was written, a power cut this


class Unit(NamedTuple):
    """A piece of work: chunk `chunk` of the draws of one series for one image."""

    image: int
    series: int
    chunk: int


Tally = dict[int, int]  # outcome -> how often


class TallyFolder:
    """The units of one job that are finished, by this process and by all others that share the folder.

    Attributes:
        done: what is known to be finished.
    """

    def __init__(self, folder: Path, job: str, rank: int = 0) -> None:
        """Read what is there.

        Raises:
            UsageError: the folder holds tallies of another job.
            MalformedFile: a file was changed by someone else.
            StorageError: the folder cannot be made or read.
        """
        self.folder, self.job = folder, job
        self.done: dict[Unit, Tally] = {}
        self._read: dict[Path, int] = {}
        self._by_file: dict[Path, dict[Unit, Tally]] = {}
        self._file: RawIOBase | None = None
        self._name = f"rank-{rank:04}-{secrets.token_hex(6)}{SUFFIX}"
        self._flushed = time.monotonic()
        make_parents(folder / "x")
        self.refresh()

    def refresh(self) -> None:
        """Take in what others have finished meanwhile."""
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if path.name != self._name:
                self._take(path)
        for path in sorted(self._by_file):
            for unit, tally in self._by_file[path].items():
                self.done.setdefault(unit, tally)

    def add(self, finished: dict[Unit, Tally]) -> None:
        """Append units; they are safe from a kill when this returns.

        Raises:
            StorageError: the disk is full or gone.
        """
        lines = [_line([*unit, tally]) for unit, tally in finished.items()]
        try:
            if self._file is None:
                self._file = (self.folder / self._name).open("xb", buffering=0)
                lines.insert(0, _line({"job": self.job, "version": VERSION}))
            _write_all(self._file, b"".join(lines))
            if time.monotonic() - self._flushed > FLUSH_S:
                os.fsync(self._file.fileno())
                self._flushed = time.monotonic()
        except OSError as error:
            raise StorageError(
                f"Tallies in {self.folder} were not written.",
                f"{error.strerror or error}.",
                "Make room, then run the same command again: it goes on from what is there.",
            ) from error
        for unit, tally in finished.items():
            self.done.setdefault(unit, tally)

    def close(self) -> None:
        """Flush to the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def _take(self, path: Path) -> None:
        """Whole lines after those that were read before; a line without an end is still being written."""
        start = self._read.get(path, 0)
        try:
            with path.open("rb") as file:
                file.seek(start)
                fresh = file.read()
        except OSError as error:
            raise StorageError(
                f"{path} cannot be read.", f"{error.strerror or error}.", "Check it."
            ) from error
        end = fresh.rfind(b"\n") + 1
        units = self._by_file.setdefault(path, {})
        for number, line in enumerate(fresh[:end].splitlines()):
            value = _parsed(path, line)
            if start == 0 and number == 0:
                self._check_job(path, value)
            else:
                image, series, chunk, tally = value
                units[Unit(image, series, chunk)] = {int(k): v for k, v in tally.items()}
        self._read[path] = start + end

    def _check_job(self, path: Path, head: dict[str, str]) -> None:
        if head.get("job") != self.job:
            raise UsageError(
                f"{path.parent} holds the tallies of another certification.",
                "Program, images, encoder, seed, draws and chunk must be the same to go on; more draws than "
                "first planned would be peeking.",
                "Use another folder, or the first settings.",
            )


def _write_all(file: RawIOBase, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) or 0 :]


def _line(value: object) -> bytes:
    text = msgspec.json.encode(value)
    return b"%08x " % zlib.crc32(text) + text + b"\n"


def _parsed(path: Path, line: bytes) -> Any:
    try:
        check, text = line.split(b" ", 1)
        if int(check, 16) == zlib.crc32(text):
            return msgspec.json.decode(text)
    except ValueError:
        pass
    raise MalformedFile(
        f"{path} holds a line that was not written by a certification.",
        f"Its checksum is wrong: {line[:40]!r}.",
        "Remove that file: its share is done again.",
    )
