"""The verbs of the command line that speak of chips and of Lava's environment."""

# pyright: reportInvalidTypeForm=false
# (verbs have parameters called `json` and `input`, as their options are)

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from rsc.console import core_lines, emit, lava_line, progress, selftest_lines, show
from rsc.errors import GateFailed
from rsc.feeding import Feed, Flat, Reading


def place(
    program: Annotated[Positional[Path], arg(metavar="PROGRAM")],
    chip: Literal["loihi1", "loihi2"] = "loihi2",
    feed: Flat[Feed] = Feed(most=16),
    reading: Flat[Reading] = Reading(),
    traffic: bool = False,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Put the neurons of a program on the cores of a chip; exit 1 if they do not fit.

    Args:
        chip: whose limits; what is public of Loihi 2 is little, see docs/placement.md.
        traffic: run the images or frames on target loihi and count messages between cores.
        out: write a drawing (.svg).
        json: print the placement as JSON.
    """
    from rsc.commands import placed
    from rsc.export.placement_drawing import drawing
    from rsc.files import write_atomic

    loaded = reading.program(program)
    placement, moved = placed(loaded, chip, feed.material(program) if traffic else None, feed.seed)
    if out is not None:
        write_atomic(out, drawing(placement, moved).encode())
    emit(placement) if json else show(*core_lines(placement, moved))
    if not placement.fits:
        worst = next(issue for issue in placement.issues if issue.severity == "error")
        raise GateFailed(f"The program does not fit {placement.title}.", worst.what, worst.fix)


def lava(action: Positional[Literal["install", "status", "selftest", "remove"]], json: bool = False) -> None:
    """Install, inspect, test (Lava's own tests, some minutes) or remove what the lava target runs in."""
    from rsc.hw_targets import lava_env, lava_selftest

    if action == "selftest":
        with progress() as listener:
            record = lava_selftest.selftest(progress=listener)
        emit(record) if json else show(*selftest_lines(record))
        lava_selftest.require(record)
        return
    with progress() as listener:
        if action == "install":
            listener.stage("installing the Lava environment")
            status = lava_env.install()
        elif action == "remove":
            lava_env.remove()
            status = lava_env.status()
        else:
            status = lava_env.status()
    emit(status) if json else show(lava_line(status))
