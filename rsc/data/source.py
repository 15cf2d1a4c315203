"""Where a data set comes from, its licence, and what to say when its files are not as they should be."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

from rsc.errors import InputRefused, MalformedFile


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Fields:
        home: the page of its authors.
        licence: what they say about its use.
        command: a shell command (or steps) that puts it under the folder {root}.
    """

    home: str
    licence: str
    command: str = ""


@dataclasses.dataclass(frozen=True)
class Place:
    """A data set in a folder of this machine; makes the errors about its files.

    Fields:
        name: of the data set.
        root: the folder of all data sets.
    """

    name: str
    source: Source
    root: Path

    @property
    def command(self) -> str:
        """How to get the set into this folder."""
        return self.source.command.replace("{root}", str(self.root))

    def missing(self, path: Path | str) -> InputRefused:
        """There is no such file or folder."""
        return InputRefused(
            f"Data set '{self.name}' is not complete: there is no '{path}'.",
            f"Nothing is downloaded unasked. Licence: {self.source.licence} ({self.source.home}).",
            f"Get it: {self.command} -- or give the folder that holds it (--data-root).",
        )

    def corrupt(self, path: Path | str, why: str) -> MalformedFile:
        """A file is there but is not what it should be."""
        return MalformedFile(
            f"'{path}' is no intact file of data set '{self.name}'.",
            why,
            f"Delete it and get it again: {self.command}",
        )

    def unreadable(self, path: Path | str, error: Exception) -> InputRefused:
        """What to raise for an exception met while reading: the machine's fault or the file's."""
        if isinstance(error, FileNotFoundError):
            return self.missing(path)
        if isinstance(error, OSError) and error.errno is not None:
            why = os.strerror(error.errno)
            return InputRefused(f"'{path}' cannot be read.", f"{why}.", "Check permissions and the disk.")
        return self.corrupt(path, f"{type(error).__name__}: {error}.")

    def require_md5(self, path: Path, md5: str) -> None:
        """Refuse a file that is not, bit for bit, the published one.

        Raises:
            InputRefused: it is not there or cannot be read.
            MalformedFile: its MD5 is another.
        """
        if not path.is_file():
            raise self.missing(path)
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        except OSError as error:
            raise self.unreadable(path, error) from error
        if found != md5:
            raise self.corrupt(path, f"Its MD5 is {found}, that of the published file is {md5}.")
