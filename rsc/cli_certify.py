"""The verb `rsc certify`."""

# pyright: reportInvalidTypeForm=false
# (verbs have parameters called `json`, as their options are)

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from rsc.console import emit, progress, reported, show
from rsc.feeding import Flat, Images, Reading

if TYPE_CHECKING:
    from rsc.robustness.results import CertifyReport

_NORMS = {"l2": "L2", "l1": "L1", "linf": "L_inf"}


def certify(
    program: Annotated[Positional[Path], arg(metavar="PROGRAM", help="bundle folder or .nir file")],
    on: str = "torch",
    twin: str | None = None,
    draws: int = 1000,
    select: int = 100,
    paired: int = 1000,
    alpha: float = 0.001,
    together: bool = False,
    radii: str = "0,0.05,0.1,0.15,0.2,0.25,0.3",
    vote: int = 0,
    grid: int | None = None,
    levels: int | None = None,
    noise: Literal["keyed", "generator"] = "keyed",
    state: Path | None = None,
    chunk: int = 1024,
    batch: int | None = None,
    report: Path | None = None,
    images: Flat[Images] = Images(most=100),
    json: bool = False,
) -> None:
    """Certify radii of the voted classifier: L2 for Gaussian encoders, L1 for coins.

    With --state the work goes on after a kill, and several processes share it: torchrun --nproc-per-node 8
    --no-python -- rsc certify ... --state FOLDER. All numbers of draws are fixed beforehand.

    Args:
        on: target whose predictions are certified.
        twin: a faster target that draws in its place; --paired draws bound how often they disagree.
        draws: noise draws per image for the estimate.
        select: draws that choose the class.
        paired: draws on twin and target.
        alpha: allowed probability of a false certificate, per image.
        together: alpha is for all images at once (alpha / n each).
        radii: to report, comma separated, in pixel units, of the norm of the encoder's certificate.
        vote: also vote with so many runs per image, abstaining where they cannot tell.
        grid: put the encoder on so many levels per unit: certificates without floating point.
        levels: levels per unit of the images, for coins of few bits.
        noise: keyed, the same on all targets; generator, the device's own (torch only, quicker on a GPU).
        state: folder that keeps the tallies.
        chunk: draws per unit of work.
        batch: runs per call, the bound on memory; chosen by the size of the frames by default.
        report: folder whose report (report.html, .md, .json) takes the result in, beside earlier ones.
        json: print the report as JSON.
    """
    import msgspec

    from rsc.commands import certify_on, numbers, on_grid
    from rsc.errors import UsageError
    from rsc.robustness.certify import Plan, check_radii
    from rsc.robustness.certify_count import Share

    require_state(Share.of_process(), state)
    plan = Plan(select, draws, alpha, together, paired, images.seed, chunk, batch, levels)
    loaded, material = on_grid(Reading().program(program), grid), images.material(program)
    limits = numbers(radii, "--radii")
    check_radii(limits)
    if vote < 0:
        raise UsageError(f"--vote is {vote}.", "Runs cannot be negative.", "Use 0 for no vote, or more.")
    with progress() as listener:
        found = certify_on(
            loaded,
            on,
            material,
            plan,
            limits,
            twin=twin,
            noise=noise,
            vote=vote,
            state=state,
            listener=listener,
        )
    if Share.of_process().rank > 0:
        return
    found = msgspec.structs.replace(found, model=program.resolve().stem)
    if report is not None:
        reported(report, [found])
    emit(found) if json else show(*certificate_lines(found))


def require_state(share: Any, state: Path | None) -> None:
    """Several processes need a folder to meet in.

    Raises:
        UsageError: they have none.
    """
    from rsc.errors import UsageError

    if share.size > 1 and state is None:
        raise UsageError(
            f"{share.size} processes were started.", "They meet in a folder.", "Give one with --state."
        )


def certificate_lines(report: CertifyReport) -> list[Any]:
    """A report as a table and sentences."""
    from rich.table import Table

    votes = sorted(report.guarantees[0].votes) if report.guarantees else []
    table = Table(title=f"{report.rule}, {report.target}, {len(report.images)} images")
    heads = [
        "certified accuracy",
        "L_inf inside",
        "one run at least",
        *(f"{k} votes" for k in votes if k > 1),
    ]
    for head in (f"{_NORMS[report.norm]} radius", *heads):
        table.add_column(head, justify="right")
    for row, bound in zip(report.rows, report.guarantees, strict=True):
        span = f"{row.certified_accuracy:.1%} [{row.interval.low:.1%}, {row.interval.high:.1%}]"
        bounds = [f"{bound.per_run:.3f}", *(f"{bound.votes[k]:.3f}" for k in votes if k > 1)]
        table.add_row(f"{row.radius:.4g}", span, f"{row.linf_eps:.3g}", *bounds)
    return [table, *_sentences(report)]


def _sentences(report: CertifyReport) -> list[str]:
    said = [
        f"{report.abstained} of {len(report.images)} images abstain, {report.at_ceiling} are at the ceiling "
        f"of {report.ceiling:.4g} ({report.n0:,} + {report.n:,} draws, alpha {report.alpha:.3g} per image, "
        f"seed {report.seed}, {report.source} noise). Arithmetic: {report.soundness}."
    ]
    if report.off_grid:
        said.append(f"{report.off_grid} images are off the grid: certified is what they are rounded to.")
    moved = report.transfer
    if moved is not None:
        said.append(
            f"Drawn on {moved.twin} for {moved.target}: {moved.disagreements} of {moved.runs:,} paired runs "
            f"differ, {moved.lost} lose the class; that costs {moved.q_up_mean:.4f} of pA on average."
        )
    voted = report.voted
    if voted is not None and voted.accuracy is not None and voted.interval is not None:
        span = f"[{voted.interval.low:.1%}, {voted.interval.high:.1%}]"
        said.append(
            f"Vote of {voted.draws}: {voted.accuracy:.1%} {span} right, {voted.wrong:.1%} wrong, "
            f"{voted.abstained} abstain."
        )
    return [*said, *report.promises, *(f"Not covered: {text}" for text in report.limits), *report.advice]
