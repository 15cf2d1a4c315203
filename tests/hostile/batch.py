"""Run the reading process on many files: one fork per file instead of one interpreter per file.

Usage: batch.py <hdf5_child.py> <max_bytes> <address_space> <seconds>, then on standard input one line
"<file>\t<answer>" per job; on standard output one exit status per job (as subprocess: -n for signal n),
at the end the peak resident memory of all jobs in KiB.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import sys

import h5py  # noqa: F401  (loaded once, before the forks)


def main() -> None:
    script, *limits = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("child", script)
    if spec is None or spec.loader is None:
        raise SystemExit(f"no module {script}")
    child = importlib.util.module_from_spec(spec)
    sys.modules["child"] = child
    spec.loader.exec_module(child)
    for line in sys.stdin:
        source, answer = line.rstrip("\n").split("\t")
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(source, os.O_RDONLY), 0)
            os.dup2(os.open(answer, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 1)
            status = 1
            try:
                child.main(*(int(v) for v in limits))
                status = 0
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        sys.stdout.write(f"{status}\n")
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss}\n")


main()
