"""The verb `rsc verify`."""

# pyright: reportInvalidTypeForm=false
# (verbs have parameters called `json`, as their options are)

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from rsc.console import emit, progress, reported, show
from rsc.feeding import Flat, Images, Reading

if TYPE_CHECKING:
    from rsc.robustness.verify_results import VerifyReport


def verify(
    program: Annotated[Positional[Path], arg(metavar="PROGRAM", help="bundle folder or .nir file")],
    on: Literal["loihi", "lava"] = "loihi",
    eps: str = "1/255,2/255,4/255,8/255",
    draws: int = 100,
    select: int = 100,
    alpha: float = 0.001,
    refine: float = 0.0,
    images: Flat[Images] = Images(most=100),
    state: Path | None = None,
    report: Path | None = None,
    json: bool = False,
) -> None:
    """Prove L_inf balls for the deployed integers: bounds of every neuron for all images of a ball.

    Args:
        on: whose integers; both targets run the same ones, bit by bit. Floating point is not verified.
        eps: L_inf radii, comma separated, e.g. 1/255,8/255 (pixel units).
        draws: noise draws per image; one without noise.
        select: further draws that choose the class.
        alpha: allowed probability of a false certificate, per image.
        refine: seconds of branch and bound for every ball that the bounds leave open.
        state: file that keeps finished images; the same command goes on with it.
        report: folder whose report (report.html, .md, .json) takes the result in, beside earlier ones.
        json: print the report as JSON.
    """
    from rsc.robustness.verify import VerifyPlan
    from rsc.robustness.verify import verify as run

    loaded = Reading().program(program)
    data = images.material(program).perturbable(loaded)
    radii = tuple(part.strip() for part in eps.split(","))
    plan = VerifyPlan(radii, draws, select, alpha, images.seed, refine, on)
    with progress() as listener:
        found = run(
            loaded,
            data.images,
            data.targets,
            plan,
            samples=data.ids,
            name=program.resolve().stem,
            state=state,
            listener=listener,
        )
    if report is not None:
        reported(report, [found])
    emit(found) if json else show(*report_lines(found))


def report_lines(report: VerifyReport) -> Sequence[Any]:
    """A report as a table and sentences."""
    from rich.table import Table
    from rich.text import Text

    sampled = report.alpha > 0
    columns = {"per run": "per_run", "certified": "certified"}
    if sampled:
        columns |= {"by noise": "by_noise", "either": "either", "majority": "majority"}
    table = Table("eps", *columns, "refuted", "never fire", "always", "undecided")
    for row in report.rows:
        cells = [_share(getattr(row, field), row.intervals[field]) for field in columns.values()]
        refuted = f"{row.refuted:.1%}" if report.refine_s else "not sought"
        counts = (f"{getattr(row, name):.1%}" for name in ("never", "always", "unstable"))
        table.add_row(row.eps_text, *cells, refuted, *counts)
    clean = report.clean
    lines = [
        f"{report.model} on {report.target}: {clean.n} images x {report.draws} draws, clean accuracy "
        f"{_share(clean.value, clean.interval)}; {report.boxes:,} balls in {report.wall_s:.1f} s.",
        report.guarantee,
    ]
    if sampled:
        lines.append(f"Expected false certificates: {report.expected_false:.2g} of {clean.n}.")
    return [table, *map(Text, lines)]


def _share(value: float, interval: Any) -> str:
    return f"{value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
