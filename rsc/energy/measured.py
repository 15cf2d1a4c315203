"""Energy that counters of this machine show: NVML on NVIDIA GPUs, RAPL on CPUs. Nothing is estimated here.

A counter counts a whole device or package with everything that runs on it, so idle power is inside, and is
given beside it.
"""

from __future__ import annotations

import dataclasses
import importlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rsc.energy.results import MeasuredEnergy
from rsc.errors import UsageError

POWERCAP = Path("/sys/class/powercap")
IDLE_S = 0.5


@dataclasses.dataclass(frozen=True)
class Meter:
    """One energy counter.

    Fields:
        name, domain: "RAPL" or "NVML", and what it counts.
        read: joules so far.
        span: joules after which the counter starts again at 0; None if it does not.
    """

    name: str
    domain: str
    read: Callable[[], float]
    span: float | None = None

    def since(self, before: float, now: float) -> float:
        """Joules between two readings, with at most one wrap of the counter between them."""
        return now - before + (self.span if self.span is not None and now < before else 0.0)


def meters(powercap: Path = POWERCAP, nvml: Any = None) -> tuple[tuple[Meter, ...], tuple[str, ...]]:
    """The counters that can be read here, and why the others cannot.

    Args:
        powercap: folder of the kernel's power capping tree.
        nvml: the module `pynvml`; None imports it.
    """
    found, reasons = [], []
    for probe in (lambda: _rapl(powercap), lambda: _nvml(nvml)):
        some, why = probe()
        found += some
        reasons += why
    return tuple(found), tuple(reasons)


def measure(
    run: Callable[[], int],
    seconds: float,
    counters: Sequence[Meter],
    idle_s: float = IDLE_S,
) -> tuple[tuple[MeasuredEnergy, ...], tuple[str, ...]]:
    """Repeat `run` and read the counters.

    Args:
        run: does some passes and returns their number.
        seconds: least duration; counters are updated every 1 to 100 ms, so take seconds.
        idle_s: how long the idle power is watched before.

    Returns:
        one row per counter that moved, and what did not.

    Raises:
        UsageError: a duration that is not positive.
    """
    if not seconds > 0:
        raise UsageError(f"Measure {seconds} seconds?", "A duration is above 0.", "Take 2 or more.")
    if not counters:
        return (), ()
    idle, idle_time = _over(counters, lambda: time.sleep(idle_s))
    passes, spent = 0, [0.0] * len(counters)
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        done: list[int] = []
        more, _ = _over(counters, lambda: done.append(run()))  # noqa: B023  # called before the next turn
        passes += done[0]
        spent = [a + b for a, b in zip(spent, more, strict=True)]
    wall = time.perf_counter() - start
    rows, still = [], []
    for meter, joules, waited in zip(counters, spent, idle, strict=True):
        if joules <= 0:
            still.append(f"{meter.name} {meter.domain}: the counter did not move within {wall:.1f} s.")
            continue
        each = joules / passes * 1e9
        rows.append(MeasuredEnergy(meter.name, meter.domain, joules, wall, passes, each, waited / idle_time))
    return tuple(rows), tuple(still)


def _over(counters: Sequence[Meter], work: Callable[[], object]) -> tuple[list[float], float]:
    """Joules of every counter and seconds while `work` ran."""
    before, start = [m.read() for m in counters], time.perf_counter()
    work()
    wall = time.perf_counter() - start
    return [m.since(b, m.read()) for m, b in zip(counters, before, strict=True)], wall


def _rapl(powercap: Path) -> tuple[list[Meter], list[str]]:
    """Packages, and memory, which they do not contain; parts of packages are left out."""
    found, reasons = [], []
    for zone in sorted(powercap.glob("*-rapl:*")) if powercap.is_dir() else []:
        try:
            name = (zone / "name").read_text().strip()
            if zone.name.count(":") > 1 and name != "dram":
                continue
            span = int((zone / "max_energy_range_uj").read_text()) / 1e6
            meter = Meter("RAPL", f"{name} ({zone.name})", _reader(zone / "energy_uj"), span)
            meter.read()
            found.append(meter)
        except (OSError, ValueError) as error:
            reasons.append(f"RAPL {zone.name}: not readable ({error.__class__.__name__}: {error}).")
    if not found and not reasons:
        reasons.append(f"RAPL: {powercap} holds no energy counters (virtual machines usually hide them).")
    return found, reasons


def _reader(path: Path) -> Callable[[], float]:
    return lambda: int(path.read_text()) / 1e6


def _nvml(module: Any) -> tuple[list[Meter], list[str]]:
    try:
        nvml = module or importlib.import_module("pynvml")
        nvml.nvmlInit()
    except ImportError:
        return [], ["NVML: the module pynvml is not installed (package nvidia-ml-py)."]
    except Exception as error:  # its own exception type, known only once it is imported
        return [], [f"NVML: {error}."]
    found, reasons = [], []
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        name = nvml.nvmlDeviceGetName(handle)
        label = f"{name.decode() if isinstance(name, bytes) else name} (GPU {index})"
        meter = Meter("NVML", label, _joules(nvml, handle))
        try:
            meter.read()
            found.append(meter)
        except Exception as error:
            reasons.append(f"NVML {label}: no energy counter ({error}).")
    return found, reasons or ([] if found else ["NVML: there is no GPU."])


def _joules(nvml: Any, handle: Any) -> Callable[[], float]:
    return lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
