"""Writing files and folders so that a reader sees the old content or the new, never a part.

New content grows in a hidden folder beside its destination, is flushed to the disk and then takes
its final name in one step. The hidden folder is locked (`flock`) while its writer lives; the next
write to the same destination removes what a killed writer has left. POSIX only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rsc.errors import StorageError

_CONTENT, _PREVIOUS = "content", "previous"
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100  # linux/fs.h, fcntl.h
_MACHINE_FAULTS = {
    errno.ENOSPC: "Free some space or choose another folder.",
    errno.EDQUOT: "Free some of your quota or choose another folder.",
    errno.EFBIG: "Raise the file size limit or choose another file system.",
    errno.EACCES: "Choose a folder that you may write to.",
    errno.EPERM: "Choose a folder that you may write to.",
    errno.EROFS: "Choose a folder on a file system that is not read-only.",
    errno.EIO: "Check the disk.",
    errno.EMFILE: "Raise the limit of open files (ulimit -n).",
    errno.ENFILE: "Close programs that hold many files open.",
}
_WRONG_PATH = {
    errno.ENOENT: "Create the folder first.",
    errno.ENOTDIR: "Choose a path whose parents are folders.",
    errno.EISDIR: "Choose a path that is no folder.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ELOOP: "Choose a path without circular links.",
}


def write_atomic(path: str | Path, data: bytes | Callable[[Path], None]) -> None:
    """Make `data` the content of the file `path`, all of it or nothing.

    Args:
        path: final name; its folder must exist. A symbolic link is followed, permissions are kept.
        data: the bytes, or a function that writes a file at the path it is given.

    Raises:
        StorageError: the file could not be written; an earlier content is still there.
    """
    path = _real(path)
    with _storage_errors(path, everything=True):
        _expect(path, stat.S_ISREG, "a regular file")
    with _workplace(path) as temporary:
        content = temporary / _CONTENT
        if callable(data):
            with _storage_errors(path):
                data(content)
        else:
            with _storage_errors(path):
                content.write_bytes(data)
        with _storage_errors(path, everything=True):
            if path.exists():
                content.chmod(stat.S_IMODE(path.stat().st_mode))
            _flush(content)
            content.replace(path)
            _flush(path.parent)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` when the block ends without an error.

    An existing folder `path` is replaced as a whole, in one step where the system can do that (Linux).

    Raises:
        StorageError: the folder could not be written; an earlier folder is still there.
    """
    path = _real(path)
    with _storage_errors(path, everything=True):
        _expect(path, stat.S_ISDIR, "a folder")
    with _workplace(path) as temporary:
        content = temporary / _CONTENT
        with _storage_errors(path, everything=True):
            content.mkdir()
        with _storage_errors(path):
            yield content
        with _storage_errors(path, everything=True):
            _flush_tree(content)
            if path.exists():
                _swap(content, path, temporary / _PREVIOUS)
            else:
                content.rename(path)
            _flush(path.parent)


def make_parents(path: str | Path) -> None:
    """Make the folders above `path`.

    Raises:
        StorageError: one of them cannot be made.
    """
    parent = Path(path).absolute().parent
    with _storage_errors(parent, everything=True):
        parent.mkdir(parents=True, exist_ok=True)


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _real(path: str | Path) -> Path:
    """The path with links resolved, so that a link keeps pointing to what is replaced."""
    with _storage_errors(Path(path), everything=True):
        try:
            return Path(os.path.realpath(path))
        except ValueError as error:  # an embedded NUL
            raise StorageError(f"{path!r} cannot be a file.", str(error), "Choose another name.") from error


def _expect(path: Path, kind: Callable[[int], bool], name: str) -> None:
    """Refuse to replace something that is not what the caller writes, e.g. a device."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not kind(mode):
        raise StorageError(
            f"{path} cannot be written.", f"It exists and is not {name}.", "Choose another name."
        )


@contextlib.contextmanager
def _workplace(path: Path) -> Iterator[Path]:
    """A locked temporary folder beside `path`, removed at the end whatever happens."""
    with _storage_errors(path, everything=True):
        _remove_leftovers(path)
        temporary, lock = _locked_folder(path)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)


def _prefix(path: Path) -> str:
    return f".rsc-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}-"


def _locked_folder(path: Path) -> tuple[Path, int]:
    while True:
        temporary = path.parent / f"{_prefix(path)}{secrets.token_hex(8)}.tmp"
        temporary.mkdir(mode=0o700)
        lock = os.open(temporary, os.O_RDONLY)
        # A file system without locks gives none to cleaners either, so nothing is removed there.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if temporary.exists():  # else another writer's cleaning came between mkdir and flock
            return temporary, lock
        os.close(lock)


def _remove_leftovers(path: Path) -> None:
    """Remove temporary folders whose writer is gone; put back a folder that it had moved away."""
    for leftover in path.parent.glob(f"{_prefix(path)}*.tmp"):
        with contextlib.suppress(OSError):
            lock = os.open(leftover, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if (leftover / _PREVIOUS).exists() and not path.exists():
                    (leftover / _PREVIOUS).rename(path)
                shutil.rmtree(leftover)
            finally:
                os.close(lock)


def _swap(new: Path, path: Path, previous: Path) -> None:
    """Put folder `new` at `path`; by exchange in one step, else by two renames."""
    if _exchange(new, path):
        return
    path.rename(previous)
    try:
        new.rename(path)
    except BaseException:
        previous.rename(path)
        raise


def _exchange(a: Path, b: Path) -> bool:
    """Let two paths change places; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0


def _flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot flush folders
            raise
    finally:
        os.close(handle)


def _flush_tree(folder: Path) -> None:
    for where, _, files in os.walk(folder):
        for name in files:
            if not (Path(where) / name).is_symlink():
                _flush(Path(where) / name)
        _flush(Path(where))


@contextlib.contextmanager
def _storage_errors(path: Path, everything: bool = False) -> Iterator[None]:
    """Turn OSErrors into StorageError: those of the machine, or all where only our own code runs."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        known = _MACHINE_FAULTS | (_WRONG_PATH if everything else {})
        if not everything and error.errno not in known:
            raise
        fix = known.get(error.errno or 0, "Choose another place.")
        raise StorageError(f"{path} was not written.", f"{error.strerror or error}.", fix) from error
