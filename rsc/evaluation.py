"""Attack one model, score it where it was made and where it is deployed, on the same images.

Adversarial images are crafted on the differentiable twin (white-box, EOT) and replayed on every
deployed target with fresh noise; the paired difference says what deployment changed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import torch

from rsc.errors import UsageError
from rsc.hw_targets import DeployedModel
from rsc.robustness.attacks import Adversarial, Attack, Fgsm, Pgd
from rsc.robustness.ball import parse_eps
from rsc.robustness.eot import Eot
from rsc.robustness.evaluate import Scoring, attack_row, compare, craft, measure, qte
from rsc.robustness.model import StochasticModel
from rsc.robustness.results import AttackRow, Curve, Norm, PairedDifference, RobustnessReport


@dataclasses.dataclass(frozen=True)
class AttackPlan:
    """What is tried.

    Fields:
        eps: radii as the user writes them, e.g. ("0.1", "8/255").
        norm: "linf", "l2" or "l1".
        steps, eot, restarts: of PGD; FGSM uses the same EOT.
        draws: scoring draws per image on the twin.
        seed: of scoring and attack noise (separate streams).
    """

    eps: tuple[str, ...]
    norm: Norm = "linf"
    steps: int = 20
    eot: int = 4
    restarts: int = 1
    draws: int = 16
    seed: int = 0

    def attacks(self) -> tuple[Attack, ...]:
        """FGSM and EOT-PGD."""
        return Fgsm(norm=self.norm), Pgd(norm=self.norm, steps=self.steps, restarts=self.restarts)

    def strengths(self) -> list[tuple[float, str]]:
        """Radii above 0, rising, as numbers and as written."""
        values = sorted({parse_eps(text) for text in self.eps})
        return [(value, text) for value, text in values if value > 0]


@dataclasses.dataclass(frozen=True, eq=False)
class Deployed:
    """A target to replay on; slow targets take fewer images and draws."""

    spec: str
    model: DeployedModel
    images: int | None = None
    draws: int | None = None


def evaluate(
    model: StochasticModel,
    x: np.ndarray,
    y: np.ndarray,
    plan: AttackPlan,
    deployed: Sequence[Deployed] = (),
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[RobustnessReport, ...]:
    """One report for the twin and one per deployed target.

    Args:
        model: differentiable model the images are crafted on.
        x: images [B, ...]; y: labels [B].
        on_progress: called with attacks done and all attacks.

    Raises:
        UsageError: no images.
    """
    if not len(x):
        raise UsageError("There are no images to attack.", "", "Give at least one.")
    images, labels = torch.from_numpy(np.asarray(x, np.float32)), torch.from_numpy(np.asarray(y, np.int64))
    scoring = Scoring(draws=plan.draws, seed=plan.seed, attack_seed=plan.seed)
    eot = Eot(model, plan.eot)
    sites = [_Site(None, model, images, labels, plan.draws, plan.seed)]
    sites += [
        _Site(d, d.model, images[: d.images], labels[: d.images], d.draws or plan.draws, plan.seed)
        for d in deployed
    ]
    todo = [(attack, eps) for attack in plan.attacks() for eps in plan.strengths()]
    for i, (attack, (value, text)) in enumerate(todo):
        found = craft(attack, eot, images, labels, value, scoring)
        for site in sites:
            site.add(attack, eot, found, text, scoring, sites[0])
        on_progress(i + 1, len(todo))
    return tuple(site.report(plan) for site in sites)


class _Site:
    """Scores on one target, row by row."""

    def __init__(
        self,
        deployed: Deployed | None,
        predict: StochasticModel | DeployedModel,
        x: torch.Tensor,
        y: torch.Tensor,
        draws: int,
        seed: int,
    ) -> None:
        self.deployed, self.predict, self.x, self.y, self.draws, self.seed = (
            deployed,
            predict,
            x,
            y,
            draws,
            seed,
        )
        self.target = deployed.spec if deployed else "torch"
        self.clean = measure(predict, x, y, draws, seed)
        self.rows: list[AttackRow] = []
        self.differences: list[PairedDifference] = []

    def add(
        self, attack: Attack, eot: Eot, found: Adversarial, text: str, scoring: Scoring, twin: _Site
    ) -> None:
        """Score images crafted elsewhere; on a deployed target also compare with the twin."""
        n = len(self.x)
        part = Adversarial(found.x[:n], found.start[:n], found.kept[:n], found.norms[:n], found.runs)
        runs = measure(self.predict, part.x, self.y, self.draws, self.seed)
        row = attack_row(
            attack,
            eot,
            self.x,
            self.y,
            text,
            dataclasses.replace(scoring, draws=self.draws),
            predict=self.predict if self.deployed else None,
            found=part,
            baseline=self.clean.scores(),
            scores=runs.scores(),
        )
        self.rows.append(msgspec.structs.replace(row, target=self.target))
        if self.deployed:
            there = measure(twin.predict, part.x, self.y, self.draws, self.seed)
            here = dataclasses.replace(runs, name=f"{self.target} under {attack.name} at eps {text}")
            self.differences.append(compare(dataclasses.replace(there, name="torch"), here))

    def report(self, plan: AttackPlan) -> RobustnessReport:
        """Everything about this target."""
        curves = []
        for name in dict.fromkeys(row.attack for row in self.rows):
            rows = tuple(row for row in self.rows if row.attack == name)
            strengths = [0.0, *(row.eps for row in rows)]
            accuracies = [self.clean.scores().per_run.value, *(row.per_run.value for row in rows)]
            curves.append(Curve(rows, *qte(strengths, accuracies)))
        return RobustnessReport(
            target=self.target,
            model=self.rows[0].model if self.rows else getattr(self.predict, "name", "model"),
            clean=self.clean.scores(),
            attacks=tuple(self.rows),
            curves=tuple(curves),
            differences=tuple(self.differences),
        )
