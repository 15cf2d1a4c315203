"""Attack one model, score it where it was made and where it is deployed, on the same images.

Adversarial images are crafted on the differentiable twins (white-box, EOT) and replayed on every
deployed target with fresh noise; the paired difference says what deployment changed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property

import msgspec
import numpy as np
import torch

from rsc.errors import UsageError
from rsc.hw_targets import DeployedModel
from rsc.robustness.attacks import Adversarial, Attack
from rsc.robustness.ensemble import Member, ensemble
from rsc.robustness.eot import Eot
from rsc.robustness.evaluate import Runs, Scoring, attack_row, compare, craft, measure, qte
from rsc.robustness.health import applicable, check_health
from rsc.robustness.health_cost import health_cost
from rsc.robustness.journal import Journal
from rsc.robustness.model import ModuleModel, StochasticModel, label_of
from rsc.robustness.plan import AttackPlan, Cost, cost_of
from rsc.robustness.predict import as_predictor, name_of, source_of
from rsc.robustness.proving import Verifier, interval_verifier
from rsc.robustness.results import AttackRow, Curve, HealthCheck, PairedDifference, RobustnessReport
from rsc.robustness.study import Study

__all__ = ["AttackPlan", "Cost", "Deployed", "evaluate", "evaluation_cost"]

HEALTH_IMAGES = 64
SLOW_CERTIFICATES = 40  # draws that R17 estimates with on targets that take few draws
ABOUT_TARGETS = (
    "R1",
    "R2",
    "R14",
    "R17",
    "R19",
    "R20",
)  # others judge the attack; few runs mislead


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
    *,
    extra: Sequence[ModuleModel] = (),
    journal: Journal | None = None,
    health: bool = False,
) -> tuple[RobustnessReport, ...]:
    """One report for the twin and one per deployed target.

    Args:
        model: differentiable model the images are crafted on.
        x: images [B, ...]; y: labels [B].
        on_progress: called with attacks and checks done and all of them.
        extra: further differentiable forms of the same program, e.g. its integer twin.
        journal: keeps finished parts; the same question goes on from there.
        health: run the sanity checks, on at most 64 images and the strongest attack of the plan.

    Raises:
        UsageError: no images.
    """
    if not len(x):
        raise UsageError("There are no images to attack.", "", "Give at least one.")
    images, labels = torch.from_numpy(np.asarray(x, np.float32)), torch.from_numpy(np.asarray(y, np.int64))
    journal = journal or Journal()
    sites = _sites(model, images, labels, plan, deployed, journal)
    members = plan.members(model, extra, _classes(model, images))
    scoring = Scoring(plan.draws, plan.seed, plan.levels, plan.seed)
    todo = [(value, text) for value, text in plan.strengths()]
    wanted = health and todo and isinstance(model, ModuleModel)
    studies = [_study(model, site, plan) for site in sites] if wanted else []  # type: ignore[arg-type]
    ids = [_fitting(study, site) for study, site in zip(studies, sites, strict=False)]
    done, total = 0, len(todo) * len(members) + sum(map(len, ids))
    for value, text in todo:
        found = []
        for k, member in enumerate(members):
            adversarial = _crafted(journal, f"craft {k} {text}", member, images, labels, value, scoring)
            found.append(adversarial)
            for site in sites:
                site.add(f"{k} {text}", member.attack, member.model, adversarial, text, scoring, sites[0])
            done += 1
            on_progress(done, total)
        if plan.ensemble:
            for site in sites:
                site.add_ensemble(members, found, value, text, scoring, sites[0])
    reports = [site.report() for site in sites]
    left_out = tuple(plan.not_tried(model, extra, _classes(model, images)))
    reports = [msgspec.structs.replace(report, not_tried=left_out) for report in reports]
    for at, (site, study) in enumerate(zip(sites, studies, strict=False)):
        checks = []
        for check in ids[at]:
            checks.append(site.check(study, check))
            done += 1
            on_progress(done, total)
        reports[at] = msgspec.structs.replace(reports[at], checks=tuple(checks))
    return tuple(reports)


def evaluation_cost(
    model: StochasticModel,
    x: np.ndarray,
    plan: AttackPlan,
    deployed: Sequence[Deployed] = (),
    extra: Sequence[ModuleModel] = (),
    health: bool = False,
) -> Cost:
    """Network runs of `evaluate`, at most; of the health checks about as many as they take."""
    images = torch.from_numpy(np.asarray(x[:1], np.float32))
    members = plan.members(model, extra, _classes(model, images))
    targets = {"torch": (len(x), plan.draws)}
    for d in deployed:
        targets[d.spec] = (min(d.images or len(x), len(x)), d.draws or plan.draws)
    cost = cost_of(plan, members, len(x), targets)
    if not (health and plan.strengths() and isinstance(model, ModuleModel)):
        return cost
    labels = torch.zeros(len(x), dtype=torch.int64)
    sites = _sites(model, torch.from_numpy(np.asarray(x, np.float32)), labels, plan, deployed)
    checks = {}
    for site in sites:
        study = _study(model, site, plan)
        checks[site.target] = health_cost(study, _fitting(study, site))
    return dataclasses.replace(cost, checking=checks)


def _sites(
    model: StochasticModel,
    x: torch.Tensor,
    y: torch.Tensor,
    plan: AttackPlan,
    deployed: Sequence[Deployed],
    journal: Journal | None = None,
) -> list[_Site]:
    journal, subject = journal or Journal(), label_of(model)
    first = _Site(None, model, x, y, plan.draws, plan, journal, subject)
    others = [
        _Site(d, d.model, x[: d.images], y[: d.images], d.draws or plan.draws, plan, journal, subject)
        for d in deployed
    ]
    return [first, *others]


def _classes(model: StochasticModel, x: torch.Tensor) -> int:
    with torch.no_grad():
        return model.core(x[:1].expand(model.encoder.steps, 1, *x.shape[1:])).shape[1]


def _crafted(
    journal: Journal,
    name: str,
    member: Member,
    x: torch.Tensor,
    y: torch.Tensor,
    eps: float,
    scoring: Scoring,
) -> Adversarial:
    def make() -> dict[str, np.ndarray]:
        found = craft(member.attack, member.model, x, y, eps, scoring)
        arrays = {k: getattr(found, k).cpu().numpy() for k in ("x", "start", "kept", "norms")}
        return arrays | {"runs": np.array(found.runs)}

    kept = journal.part(name, make)
    return _adversarial(kept)


def _adversarial(kept: dict[str, np.ndarray]) -> Adversarial:
    """From its arrays in a journal."""
    x, start, loss, norms = (torch.from_numpy(kept[k]) for k in ("x", "start", "kept", "norms"))
    return Adversarial(x, start, loss, norms, int(kept["runs"]))


class _Site:
    """Scores on one target, row by row."""

    def __init__(
        self,
        deployed: Deployed | None,
        predict: StochasticModel | DeployedModel,
        x: torch.Tensor,
        y: torch.Tensor,
        draws: int,
        plan: AttackPlan,
        journal: Journal,
        subject: str,
    ) -> None:
        self.deployed, self.predict, self.x, self.y, self.draws = deployed, predict, x, y, draws
        self.plan, self.journal, self.subject = plan, journal, subject
        self.target = deployed.spec if deployed else "torch"
        self.rows: list[AttackRow] = []
        self.differences: list[PairedDifference] = []

    @cached_property
    def clean(self) -> Runs:
        """Predictions on the images as they are."""
        return self.runs("clean", self.x)

    def runs(self, name: str, x: torch.Tensor, draws: int | None = None) -> Runs:
        """Predictions on the scoring noise, kept in the journal."""
        draws = draws or self.draws
        made = self.journal.part(
            f"score {self.target} {draws} {len(x)} {name}",
            lambda: {"classes": measure(self.predict, x, self.y[: len(x)], draws, self.plan.seed).classes},
        )
        scored = as_predictor(self.predict)
        labels = self.y[: len(x)].numpy().astype(np.int64)
        return Runs(made["classes"], labels, name_of(scored), self.plan.seed, "score", source_of(scored))

    def add(
        self,
        name: str,
        attack: Attack,
        eot: Eot,
        found: Adversarial,
        text: str,
        scoring: Scoring,
        twin: _Site,
        title: str = "",
    ) -> None:
        """Score images crafted elsewhere; on a deployed target also compare with the twin."""
        n = len(self.x)
        part = Adversarial(found.x[:n], found.start[:n], found.kept[:n], found.norms[:n], found.runs)
        runs = self.runs(name, part.x)
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
        made = label_of(eot.model)
        row = msgspec.structs.replace(
            row,
            target=self.target,
            model=self.subject,
            attack=title or row.attack,
            crafted_on=made if self.deployed or made != self.subject else "",
        )
        self.rows.append(row)
        if self.deployed:
            there = twin.runs(f"{name} for {self.target}", part.x, self.draws)
            here = dataclasses.replace(runs, name=f"{self.target} under {self._made(row)} at eps {text}")
            self.differences.append(compare(dataclasses.replace(there, name="torch"), here))

    def _made(self, row: AttackRow) -> str:
        """What made the images of a row: as "pgd through rga", and on what, if not on the twin."""
        through = "" if row.surrogate in ("", "model") or row.attack == "ensemble" else row.surrogate
        parts = (row.attack, through and f"through {through}")
        on = "" if row.crafted_on == self.subject else f"on {row.crafted_on}"
        return " ".join(part for part in (*parts, on) if part)

    def check(self, study: Study, check: str) -> HealthCheck:
        """One health check, kept in the journal."""

        def make() -> dict[str, np.ndarray]:
            (found,) = check_health(study, [check])
            return {"found": np.frombuffer(msgspec.json.encode(found), np.uint8)}

        kept = self.journal.part(f"check {check} {self.target} {len(study.x)} {self.draws}", make)
        return msgspec.json.decode(kept["found"].tobytes(), type=HealthCheck)

    def add_ensemble(
        self,
        members: Sequence[Member],
        found: Sequence[Adversarial],
        eps: float,
        text: str,
        scoring: Scoring,
        twin: _Site,
    ) -> None:
        """Per image the worst of all, chosen here on the select noise and scored on the scoring noise."""
        n, draws = len(self.x), min(self.draws, self.plan.select_draws)

        def make() -> dict[str, np.ndarray]:
            cut = [Adversarial(f.x[:n], f.start[:n], f.kept[:n], f.norms[:n], f.runs) for f in found]
            chosen = ensemble(
                members, self.x, self.y, eps, scoring, predict=self.predict, select_draws=draws, given=cut
            ).adversarial
            arrays = {k: getattr(chosen, k).cpu().numpy() for k in ("x", "start", "kept", "norms")}
            return arrays | {"runs": np.array(chosen.runs)}

        kept = self.journal.part(f"choose {self.target} {n} {draws} {text}", make)
        adversarial = _adversarial(kept)
        home = max(members, key=lambda m: m.attack.steps)
        name = f"ensemble {self.target} {text}"
        self.add(name, home.attack, home.model, adversarial, text, scoring, twin, title="ensemble")
        worst = f"worst of {len(members)}"
        self.rows[-1] = msgspec.structs.replace(self.rows[-1], surrogate=worst)

    def report(self) -> RobustnessReport:
        """Everything about this target."""
        curves = []
        for name in dict.fromkeys(map(_maker, self.rows)):
            rows = tuple(row for row in self.rows if _maker(row) == name)
            strengths = [0.0, *(row.eps for row in rows)]
            accuracies = [self.clean.scores().per_run.value, *(row.per_run.value for row in rows)]
            curves.append(Curve(rows, *qte(strengths, accuracies)))
        return RobustnessReport(
            target=self.target,
            model=self.subject,
            clean=self.clean.scores(),
            attacks=tuple(self.rows),
            curves=tuple(curves),
            differences=tuple(self.differences),
        )


def _maker(row: AttackRow) -> tuple[str, ...]:
    """What tells the rows of one curve from others."""
    return row.attack, row.surrogate, row.crafted_on, row.model


def _study(model: ModuleModel, site: _Site, plan: AttackPlan) -> Study:
    """What the health checks look at on one target, at the middle strength."""
    strengths = [value for value, _ in plan.strengths()]
    n = min(HEALTH_IMAGES, len(site.x))
    fitting = plan.attacks(_classes(model, site.x))
    attack = max(fitting, key=lambda a: (a.name in ("pgd", "apgd", "sa_pgd"), a.steps))
    slow = site.deployed is not None and site.deployed.draws is not None
    return Study(
        model,
        site.x[:n],
        site.y[:n],
        strengths[len(strengths) // 2],
        attack,
        eot=plan.eot,
        strengths=tuple(strengths),
        scoring=Scoring(site.draws, plan.seed, plan.levels, plan.seed),
        predict=site.predict if site.deployed else None,
        verify=_verifier(site),
        certify_n=SLOW_CERTIFICATES if slow else Study.certify_n,
    )


def _fitting(study: Study, site: _Site) -> list[str]:
    """Checks that a study allows; on targets that are shown few images those of the target itself."""
    few = site.deployed is not None and site.deployed.images is not None
    return [check for check in applicable(study) if check in ABOUT_TARGETS or not few]


def _verifier(site: _Site) -> Verifier | None:
    """Interval proofs, where the target runs the integers that they are about."""
    if site.deployed is None or site.deployed.spec.split(":")[0] != "loihi":
        return None
    return interval_verifier(site.deployed.model.program)
