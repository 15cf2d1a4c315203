"""How the command line shows things: tables and results on stdout, progress and errors on stderr.

On a terminal progress is a bar with the remaining time; in a log it is one line per stage.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rsc.errors import RscError


def emit(value: Any) -> None:
    """A result as JSON on stdout, the same value that a report holds."""
    import msgspec

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def show(*renderables: Any) -> None:
    """Tables and text on stdout."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 160)
    for item in renderables:
        console.print(item, markup=False, highlight=False)


def show_part(**sections: Any) -> None:
    """Some sections of a report as tables."""
    from rsc.report import Report, terminal_tables, utc_now

    show(*terminal_tables(Report(title="", created=utc_now(), **sections)))


def reported(folder: Any, found: Sequence[Any]) -> None:
    """Results as a part of the report of a folder."""
    import torch

    from rsc.report.add import add_to_report

    words = sys.argv[1:] if sys.argv[0].endswith("rsc") else ()  # else somebody else's program
    add_to_report(folder, found, words, torch.get_num_threads())
    sys.stderr.write(f"Report: {folder / 'report.html'} (also .md and .json)\n")


def lava_line(status: Any) -> str:
    """State of the Lava environment in one line."""
    if not status.available:
        return f"Lava is not available: {status.reason} {status.fix}"
    versions = ", ".join(f"{name} {version}" for name, version in status.versions.items())
    return f"Lava is available: {status.python} ({versions}{', import shim' if status.shim else ''})"


def selftest_lines(record: Any) -> list[Any]:
    """Lava's own tests: a table by area, what failed, and where the record lies."""
    from rich.table import Table
    from rich.text import Text

    from rsc.hw_targets.lava_selftest import areas

    counts = ("passed", "failed", "skipped", "errors")
    table = Table("area", "outcome")
    for name in (*counts, "seconds"):
        table.add_column(name, justify="right")
    for row in (*areas(record.files), record.total):
        numbers = (str(getattr(row, name)) for name in counts)
        table.add_row(row.file, row.outcome, *numbers, f"{row.seconds:.1f}")
    lines: list[Any] = [table]
    for head, failures in (("failed", record.total.failures), ("at first", record.total.first_failures)):
        lines += [Text(f"{head}: {f.test}: {f.why}") for f in failures]
    lines += [Text(f"left out: {file}: {why}") for file, why in record.left_out.items()]
    return [*lines, Text(f"Record: {record.path}")]


def run_line(row: Any) -> str:
    """One run in one line."""
    accuracy = f", accuracy {row.accuracy.value:.3f}" if row.accuracy else ""
    speed = f"{row.wall_s:.2f} s, {row.ms_per_image:.2f} ms per image" if row.wall_s is not None else ""
    return f"{row.spec} ({row.arithmetic}, {row.version}): {row.n} images{accuracy}, {speed}"


def finding_lines(findings: Sequence[Any]) -> list[Any]:
    """Findings of `rsc lint`; as rich Text, since node names come from files."""
    from rich.text import Text

    colour = {"error": "bold red", "warning": "yellow", "info": "dim"}
    lines = []
    for f in findings:
        where = " ".join(part for part in (f.rule, f.target, f.node) if part)
        lines.append(Text(f"{f.severity:8}", style=colour[f.severity]) + Text(where, style="bold"))
        lines.append(Text(f"        {f.what} {f.why}\n        {f.fix}"))
    counted = (f"{sum(f.severity == s for f in findings)} {s}" for s in colour)
    return [*lines, Text(", ".join(counted))]


def calibration_lines(rows: Sequence[Any]) -> list[Any]:
    """What calibration did to each layer, as a table; nothing if there was none."""
    from rich.table import Table

    if not rows:
        return []
    table = Table("layer", "scale", "before", "keeps", "clipped", "reach", "saturated", "spikes differ")
    for row in rows:
        differ = "" if row.disagreement is None else f"{row.disagreement:.3%}"
        cells = (f"{row.scale:.4g}", f"{row.before:.4g}", f"{row.keep:.0%}", str(row.clipped))
        table.add_row(row.layer, *cells, f"{row.reach:.0%}", str(row.saturations), differ)
    return [table]


def core_lines(placement: Any, traffic: Any = None) -> list[Any]:
    """Layers of a placement, how full its cores are, and what does not fit."""
    from rich.table import Table

    table = Table("layer", "neurons", "cores", "synapses", "bits", "largest fan-in", "largest fan-out")
    for layer in placement.layers:
        numbers = (layer.neurons, layer.cores, layer.synapses, layer.weight_bits)
        table.add_row(layer.name, *map(str, (*numbers, layer.fan_in_max, layer.fan_out_max)))
    said = f"{placement.title}: {_number(len(placement.cores), 'core')} on {_number(placement.chips, 'chip')}"
    if placement.cores:
        core = max(placement.cores, key=lambda c: c.fullest[1])
        limit, share = core.fullest
        said += f"; the fullest is core {core.core} of chip {core.chip} ({limit} {share:.0%})"
    lines = [table, f"{said}."]
    if placement.unknown:
        lines.append(f"Not public and not checked: {', '.join(placement.unknown)}.")
    if traffic is not None:
        busy = traffic.largest
        lines.append(
            f"{int(traffic.total.sum())} messages in {traffic.samples} samples"
            + ("." if busy is None else f"; most, {busy[2]}, from core {busy[0]} to core {busy[1]}.")
        )
    return lines + [
        f"{i.severity}: {i.node + ': ' if i.node else ''}{i.what} {i.fix}" for i in placement.issues
    ]


def _number(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def complain(error: RscError) -> None:
    """An error on stderr: what, why, what to do."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True)
    console.print(Text("error: ", style="bold red") + Text(error.what))
    for part in (error.why, error.fix):
        if part:
            console.print(Text(f"  {part}"))


def unforeseen(error: Exception) -> RscError:
    """The error that stands for one that nobody raised on purpose."""
    if isinstance(error, MemoryError):
        return RscError(
            "There is not enough memory.", f"{error}".strip(), "Use fewer samples or steps (--n)."
        )
    text = " ".join(str(error).split())[:300]
    return RscError(
        "Something went wrong that should not.",
        f"{type(error).__name__}: {text}",
        "This is a defect: please report it with what RSC_TRACEBACK=1 prints.",
    )


def warn_plainly() -> None:
    """Show this package's warnings on stderr as one sentence each, without file and line."""
    import warnings

    warnings.filterwarnings("default", category=UserWarning, module=r"rsc\.")
    before = warnings.showwarning

    def showing(message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> None:
        if category is UserWarning and "rsc" in filename.split("/"):
            sys.stderr.write(f"warning: {message}\n")
        else:
            before(message, category, filename, *rest)

    warnings.showwarning = showing


class _Bar:
    def __init__(self, bars: Any) -> None:
        self.bars, self.task = bars, None

    def stage(self, what: str) -> None:
        if self.task is not None:
            self.bars.update(self.task, completed=self.bars.tasks[self.task].total or 1)
        self.task = self.bars.add_task(what, total=None)

    def advance(self, done: int, total: int) -> None:
        if self.task is not None:
            self.bars.update(self.task, completed=done, total=total)


class _Log:
    def stage(self, what: str) -> None:
        sys.stderr.write(f"{what}\n")
        sys.stderr.flush()

    def advance(self, done: int, total: int) -> None:
        """A log stays quiet between stages."""


@contextlib.contextmanager
def progress() -> Iterator[Any]:
    """A listener for long work: bars on a terminal, one line per stage elsewhere."""
    if not sys.stderr.isatty():
        yield _Log()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield _Bar(bars)
