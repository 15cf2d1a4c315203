"""Time and memory of training and inference of two networks here and in other simulators, on the CPU.

python benchmarks/train.py [--rounds 3] [--steps 3] [--threads 2] [--workloads conv mlp] [--variants rsc ...]

Workloads and check values: train_workloads.py; how each tool is set up: train_networks.py. Every variant runs
in a process of its own in every round, interleaved, so that a change of load hits all alike. Fresh noise is
drawn inside the timing. CPU time is given because it suffers least from a busy machine. Tools of the `peers`
extra come from this environment, or from the interpreter in RSC_PEERS_PYTHON; absent ones are listed. Norse
and snnTorch cannot detach the gradient through the reset: compare their training with our row that keeps it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro
from train_networks import PEERS, VARIANTS
from train_workloads import WORKLOADS, Workload

from rsc.errors import unknown_name

WORKER = Path(__file__).with_name("train_worker.py")
OURS = ("rsc", "torch")  # tools that are not peers
CHILD_S = 300  # one round of one variant


@dataclasses.dataclass
class Options:
    """What is timed."""

    rounds: int = 3
    steps: int = 3
    threads: int = 2
    workloads: tuple[str, ...] = ("conv", "mlp")
    modes: tuple[str, ...] = ("infer", "train")
    variants: Annotated[tuple[str, ...], tyro.conf.arg(help="all if empty")] = ()
    json: bool = False


@dataclasses.dataclass
class Row:
    """One variant in one workload and mode: milliseconds, MB, or why there are none."""

    workload: str
    mode: str
    variant: str
    value: float = float("nan")
    expected: tuple[float, ...] = ()
    gradient: float | None = None
    wall: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)
    peak: list[float] = dataclasses.field(default_factory=list)
    missing: str = ""

    @property
    def right(self) -> bool:
        """Whether the first step gave a check value."""
        return any(abs(self.value - value) < 2e-5 for value in self.expected)

    def take(self, found: dict[str, Any]) -> None:
        """Add one round."""
        self.missing = found.get("missing", "")
        if not self.missing:
            self.value, self.gradient = found["value"], found["gradient"]
            self.wall += found["wall"]
            self.cpu += found["cpu"]
            self.peak.append(found["peak"])


def run(row: Row, options: Options) -> dict[str, Any]:
    """One round of one variant, in its own process."""
    peer = VARIANTS[row.variant].tool not in OURS
    python = os.environ.get("RSC_PEERS_PYTHON", sys.executable) if peer else sys.executable
    numbers = str(options.steps * (10 if row.workload == "mlp" else 1)), str(options.threads)
    try:
        done = subprocess.run(
            [python, str(WORKER), row.variant, row.workload, row.mode, *numbers],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_WAIT_POLICY": "passive"},
            check=False,
            timeout=CHILD_S,
        )
    except subprocess.TimeoutExpired:
        return {"missing": f"no result after {CHILD_S} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {"missing": lines[-1][:160]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def expected(workload: Workload, mode: str, variant: str) -> tuple[float, ...]:
    """The check values of a row, in both layouts: one thread may add in the order of the other."""
    if mode == "train":
        return (workload.loss,)
    return tuple(workload.logits[VARIANTS[variant].comparison, last] for last in (False, True))


def rows(options: Options) -> list[Row]:
    """All rows, without times; layouts of convolutions only where there are any."""
    for name in [*options.workloads, *options.variants]:
        if name not in (*WORKLOADS, *VARIANTS):
            raise SystemExit(str(unknown_name("workload or variant", name, [*WORKLOADS, *VARIANTS])))
    return [
        Row(w, mode, v, expected=expected(WORKLOADS[w], mode, v))
        for w in options.workloads
        for mode in options.modes
        for v in options.variants or VARIANTS
        if w == "conv" or "channels_last" not in v
    ]


def show(table: list[Row]) -> None:
    """One workload and mode as a table; ratios are to the peer that is fastest as shipped."""
    print(f"\n{table[0].workload}, {table[0].mode}")
    print(f"{'variant':40}{'wall':>8}{'CPU':>8}{'min CPU':>9}{'peak MB':>9}{'x peer':>8}{'x CPU':>8}  check")
    timed = [row for row in table if row.wall]
    peers = [row for row in timed if row.variant in PEERS]
    for row in sorted(timed, key=lambda row: statistics.median(row.cpu)):
        wall, cpu = statistics.median(row.wall), statistics.median(row.cpu)
        ratios = [min((statistics.median(getattr(p, k)) for p in peers), default=0) for k in ("wall", "cpu")]
        check = f"{row.value:.5f}" + ("" if row.right else f" (expected {row.expected[0]:.5f})")
        norm = "" if row.gradient is None else f", |grad| {row.gradient:.3f}"
        print(
            f"{row.variant:40}{wall:8.1f}{cpu:8.1f}{min(row.cpu):9.1f}{statistics.median(row.peak):9.0f}"
            f"{ratios[0] / wall:8.2f}{ratios[1] / cpu:8.2f}  {check}{norm}"
        )
    for row in table:
        if row.missing:
            print(f"{row.variant:40} not run: {row.missing}")


def main(options: Options) -> None:
    """Time and print."""
    table = rows(options)
    load = [os.getloadavg()[0]]
    for _ in range(options.rounds):
        for row in table:
            row.take(run(row, options))
        load.append(os.getloadavg()[0])
    if options.json:
        print(json.dumps([dataclasses.asdict(row) for row in table], indent=2))
        return
    for w in options.workloads:
        for mode in options.modes:
            show([row for row in table if (row.workload, row.mode) == (w, mode)])
    print(f"\nLoad average (1 min) before and after each round: {', '.join(f'{x:.1f}' for x in load)}")


if __name__ == "__main__":
    main(tyro.cli(Options))
