"""The environment Lava runs in: a virtual environment of its own, made once per user.

lava-nc 0.10.0 declares Python 3.10 only and pins old numpy and networkx versions, so it shares no
environment with anything else. It is installed without its pins beside versions it was checked
with, and the worker patches the two lines that newer Python and numpy refuse. `RSC_LAVA_PYTHON`,
the path of an interpreter that can import lava (from its own site-packages), takes precedence.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rsc.errors import RscError, StorageError, TargetFault, TargetUnavailable
from rsc.hw_targets.isolate import Budget, private_folder, run
from rsc.hw_targets.lava_job import WORKER, JobOptions, Recording, execute
from rsc.layered import Connection, Layer, LayeredProgram, Source

VARIABLE = "RSC_LAVA_PYTHON"
LAVA = "lava-nc==0.10.0"
PINS = {
    "3.10": ("numpy==1.26.4", "scipy==1.13.1", "networkx==2.8.7", "asteval==1.0.5"),
    "3.11": ("numpy==2.4.6", "scipy==1.17.1", "networkx==3.6.1", "asteval==1.0.10"),
}
PINS |= {"3.12": PINS["3.11"], "3.13": PINS["3.11"]}
MARKER = "rsc-env.json"
INSTALL = "Run `rsc lava install`."
LOCK_WAIT_S = 900.0
STEP_S = 900.0
NETWORK_VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "ssl_cert_file", "ssl_cert_dir")
NETWORK_VARIABLES += ("requests_ca_bundle", "curl_ca_bundle", "xdg_config_home", "xdg_cache_home", "netrc")

Progress = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class EnvStatus:
    """Whether Lava can run here, and on what.

    Fields:
        available: it can.
        python: the interpreter, or None.
        versions: of python, lava-nc, numpy, scipy.
        shim: the worker patches lava-nc at import (Python >= 3.11).
        loihi: Intel's Loihi 2 extension is installed.
        source: "variable" (RSC_LAVA_PYTHON), "cache" (made by `install`) or "".
        digest: SHA-256 of the list of installed packages ("cache" only).
        reason, fix: why not, and what to do.
    """

    available: bool
    python: Path | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    shim: bool = False
    loihi: bool = False
    source: Literal["", "variable", "cache"] = ""
    digest: str = ""
    reason: str = ""
    fix: str = ""


def status() -> EnvStatus:
    """What there is; quick, changes nothing, never raises."""
    named = os.environ.get(VARIABLE)
    if named:
        return _named_status(named)
    try:
        folder = _folder()
    except RuntimeError as error:
        return EnvStatus(False, reason=f"There is no home folder ({error}).", fix="Set XDG_CACHE_HOME.")
    try:
        marker = json.loads((folder / MARKER).read_text())
        found = EnvStatus(True, _python(folder), source="cache", **marker)
    except FileNotFoundError:
        return EnvStatus(False, reason="Lava is not installed.", fix=INSTALL)
    except (OSError, ValueError, TypeError) as error:
        why = f"The Lava environment {folder} is damaged ({error})."
        return EnvStatus(False, reason=why, fix="Run `rsc lava remove`, then `rsc lava install`.")
    if not _python(folder).exists():
        why = f"The Python that the Lava environment {folder} was made with is gone."
        return EnvStatus(False, reason=why, fix="Run `rsc lava remove`, then `rsc lava install`.")
    return found


def install(python: str | Path | None = None, progress: Progress | None = None) -> EnvStatus:
    """Make the environment unless there is one; safe to call from several processes at once.

    Args:
        python: the interpreter to make it with (3.10 to 3.13); default: the running one.
        progress: told what happens, one line at a time.

    Raises:
        TargetUnavailable: this Python is not supported, or a package cannot be had.
        TargetFault: Lava installed but computes something wrong, or a step ran out of time.
        StorageError: the cache folder cannot be written.
    """
    say = progress or (lambda line: None)
    found = status()
    if found.available and python is None:
        return found
    if os.environ.get(VARIABLE):
        raise TargetUnavailable(f"{VARIABLE} is set, but unusable.", found.reason, found.fix)
    interpreter = str(python or sys.executable)
    version = _version(sys.version_info) if python is None else _asked_version(interpreter)
    if version not in PINS:
        raise TargetUnavailable(
            f"lava-nc is not known to work on Python {version}.",
            f"Checked versions: {', '.join(PINS)}.",
            f"Run under one of them, or set {VARIABLE} to an interpreter that can import lava.",
        )
    folder = _folder()
    with _locked():
        found = status()
        if not found.available or python is not None:
            _make(folder, interpreter, version, say)
    return status()


def remove() -> list[Path]:
    """Delete every environment that `install` made; gives the folders deleted.

    Raises:
        StorageError: one cannot be deleted.
    """
    if not _root().is_dir():
        return []
    with _locked():
        folders = sorted(p for p in _root().glob("lava-*") if p.is_dir())
        for folder in folders:
            _storage(shutil.rmtree, folder)
    return folders


def _make(folder: Path, interpreter: str, version: str, say: Progress) -> None:
    """Build beside the final place and move there when it works; only `python -m` survives the move."""
    for stale in _root().glob("lava-*.building-*"):
        shutil.rmtree(stale, ignore_errors=True)
    building = folder.with_name(f"{folder.name}.building-{secrets.token_hex(4)}")
    try:
        say(f"Creating a virtual environment (Python {version})")
        _step([interpreter, "-m", "venv", str(building)], "create the virtual environment")
        pip = [str(_python(building)), "-I", "-m", "pip", "--no-input", "--disable-pip-version-check"]
        install = [*pip, "install", "--only-binary=:all:"]
        say(f"Installing {', '.join(PINS[version])}")
        _step([*install, *PINS[version]], "install numpy and scipy")
        say(f"Installing {LAVA}")
        _step([*install, "--ignore-requires-python", "--no-deps", LAVA], "install lava-nc")
        say("Checking that Lava computes what it should")
        marker = _probe(str(_python(building)))
        smoke(_python(building))
        marker["digest"] = hashlib.sha256(_step([*pip, "freeze"], "list the packages").encode()).hexdigest()
        _storage((building / MARKER).write_text, json.dumps(marker, indent=1))
        if folder.exists():
            _storage(shutil.rmtree, folder)
        _storage(os.replace, building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def smoke(python: Path) -> None:
    """One neuron, three spikes of weight 10 against a threshold of 25, worked out by hand.

    Raises:
        TargetFault: the worker fails or Lava's numbers differ.
    """
    weight = np.array([[10]], np.int32)
    layer = Layer(
        "lif", (1,), (Connection("input", "dense", weight, (1,)),), 4095, 163, 25, np.zeros(1, np.int32)
    )
    layered = LayeredProgram("integer", (layer,), (Source("input", (1,), 1.0, 1),), (("output", ("lif",)),))
    recording = Recording(True, frozenset({"lif"}), (("lif", ("u", "v")),))
    spikes = np.array([1, 1, 1, 0], np.int32).reshape(4, 1, 1)
    found = execute(python, layered, {"input": spikes}, recording, JobOptions(wall_s=120))
    v, fired = found["lif.v"].ravel().tolist(), found["lif.raster"].ravel().tolist()
    if v != [640, 1254, 0, 0] or fired != [False, False, True, False]:
        raise TargetFault(
            "Lava computes something else than expected.", f"v = {v}, spikes = {fired}.", INSTALL
        )


def _step(command: list[str], what: str) -> str:
    """Run one step of the installation; its output."""
    network = {k: v for k, v in os.environ.items() if k.lower() in NETWORK_VARIABLES or k.startswith("PIP_")}
    try:
        with private_folder("rsc-lava-install-") as folder:
            return run(command, folder, Budget(STEP_S, 4 << 30), network, "The installer").stdout_tail
    except TargetFault as error:
        if "No space left" in error.why or "Errno 28" in error.why:
            raise StorageError(
                f"Could not {what}.", error.why, "Free some space (about 400 MB are needed)."
            ) from error
        raise TargetUnavailable(
            f"Could not {what}.",
            error.why,
            f"Check pip's configuration and the network, or set {VARIABLE} to an interpreter with lava.",
        ) from error


def _probe(python: str) -> dict[str, Any]:
    with private_folder("rsc-lava-probe-") as folder:
        done = run([python, "-I", str(WORKER), "probe"], folder, Budget(120.0), name="The Lava interpreter")
    return json.loads(done.stdout_tail.strip().splitlines()[-1])


def _named_status(named: str) -> EnvStatus:
    fix = f"Correct {VARIABLE}, or unset it and run `rsc lava install`."
    path = Path(named)
    try:
        found = _cached_probe(named, path.stat().st_mtime_ns)
        return EnvStatus(True, path, source="variable", **found)
    except (OSError, ValueError, TypeError, IndexError, RscError) as error:
        why = f"{VARIABLE} names {named}, which cannot run Lava: {error}"
        return EnvStatus(False, source="variable", reason=why, fix=fix)


@functools.lru_cache(maxsize=8)
def _cached_probe(python: str, changed: int) -> dict[str, Any]:
    """Importing lava takes a second; ask each interpreter once."""
    return _probe(python)


def _asked_version(python: str) -> str:
    question = "import sys; print('%d.%d' % sys.version_info[:2])"
    with private_folder() as folder:
        return run(
            [python, "-I", "-c", question], folder, Budget(30.0), name="That Python"
        ).stdout_tail.strip()


def _version(info: Any) -> str:
    return f"{info[0]}.{info[1]}"


def _root() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rsc-snn"


def _folder() -> Path:
    """One environment for all our Pythons, as the worker runs on its own; other pins, another folder."""
    pins = hashlib.sha256(json.dumps([LAVA, PINS]).encode()).hexdigest()[:8]
    return _root() / f"lava-0.10.0-{pins}"


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """One installer at a time; the lock ends with the process that holds it."""
    import fcntl  # POSIX only; `status` must work everywhere

    _storage(functools.partial(_root().mkdir, parents=True, exist_ok=True))
    deadline = time.monotonic() + LOCK_WAIT_S
    with _storage(open, _root() / "lava.lock", "a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise TargetFault(
                        "Another installation of Lava is still running.", f"It holds {lock.name}.", "End it."
                    ) from error
                time.sleep(0.2)
        yield


def _storage(action: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return action(*arguments)
    except OSError as error:
        raise StorageError(
            "The cache folder of rsc-snn cannot be changed.", str(error), "Free space, or set XDG_CACHE_HOME."
        ) from error
