"""What an evaluation tries, at which strengths, and what that costs, before it starts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
import torch

from rsc.errors import UsageError, unknown_name
from rsc.robustness.attacks import Apgd, Attack, Fgsm, Pgd, RandomNoise, SaPgd, Spsa, Square
from rsc.robustness.ball import off_grid, parse_eps
from rsc.robustness.ensemble import SURROGATES, Member, views
from rsc.robustness.eot import Eot
from rsc.robustness.model import ModuleModel, StochasticModel, has_surrogates, own_surrogate, stream_generator
from rsc.robustness.results import Norm
from rsc.robustness.surrogates import surrogate_named, surrogate_text

TRIED = ("fgsm", "pgd", "apgd", "apgd_dlr", "apgd_targeted", "sa_pgd", "square", "spsa", "random")
STANDARD = ("pgd", "apgd", "apgd_dlr", "sa_pgd", "random")


@dataclasses.dataclass(frozen=True)
class AttackPlan:
    """What is tried.

    Fields:
        eps: radii as the user writes them, e.g. ("0.1", "8/255").
        norm: "linf", "l2" or "l1".
        steps, eot, restarts: of the iterated attacks; all use the same EOT.
        draws: scoring draws per image on the twin.
        seed: of scoring and attack noise (separate streams).
        names: attacks, of `TRIED`.
        surrogates: gradients that each white-box attack is made through; () is the model's own.
        ensemble: also keep per image the worst of all, chosen on noise of its own and scored anew.
        levels: grid that images are rounded to before scoring; 0 for none.
        select_draws: noise draws of the ensemble's choice.
    """

    eps: tuple[str, ...]
    norm: Norm = "linf"
    steps: int = 20
    eot: int = 4
    restarts: int = 1
    draws: int = 16
    seed: int = 0
    names: tuple[str, ...] = ("fgsm", "pgd")
    surrogates: tuple[str, ...] = ()
    ensemble: bool = False
    levels: int = 0
    select_draws: int = 16

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in TRIED:
                raise unknown_name("attack", name, TRIED)
        if not self.names or min(self.steps, self.eot, self.restarts, self.draws, self.select_draws) < 1:
            raise UsageError(
                "The plan of the attack is empty.",
                "There is an attack, and steps, EOT, restarts and draws are at least 1.",
                "Correct it.",
            )
        if self.seed < 0:
            raise UsageError(f"The seed is {self.seed}.", "Seeds are not negative.", "Use 0 or more.")
        self.strengths()

    def attacks(self, classes: int = 10) -> tuple[Attack, ...]:
        """The attacks that the norm and the number of classes allow."""
        common = (self.norm, self.steps, self.restarts)
        made: dict[str, Attack | None] = {
            "fgsm": Fgsm(self.norm),
            "pgd": Pgd(*common),
            "apgd": Apgd(*common),
            "apgd_dlr": Apgd(*common, loss="dlr") if classes >= 3 else None,
            "apgd_targeted": Apgd(*common, loss="dlr_targeted", targets=min(9, classes - 1))
            if classes >= 4
            else None,
            "sa_pgd": SaPgd(*common) if self.norm == "linf" else None,
            "square": Square(self.norm, 10 * self.steps, self.restarts),
            "spsa": Spsa(self.norm, self.steps, self.restarts),
            "random": RandomNoise(self.norm, restarts=4),
        }
        return tuple(attack for name in self.names if (attack := made[name]) is not None)

    def check(self, x: np.ndarray, bounds: tuple[float, float]) -> None:
        """Whether the attacks can move these images at all.

        Raises:
            UsageError: the images are not on the grid, or the ball around one holds no other image of it.
        """
        if not self.levels:
            return
        if self.levels < 0:
            raise UsageError(f"The grid has {self.levels} levels.", "", "Give 1 or more, or 0 for no grid.")
        step = (bounds[1] - bounds[0]) / self.levels
        level = (np.asarray(x, np.float64) - bounds[0]) / step
        if np.abs(level - np.rint(level)).max(initial=0) > 1e-3:
            raise off_grid(self.levels)
        low = [text for eps, text in self.strengths() if eps < step * (1 - 1e-3)]
        if low:
            raise UsageError(
                f"A ball of {low[0]} holds no other image on a grid of {self.levels} levels.",
                f"One level is {step:.3g}: no attack could move a pixel, and everything would look robust.",
                "Leave --grid out, or use larger radii.",
            )

    def strengths(self) -> list[tuple[float, str]]:
        """Radii above 0, rising, as numbers and as written."""
        values = sorted({parse_eps(text) for text in self.eps})
        return [(value, text) for value, text in values if value > 0]

    def members(
        self, model: StochasticModel, extra: Sequence[ModuleModel] = (), classes: int = 10
    ) -> list[Member]:
        """Every attack through every gradient, the black-box ones once; white-box ones on `extra`, too."""
        through: list[StochasticModel] = [model]
        if self.surrogates and isinstance(model, ModuleModel):
            through = list(views(model, self.surrogates))
        blind = ("square", "spsa", "random")
        members = []
        for attack in self.attacks(classes):
            homes = [model] if attack.name in blind else [*through, *extra]
            members += [Member(attack, Eot(home, self.eot)) for home in homes]
        return members

    def not_tried(
        self, model: StochasticModel, extra: Sequence[ModuleModel] = (), classes: int = 10
    ) -> list[str]:
        """Attacks, and gradients of spikes if there are any, that this plan leaves out or that do not fit."""
        ran = {attack.title for attack in self.attacks(classes)}
        through = {own_surrogate(member.model.model) for member in self.members(model, extra, classes)}
        known = [n for n in (*TRIED, "sea") if n not in ran]
        if not has_surrogates(model):
            return [f"attack {n}" for n in known]
        gradients = [s for s in SURROGATES if surrogate_text(surrogate_named(s)) not in through]
        return [f"attack {n}" for n in known] + [f"gradient {s}" for s in gradients]


@dataclasses.dataclass(frozen=True)
class Cost:
    """Network runs of a plan.

    Fields:
        crafting: on the twin, all images and strengths.
        scoring: target -> runs.
        seconds: of crafting, measured on one step; None if it was not.
        checking: target -> runs of the twin, and of the target, that its health checks take, about.
    """

    crafting: int
    scoring: dict[str, int]
    seconds: float | None = None
    checking: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        took = (
            ""
            if self.seconds is None
            else f", about {duration(self.seconds)} at the speed of one measured step"
        )
        scored = ", ".join(f"{runs:,} on {target}" for target, runs in self.scoring.items())
        said = f"{self.crafting:,} runs to make the images{took}; to score them: {scored}"
        if not self.checking:
            return said
        twin = sum(made for made, _ in self.checking.values())
        share = twin / max(1, self.crafting)
        took = "" if self.seconds is None else f", about {duration(self.seconds * share)}"
        tested = ", ".join(f"{runs:,} on {target}" for target, (_, runs) in self.checking.items())
        return f"{said}; health checks: about {twin:,} runs to attack{took}, to score: {tested}"


def cost_of(
    plan: AttackPlan, members: Sequence[Member], images: int, targets: dict[str, tuple[int, int]]
) -> Cost:
    """Runs of a plan, at most.

    Args:
        targets: target -> its images and draws.
    """
    strengths = len(plan.strengths())
    crafting = images * strengths * sum(m.attack.cost(m.model) for m in members)
    rows = strengths * (len(members) + plan.ensemble) + 1
    chosen = (len(members) + 1) * strengths * plan.ensemble
    scoring = {
        name: n * (rows * draws + chosen * min(draws, plan.select_draws))
        for name, (n, draws) in targets.items()
    }
    return Cost(crafting, scoring)


def timed(cost: Cost, model: StochasticModel, x: np.ndarray, y: np.ndarray, most: int = 64) -> Cost:
    """The cost with the time that crafting takes, from one gradient of some images (a first one warms up)."""
    images, labels = torch.from_numpy(x[:most]), torch.from_numpy(y[:most])
    eot, took = Eot(model, 1), 0.0
    for _ in range(2):
        draws = eot.noise(images, stream_generator(0, "attack"), slice(0, len(images)))
        start = time.perf_counter()
        eot.gradient(images, labels, draws)
        took = time.perf_counter() - start
    return dataclasses.replace(cost, seconds=cost.crafting * took / len(images))


def duration(seconds: float) -> str:
    """Seconds as people say them: "48 s", "12 min", "2.5 h"."""
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
