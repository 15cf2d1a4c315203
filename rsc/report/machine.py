"""The machine and the packages, read without importing any of them."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform

from rsc.report.value import Environment

PACKAGES = ("rsc-snn", "torch", "numpy", "nir", "norse", "onnxruntime", "onnx", "scipy", "lava-nc")


def environment(threads: int = 0) -> Environment:
    """This interpreter and machine.

    Args:
        threads: CPU threads of torch, from `torch.get_num_threads()`; 0 if torch is not in use.
    """
    versions = {name: version for name in PACKAGES if (version := _version(name))}
    machine = f"{platform.system()} {platform.machine()}"
    return Environment(platform.python_version(), machine, os.cpu_count() or 0, threads, versions)


def utc_now() -> str:
    """The time in UTC to the second, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
