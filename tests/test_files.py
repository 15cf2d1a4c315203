"""Writes are all or nothing, whatever interrupts them."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rsc import files
from rsc.errors import StorageError
from rsc.files import atomic_folder, sha256_file, write_atomic


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def write_two(path: Path) -> None:
    path.write_text("two")


def replace_but_fail(target: Path, error: BaseException) -> None:
    with atomic_folder(target) as folder:
        (folder / "half").write_bytes(b"2")
        raise error


def test_bytes_and_functions_arrive_whole(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"one")
    write_atomic(tmp_path / "b", write_two)
    assert (tmp_path / "a").read_bytes() == b"one"
    assert (tmp_path / "b").read_text() == "two"
    assert names(tmp_path) == ["a", "b"]


def test_new_files_follow_the_umask_and_old_ones_keep_their_mode(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_atomic(tmp_path / "new", b"x")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "new").chmod(0o640)
    write_atomic(tmp_path / "new", b"y")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    with pytest.raises(error):
        write_atomic(target, fail)
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("where", ["write", "fsync", "rename"])
def test_machine_faults_become_storage_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, where: str
) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    if where == "write":
        data = fail
    else:
        data = b"new"
        monkeypatch.setattr(*((os, "fsync") if where == "fsync" else (Path, "replace")), fail)
    with pytest.raises(StorageError) as caught:
        write_atomic(target, data)
    assert caught.value.why == f"{os.strerror(number)}."
    assert caught.value.fix
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_real_size_limit_ends_as_storage_error(tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes the kernel itself refuse the write (EFBIG)."""
    code = f"""
        import resource, signal, sys
        from rsc.errors import StorageError
        from rsc.files import write_atomic
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        try:
            write_atomic({str(tmp_path / "a")!r}, bytes(5000))
        except StorageError as error:
            sys.exit(42)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], timeout=60)
    assert run.returncode == 42
    assert names(tmp_path) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


@pytest.mark.parametrize(
    ("path", "fix"),
    [("absent/a", "Create the folder"), ("file/a", "parents are folders"), ("n" * 300, "shorter name")],
)
def test_paths_that_cannot_be(tmp_path: Path, path: str, fix: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError) as caught:
        write_atomic(tmp_path / path, b"x")
    assert fix in caught.value.fix
    assert names(tmp_path) == ["file"]


def test_devices_and_folders_are_not_replaced_by_files(tmp_path: Path) -> None:
    for path in (Path("/dev/null"), tmp_path):
        with pytest.raises(StorageError, match="not a regular file"):
            write_atomic(path, b"x")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StorageError, match="not a folder"), atomic_folder(tmp_path / "file"):
        pass
    with pytest.raises(StorageError):
        write_atomic("a\0b", b"x")


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "run"
    with atomic_folder(target) as folder:
        (folder / "a").write_bytes(b"1")
        assert not target.exists()
    assert names(target) == ["a"]
    with pytest.raises(KeyboardInterrupt):
        replace_but_fail(target, KeyboardInterrupt())
    with pytest.raises(StorageError):
        replace_but_fail(target, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(FileNotFoundError):
        replace_but_fail(target, FileNotFoundError(errno.ENOENT, "the caller's own"))
    assert names(target) == ["a"]
    with atomic_folder(target) as folder:
        (folder / "c").write_bytes(b"3")
    assert names(target) == ["c"]
    assert names(tmp_path) == ["run"]


def test_a_folder_is_replaced_by_two_renames_where_exchange_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    for name in "ab":
        with atomic_folder(tmp_path / "run") as folder:
            (folder / name).write_bytes(b"")
    assert names(tmp_path / "run") == ["b"]
    rename = Path.rename

    def fail_on_new(self: Path, target: Path) -> Path:
        if self.name == "content":
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_on_new)
    with pytest.raises(StorageError), atomic_folder(tmp_path / "run"):
        pass
    assert names(tmp_path / "run") == ["b"]
    assert names(tmp_path) == ["run"]


def test_leftovers_of_a_killed_writer_are_removed_and_those_of_a_living_one_are_not(tmp_path: Path) -> None:
    code = f"""
        import sys, time
        from rsc.files import write_atomic
        def slow(path):
            path.write_bytes(b"half")
            print("ready", flush=True)
            time.sleep(600)
        write_atomic({str(tmp_path / "a")!r}, slow)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        write_atomic(tmp_path / "a", b"mine")
        assert len(names(tmp_path)) == 2
        child.send_signal(signal.SIGKILL)
        child.wait()
    write_atomic(tmp_path / "other", b"x")
    assert len(names(tmp_path)) == 3
    write_atomic(tmp_path / "a", b"again")
    assert names(tmp_path) == ["a", "other"]


def test_a_folder_moved_away_by_a_killed_writer_comes_back(tmp_path: Path) -> None:
    target = tmp_path / "run"
    leftover = tmp_path / f"{files._prefix(target)}0123456789abcdef.tmp"
    (leftover / "previous").mkdir(parents=True)
    (leftover / "previous" / "old").write_bytes(b"")
    with pytest.raises(ZeroDivisionError), atomic_folder(target):
        raise ZeroDivisionError
    assert names(target) == ["old"]
    assert names(tmp_path) == ["run"]


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
