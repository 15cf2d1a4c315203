"""HDF5 files that may be damaged or hostile, opened in a short-lived process with little memory and time.

What comes back are plain arrays, texts and dictionaries. Whatever the bytes are, the outcome is these or an
`RscError`.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from rsc.errors import InputRefused, MalformedFile, TargetFault
from rsc.export import hdf5_child

SECONDS = 20
_ADDRESS_SPACE = 2 << 30
_TRUSTED_SECONDS = 600
_MAGIC = b"\x89HDF\r\n\x1a\n"


def read_tree(
    path: str | Path, *, trust: bool = False, verified: bool = False, names: tuple[str, ...] = ()
) -> Any:
    """The groups of a file as dictionaries of arrays and texts.

    Args:
        trust: lift the limits on size, memory and time.
        verified: read it in this process.
        names: groups to read; none: the group "node" of a NIR file, which must be there.

    Raises:
        InputRefused (MalformedFile): the file is not safe, or no such file.
        TargetFault: the reading process could not be started.
    """
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        limit = 1 << 62 if trust else declared_limit(size)
        answer = _in_process(file, limit) if verified else _in_child(file, limit, trust, names)
    return tree_of_answer(path, answer)


def declared_limit(size: int) -> int:
    """Most bytes that the arrays of an untrusted file of `size` bytes may declare."""
    return 4 * size + (64 << 20)


def address_space(size: int) -> int:
    """Most bytes that the reading process may map for an untrusted file of `size` bytes.

    An idle one maps some 120 MiB; HDF5 asks for as much as a damaged file tells it to.
    """
    return min(_ADDRESS_SPACE, (768 << 20) + 8 * size)


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[BinaryIO]:
    """A regular file opened for reading, whose beginning is that of an HDF5 file."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for its writer
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputRefused(f"{path} cannot be read.", f"{reason}.", "Check the path.") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputRefused(f"{path} cannot be read.", "It is not a regular file.", "Give a .nir file.")
    with open(handle, "rb") as file:
        if os.pread(handle, len(_MAGIC), 0) != _MAGIC:
            raise MalformedFile(
                f"{path} is not a NIR file.", "It does not begin as HDF5 does.", "Check the path."
            )
        yield file


def _in_process(file: BinaryIO, limit: int) -> bytearray:
    """What the reading process would write, without one."""
    out = io.BytesIO()
    hdf5_child.answer(file.read(), limit, out)
    return bytearray(out.getbuffer())


def _in_child(file: BinaryIO, limit: int, trust: bool, names: tuple[str, ...]) -> bytearray:
    """Run `hdf5_child.py` on an open file; what it wrote."""
    size = os.fstat(file.fileno()).st_size
    seconds = _TRUSTED_SECONDS if trust else SECONDS + size // (4 << 20)  # large files take their time
    command = [sys.executable, "-P", hdf5_child.__file__]  # -P: its folder holds modules named like others'
    space = 0 if trust else address_space(size)
    command += [str(limit), str(space), str(seconds), *names]
    # Thread pools of the linear algebra libraries would reserve address space.
    env = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as log:
        try:
            run = subprocess.run(
                command, stdin=file, stdout=out, stderr=log, env=env, timeout=seconds + 5, check=False
            )
        except subprocess.TimeoutExpired:
            return encode_failure(f"it took longer than {seconds} s")
        except OSError as error:
            raise TargetFault(
                "The reading process could not be started.", f"{error}.", "Check the machine."
            ) from error
        if run.returncode == 0:
            content = bytearray(out.seek(0, os.SEEK_END))
            out.seek(0)
            out.readinto(content)
            return content
        log.seek(0)
        return encode_failure(describe_end(run.returncode, log.read(100_000)))


def describe_end(returncode: int, log: bytes) -> str:
    """Why the reading process ended without an answer, from its status and standard error."""
    if returncode == -14:  # SIGALRM
        return "it took too long"
    if returncode < 0:
        return f"the HDF5 library was ended by signal {-returncode}"
    lines = log.decode("utf8", "replace").strip().splitlines()
    return lines[-1] if lines else f"it ended with status {returncode}"


def encode_failure(reason: str) -> bytearray:
    """An answer that holds nothing but the reason why there is none."""
    return bytearray(hdf5_child.framed({"fault": reason}))


def tree_of_answer(path: str | Path, answer: bytearray) -> Any:
    """What the reading process wrote, decoded; arrays are views of `answer`.

    Raises:
        InputRefused, MalformedFile: it refused the file, or could not read it.
    """
    length = int.from_bytes(answer[-8:], "little")
    try:
        header = msgspec.json.decode(answer[len(answer) - 8 - length : -8])
        if "refused" in header:
            what, why, fix = header["refused"]
            raise InputRefused(f"{path} was refused. {what}", why, fix)
        if "fault" in header:
            raise _unreadable(path, header["fault"])
        return _decode(header["tree"], [_array(answer, *a) for a in header["arrays"]])
    except InputRefused:
        raise
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise _unreadable(path, f"the answer of the reading process is broken ({error})") from error


def _unreadable(path: str | Path, reason: str) -> MalformedFile:
    fix = "The file is damaged; get a new copy."
    if any(word in reason.lower() for word in ("memory", "alloc", "too long", "longer than")):
        fix = f"{fix} If you know it to be sound and large, read it with trust=True (--trust)."
    return MalformedFile(f"{path} cannot be read as HDF5.", f"Reading failed: {reason}.", fix)


def _array(buffer: bytearray, dtype: str, shape: list[int], offset: int) -> np.ndarray:
    count = int(np.prod(shape, dtype=object))
    return np.frombuffer(buffer, np.dtype(dtype), count, offset).reshape(shape)


def _decode(item: dict[str, Any], arrays: list[np.ndarray]) -> Any:
    """Groups to dictionaries, texts to str, single numbers to numpy scalars, as nir.read does."""
    (kind, value), *_ = item.items()
    if kind == "g":
        return {name: _decode(v, arrays) for name, v in value.items()}
    if kind == "a":
        return arrays[value][()]
    return value
