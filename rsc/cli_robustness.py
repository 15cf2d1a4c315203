"""The verb `rsc attack`."""

# pyright: reportInvalidTypeForm=false
# (verbs have parameters called `json`, as their options are)

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from rsc.console import emit, progress, reported, show, show_part
from rsc.feeding import Flat, Images, Reading

Words = Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME")]


def attack(
    program: Annotated[Positional[Path], arg(metavar="PROGRAM", help="bundle folder or .nir file")],
    on: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="TARGET")] = (),
    eps: str = "0,2/255,4/255,8/255",
    norm: Literal["linf", "l2", "l1"] = "linf",
    attacks: Words = (),
    surrogates: Words = (),
    standard: bool = False,
    integer: bool = False,
    steps: int = 20,
    restarts: int = 1,
    eot: int = 4,
    draws: int = 16,
    grid: int = 0,
    few: int = 8,
    health: bool = False,
    state: Path | None = None,
    report: Path | None = None,
    images: Flat[Images] = Images(most=100),
    json: bool = False,
) -> None:
    """Attack the twin of a program and score on fresh noise on every target.

    Args:
        on: targets the adversarial images are replayed on, one or several; they are made on the torch twin,
            which is scored alone by default.
        eps: radii, comma separated, e.g. 0,2/255,8/255 (pixel units).
        attacks: fgsm, pgd, apgd, apgd_dlr, apgd_targeted, sa_pgd, square, spsa, random; one or several;
            fgsm and pgd by default.
        surrogates: gradients the attacks are made through: atan, atan:10, triangle, stbp, bptr, rga, hart,
            pdsg, assg, ...; the network's own by default.
        standard: our standard attack: pgd, apgd, apgd_dlr, sa_pgd and random through six gradients, and per
            image the worst of all, scored anew.
        integer: also attack the exact integers of the Loihi program, white-box.
        steps: of the iterated attacks.
        restarts: of each attack.
        eot: noise draws per gradient.
        draws: noise draws per image when scoring.
        grid: round images to so many levels before scoring (255 for 8 bit); 0 for none.
        few: images that slow targets (lava, reference) are shown.
        health: run the sanity checks of the evaluation, R1 to R20; on slow targets those that are
            about the target.
        state: folder that keeps finished parts; the same command goes on with it.
        report: folder whose report (report.html, .md, .json) takes the result in, beside earlier ones.
        json: print the reports as JSON.
    """
    from rsc.attacking import AttackOptions, attack_on
    from rsc.evaluation import AttackPlan
    from rsc.robustness.ensemble import SURROGATES
    from rsc.robustness.plan import STANDARD

    loaded, material = Reading().program(program), images.material(program)
    radii = tuple(part.strip() for part in eps.split(","))
    names = dict.fromkeys((*STANDARD, *attacks) if standard else attacks or ("fgsm", "pgd"))
    through = tuple(dict.fromkeys(surrogates)) or (SURROGATES if standard else ())
    plan = AttackPlan(
        radii, norm, steps, eot, restarts, draws, images.seed, tuple(names), through, standard, grid
    )
    options = AttackOptions(few, 2, integer, health, state, program.resolve().stem)
    with progress() as listener:
        reports = attack_on(loaded, on, material, plan, options, listener)
    if report is not None:
        reported(report, reports)
    if json:
        emit({"robustness": reports})
        return
    show_part(robustness=reports)
    left_out = reports[0].not_tried if reports else ()
    if left_out:
        show(f"Not tried: {', '.join(left_out)}.")
