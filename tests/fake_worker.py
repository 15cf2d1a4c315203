"""A worker that fails on request, to test that nothing of it survives.

    python fake_worker.py FAULT FOLDER

It imports the standard library only.
"""

import os
import signal
import sys
import time
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path

CHILDREN = 3


def hang(folder):
    time.sleep(600)


def crash(folder):
    os.kill(os.getpid(), signal.SIGSEGV)


def killed(folder):
    """As the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def status(folder):
    sys.stderr.write("a first line\nthe disk of the worker is on fire\n")
    sys.exit(7)


def flood(folder):
    """Output without end on both streams."""
    while True:
        os.write(1, b"x" * (1 << 16))
        os.write(2, b"y" * (1 << 16))


def flood_and_end(folder):
    """Ten times the kept tail, then a normal end."""
    for _ in range(10):
        os.write(1, b"x" * (1 << 16))
    os.write(1, b"the end\n")


def stubborn_children(folder):
    """Children, in the group and in sessions of their own, that ignore SIGTERM and keep the pipes open."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for i in range(CHILDREN):
        if os.fork() == 0:
            if i == 0:
                os.setsid()
            time.sleep(600)
    time.sleep(600)


def orphans(folder):
    """The worker ends well and leaves such children behind."""
    for _ in range(CHILDREN):
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
    sys.stdout.write("done\n")


def eat(folder):
    """Memory that is really used, split over children."""
    for _ in range(CHILDREN):
        if os.fork() == 0:
            break
    kept = []
    while True:
        kept.append(b"z" * (16 << 20))
        time.sleep(0.01)


def leak_shared_memory(folder):
    """A shared-memory segment that nobody unlinks, named in the folder; then a hang that ignores SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    segment = shared_memory.SharedMemory(create=True, size=1 << 20)
    resource_tracker.unregister(f"/{segment.name}", "shared_memory")
    Path(sys.argv[3]).write_text(segment.name)
    time.sleep(600)


def half_result(folder):
    """A result file cut off in the middle, and status 0."""
    Path(folder, "result.npz").write_bytes(b"PK\x03\x04half of a zip archive")


def no_result(folder):
    """Nothing at all, and status 0."""


def environment(folder):
    """What the worker sees."""
    sys.stdout.write("\n".join(sorted(os.environ)))


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])
