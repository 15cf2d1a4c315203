"""Energy counters of the machine: read where they are, told why where they are not, never guessed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from rsc.energy.measured import Meter, measure, meters
from rsc.errors import UsageError


def zone(root: Path, folder: str, name: str, energy: str | None, span: int = 1000) -> Path:
    made = root / folder
    made.mkdir(parents=True)
    (made / "name").write_text(f"{name}\n")
    (made / "max_energy_range_uj").write_text(f"{span}\n")
    if energy is not None:
        (made / "energy_uj").write_text(energy)
    return made


def no_gpu() -> SimpleNamespace:
    """NVML where there is no driver."""

    def refuse() -> None:
        raise RuntimeError("Driver Not Loaded")

    return SimpleNamespace(nvmlInit=refuse)


def one_gpu(millijoules: list[int]) -> SimpleNamespace:
    """NVML as its documentation describes it: a total in millijoules."""
    return SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetName=lambda handle: b"Card",
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: millijoules[0],
    )


def test_packages_and_memory_are_read_and_parts_of_packages_are_not(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", "2000000")
    zone(tmp_path, "intel-rapl:0:0", "core", "1")
    zone(tmp_path, "intel-rapl:0:1", "dram", "500000")
    found, reasons = meters(tmp_path, no_gpu())
    assert [(m.name, m.domain) for m in found] == [
        ("RAPL", "package-0 (intel-rapl:0)"),
        ("RAPL", "dram (intel-rapl:0:1)"),
    ]
    assert [m.read() for m in found] == [2.0, 0.5]
    assert reasons == ("NVML: Driver Not Loaded.",)


def test_what_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", None)
    found, reasons = meters(tmp_path, no_gpu())
    assert found == ()
    assert reasons[0].startswith("RAPL intel-rapl:0: not readable (FileNotFoundError")
    _, without = meters(tmp_path / "nothing", no_gpu())
    assert "no energy counters" in without[0]


def test_a_missing_nvml_module_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "not installed" in meters(tmp_path)[1][1]


def test_a_wrap_of_the_counter_is_no_negative_energy(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", "0", span=1_000_000)
    meter = meters(tmp_path, no_gpu())[0][0]
    assert meter.since(0.9, 0.2) == pytest.approx(0.3)
    assert meter.since(0.2, 0.9) == pytest.approx(0.7)


def test_joules_are_shared_out_over_the_passes() -> None:
    total = [0]

    def run() -> int:
        total[0] += 3000
        return 5

    found, reasons = meters(Path("/nowhere"), one_gpu(total))
    assert [m.domain for m in found] == ["Card (GPU 0)"]
    (row,), still = measure(run, 1e-6, found, idle_s=0)
    assert (row.joules, row.passes, row.evidence) == (3.0, 5, "measured")
    assert row.nj_per_pass == pytest.approx(3e9 / 5)
    assert row.idle_w == 0
    assert (still, len(reasons)) == ((), 1)


def test_a_counter_that_stands_still_gives_no_row() -> None:
    rows, still = measure(lambda: 1, 1e-6, (Meter("RAPL", "package-0", lambda: 7.0),), idle_s=0)
    assert rows == ()
    assert "did not move" in still[0]
    assert measure(lambda: 1, 1.0, ()) == ((), ())
    with pytest.raises(UsageError, match="seconds"):
        measure(lambda: 1, 0.0, ())


def test_this_machine_gives_rows_or_reasons() -> None:
    found, reasons = meters()
    assert len(found) + len(reasons) >= 2
    rows, still = measure(lambda: 1, 0.02, found, idle_s=0.01)
    assert len(rows) + len(still) == len(found)
    assert all(row.joules > 0 for row in rows)
