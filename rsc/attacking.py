"""What `rsc attack` does: crafts on the twins of a program and replays on its targets."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from rsc.commands import twin
from rsc.errors import UsageError
from rsc.evaluation import AttackPlan, Deployed, evaluate, evaluation_cost
from rsc.hw_targets import deploy
from rsc.material import Material
from rsc.program import Program
from rsc.progress import Progress, Silent
from rsc.robustness.integer import integer_twin
from rsc.robustness.journal import Journal, digest_of
from rsc.robustness.model import ModuleModel
from rsc.robustness.plan import timed
from rsc.robustness.results import RobustnessReport

SLOW = ("lava", "reference")  # step by step in Python: they take few images


@dataclasses.dataclass(frozen=True)
class AttackOptions:
    """How a plan is carried out.

    Fields:
        few: images that slow targets are shown; few_draws: and noise draws of each.
        integer: also attack the exact integers of the Loihi program (white-box, straight-through).
        health: run the sanity checks; the twin's report is then among the results, whatever the targets.
        state: folder that keeps finished parts; the same command goes on with it.
        name: of the model, for reports.
    """

    few: int = 8
    few_draws: int = 2
    integer: bool = False
    health: bool = False
    state: Path | None = None
    name: str = "model"

    def __post_init__(self) -> None:
        if self.few < 1 or self.few_draws < 1:
            raise UsageError(
                f"Slow targets were given {self.few} images and {self.few_draws} draws.",
                "At least one of each is needed.",
                "Raise --few.",
            )


def attack_on(
    program: Program,
    on: Sequence[str],
    material: Material,
    plan: AttackPlan,
    options: AttackOptions | None = None,
    listener: Progress | None = None,
) -> tuple[RobustnessReport, ...]:
    """Attack the torch twin, and the integers if asked for, and replay on the other targets.

    Raises:
        UsageError: the program cannot be attacked, or the state folder is of another question.
        TargetUnavailable: a target cannot run here.
    """
    options, listener = options or AttackOptions(), listener or Silent()
    data = material.perturbable(program)
    model = twin(program, options.name)
    plan.check(data.images, model.bounds)
    extra = _integers(program, options)
    others = list(dict.fromkeys(spec for spec in on if spec != "torch"))
    asked = repr((plan, options.integer, sorted(others)))
    question = digest_of(program.digest, asked, data.images, data.targets)
    with contextlib.ExitStack() as stack:
        deployed = [_place(spec, stack.enter_context(deploy(program, spec)), options) for spec in others]
        cost = evaluation_cost(model, data.images, plan, deployed, extra, options.health)
        listener.stage(f"attacking {len(data)} images: {timed(cost, model, data.images, data.targets)}")
        reports = evaluate(
            model,
            data.images,
            data.targets,
            plan,
            deployed,
            listener.advance,
            extra=extra,
            journal=Journal(options.state, question),
            health=options.health,
        )
    shown = "torch" in on or not on or options.health  # the checks of the attack itself are the twin's
    return reports if shown else reports[1:]


def _integers(program: Program, options: AttackOptions) -> list[ModuleModel]:
    return [integer_twin(program, f"{options.name} (integers)")] if options.integer else []


def _place(spec: str, model: object, options: AttackOptions) -> Deployed:
    slow = spec.split(":")[0] in SLOW
    return Deployed(spec, model, *((options.few, options.few_draws) if slow else ()))  # type: ignore[arg-type]
