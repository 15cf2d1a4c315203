"""Turn one NIR file (HDF5) from standard input into plain arrays on standard output.

Run as a script in a process of its own, because the HDF5 library can crash, hang or read other
files on hostile input. Standard library, numpy and h5py only. Every object is inspected before
the first array is read. The answer is: the arrays, a JSON header, its length in 8 bytes.
"""

# pyright: reportAttributeAccessIssue=false
# (h5py's low-level modules are compiled and have no stubs)

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

MAX_DEPTH = 16  # graphs inside graphs
MAX_NODES = 10_000
MAX_OBJECTS = 200_000
ALIGN = 64
# What h5py raises on damaged files; anything else is a fault of this module.
READ_FAULTS = (
    OSError,
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    ArithmeticError,
    MemoryError,
    SystemError,
    AttributeError,
)


class Refused(Exception):
    """The file is not safe to read or not a NIR file: (what, why, fix)."""

    def __init__(self, what: str, why: str, fix: str = "") -> None:
        super().__init__(what, why, fix)


@dataclass
class _Walk:
    """What has been seen of a file while it is inspected."""

    max_bytes: int
    declared: int = 0
    objects: int = 0
    nodes: int = 0
    groups: set[Any] = field(default_factory=set)


def extract(image: bytes, max_bytes: int, out: BinaryIO) -> None:
    """Inspect the bytes of a file and write its content.

    Args:
        image: the whole file.
        max_bytes: most bytes that all arrays together may declare.
        out: receives arrays, JSON header, length of the header (8 bytes, little-endian).

    Raises:
        Refused: a rule is broken. READ_FAULTS: HDF5 cannot make sense of the bytes.
    """
    from h5py import h5f, h5g

    file = h5f.open_file_image(image)
    root = h5g.open(file, b"/")
    if not root.links.exists(b"node"):
        raise Refused(
            "This is not a NIR file.", "It has no group 'node'.", "Give a file written by nir.write."
        )
    walk = _Walk(max_bytes)
    tree = _inspect(root, b"node", walk, "node", 0)
    if not isinstance(tree, dict):
        raise Refused(
            "This is not a NIR file.", "'node' is not a group.", "Give a file written by nir.write."
        )
    writer = _Writer(file, out)
    header = {"tree": writer.encode(tree), "arrays": writer.arrays}
    out.write(framed(header))


def extract_groups(image: bytes, max_bytes: int, out: BinaryIO, names: Sequence[str]) -> None:
    """`extract` for other files than NIR's: the objects of these names at the root, those that there are.

    They are inspected by the same rules, and all of them before the first array is read. The header's "tree"
    maps the names to them.
    """
    from h5py import h5f, h5g

    file = h5f.open_file_image(image)
    root = h5g.open(file, b"/")
    walk = _Walk(max_bytes)
    found = [name for name in names if root.links.exists(name.encode())]
    tree = {name: _inspect(root, name.encode(), walk, name, 0) for name in found}
    writer = _Writer(file, out)
    header = {"tree": writer.encode(tree), "arrays": writer.arrays}
    out.write(framed(header))


def answer(image: bytes, max_bytes: int, out: BinaryIO, names: Sequence[str] = ()) -> None:
    """What was asked for, or the reason why it failed: {"refused": [what, why, fix]} or {"fault": text}.

    Args:
        names: none for `extract`, else those of `extract_groups`.
    """
    try:
        if names:
            extract_groups(image, max_bytes, out, names)
        else:
            extract(image, max_bytes, out)
    except Refused as refusal:
        out.write(framed({"refused": refusal.args}))
    except READ_FAULTS as fault:
        out.write(framed({"fault": f"{type(fault).__name__}: {fault}"}))


def framed(header: dict[str, Any]) -> bytes:
    """JSON followed by its length in 8 bytes."""
    text = json.dumps(header).encode()
    return text + len(text).to_bytes(8, "little")


def _inspect(group: Any, name: bytes, walk: _Walk, path: str, depth: int) -> Any:
    """The object `name` of a group: {name: object} for a group, its path for a data set.

    Thousands of open data sets would take more memory than this process has, so none stays open.
    """
    from h5py import h5d, h5g, h5l, h5o

    link = group.links.get_info(name)
    if link.type != h5l.TYPE_HARD:
        raise Refused(
            f"'{path}' points out of its place in the file.",
            "It is a soft or external link, which can name other files.",
            "Have the file written anew by nir.write.",
        )
    walk.objects += 1
    if walk.objects > MAX_OBJECTS:
        raise Refused("The file holds too many objects.", f"The limit is {MAX_OBJECTS}.")
    item = h5o.open(group, name)
    if isinstance(item, h5d.DatasetID):
        _inspect_dataset(item, walk, path)
        return path
    if not isinstance(item, h5g.GroupID):
        raise Refused(f"'{path}' is neither a group nor an array.", "NIR files hold nothing else.")
    return _inspect_group(item, walk, path, depth)


def _inspect_group(group: Any, walk: _Walk, path: str, depth: int) -> dict[str, Any]:
    from h5py import h5o

    info = h5o.get_info(group)
    if (info.fileno, info.addr) in walk.groups:
        raise Refused(f"'{path}' occurs twice in the file.", "Groups that contain themselves never end.")
    walk.groups.add((info.fileno, info.addr))
    inner = path.rpartition("/")[2] == "nodes"
    depth += inner
    if depth > MAX_DEPTH or path.count("/") > 3 * MAX_DEPTH:
        raise Refused("The graphs are nested too deeply.", f"The limit is {MAX_DEPTH} levels, at '{path}'.")
    walk.nodes += group.get_num_objs() if inner else 0
    if walk.nodes > MAX_NODES or group.get_num_objs() > MAX_OBJECTS:
        raise Refused("The graph is too large.", f"The limit is {MAX_NODES} nodes.", "Split the network.")
    names = sorted(group)
    return {n.decode("utf8"): _inspect(group, n, walk, f"{path}/{n.decode('utf8')}", depth) for n in names}


def _inspect_dataset(item: Any, walk: _Walk, path: str) -> None:
    """Refuse arrays that live elsewhere, need foreign code, are of odd types or too large."""
    from h5py import h5d, h5s, h5z

    layout = item.get_create_plist()
    if layout.get_external_count():
        raise Refused(f"'{path}' takes its bytes from another file.", "It uses HDF5 external storage.")
    if layout.get_layout() == h5d.VIRTUAL:
        raise Refused(f"'{path}' takes its bytes from another data set.", "It is an HDF5 virtual data set.")
    allowed = {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32, h5z.FILTER_LZF}
    filters = {layout.get_filter(i)[0] for i in range(layout.get_nfilters())}
    if filters - allowed:
        raise Refused(f"'{path}' needs HDF5 filter {min(filters - allowed)}.", "Only gzip and lzf are read.")
    space = item.get_space()
    if space.get_simple_extent_type() == h5s.NULL:
        raise Refused(f"'{path}' is empty.", "A NIR parameter has a value.")
    kind = item.dtype
    if not _text(kind) and (kind.kind not in "biuf" or kind.itemsize > 8):
        raise Refused(f"'{path}' is of type {kind}.", "NIR parameters are real numbers or text.")
    size = kind.itemsize
    for extent in space.get_simple_extent_dims():
        size *= extent
    walk.declared += size
    if walk.declared > walk.max_bytes:
        raise Refused(
            "The file declares more data than it can honestly hold.",
            f"'{path}' brings it to {walk.declared} bytes; the limit for its size is {walk.max_bytes}.",
            "If you know where it comes from, read it with trust=True (--trust).",
        )


def _text(kind: Any) -> bool:
    import h5py

    return h5py.check_string_dtype(kind) is not None


@dataclass
class _Writer:
    """Reads arrays, writes them one after the other and remembers where: [dtype, shape, offset]."""

    file: Any
    out: BinaryIO
    arrays: list[Any] = field(default_factory=list)
    offset: int = 0

    def encode(self, item: Any) -> Any:
        """JSON of a tree: {"g": group} | {"s": text} | {"l": nested list of texts} | {"a": array number}."""
        if isinstance(item, dict):
            return {"g": {name: self.encode(value) for name, value in item.items()}}
        import h5py

        data = h5py.Dataset(h5py.h5d.open(self.file, item.encode()))
        value = data[()]
        if _text(data.dtype):
            return {"s": value.decode("utf8")} if isinstance(value, bytes) else {"l": _texts(value.tolist())}
        import numpy as np

        array = np.asarray(value)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        padding = bytes(-array.nbytes % ALIGN)
        self.out.write(np.ascontiguousarray(array).data if array.size else b"")
        self.out.write(padding)
        self.arrays.append([array.dtype.str, list(array.shape), self.offset])
        self.offset += array.nbytes + len(padding)
        return {"a": len(self.arrays) - 1}


def _texts(value: Any) -> Any:
    return [_texts(v) for v in value] if isinstance(value, list) else value.decode("utf8")


def limit_process(address_space: int, seconds: int, output: int) -> None:
    """Give up what this process cannot need: bytes (0: no limit) and wall time, ended by SIGALRM."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for kind, value in ((resource.RLIMIT_AS, address_space), (resource.RLIMIT_FSIZE, output)):
        if value:
            resource.setrlimit(kind, (value, value))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)


def main(max_bytes: int, address_space: int, seconds: int, *names: str) -> None:
    """Read the file on standard input; answer on standard output; see the module and `answer`."""
    limit_process(address_space, seconds, 2 * max_bytes if address_space else 0)
    with open(0, "rb", closefd=False) as file, open(1, "wb", closefd=False) as out:
        answer(file.read(), max_bytes, out, names)


if __name__ == "__main__":
    # Filter plug-ins are shared libraries that HDF5 would load on a file's demand.
    os.environ["HDF5_PLUGIN_PRELOAD"] = "::"
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
