"""The main job on real data in one go: train, deploy everywhere, compare, price, attack, certify, report.

scikit-learn's digits; an RSC-II network, its direct-coded twin, the ANN of the same topology, and that
ANN under the same noise averaged over T passes (the honest baseline of randomized smoothing).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch

from rsc import pipeline
from rsc.commands import target_row, twin
from rsc.data import Dataset
from rsc.demo_models import STEPS, DemoModel, networks, program_of, quantisation, section, train
from rsc.energy import energy_report
from rsc.energy.results import EnergyReport
from rsc.errors import RscError, TargetUnavailable
from rsc.evaluation import AttackPlan, Deployed, evaluate
from rsc.hw_targets import DeployedModel, deploy, get_target
from rsc.material import Material
from rsc.parity import compare
from rsc.parity_results import ParityRow
from rsc.pipeline import plain
from rsc.program import Program
from rsc.progress import Progress, Silent
from rsc.report import Report, conclude, environment, utc_now, write_report
from rsc.report.threat import left_out
from rsc.report.value import DatasetInfo, TargetRow
from rsc.results import Keys
from rsc.robustness.certify import certify
from rsc.robustness.results import CertifyReport, RobustnessReport

EPS = ("0.05", "0.1", "0.15", "0.2")
RADII = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
PROFILES = ("h45-int8", "loihi1-davies2018")
TARGETS = (
    "reference",
    "torch",
    "torch:float64",
    "norse",
    "onnxruntime",
    "onnxruntime:integer",
    "loihi",
    "lava:float",
    "lava",
    "lava:runtime",
)
PARITY = (
    ("reference", "torch:float64"),
    ("reference", "norse"),
    ("reference", "lava:float"),
    ("loihi", "onnxruntime:integer"),
    ("loihi", "lava"),
    ("loihi", "lava:runtime"),
    ("reference", "loihi"),
)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much of each part is run; the defaults fit three minutes on two cores.

    Fields:
        epochs: of training.
        run, slow_run: test images per quick target, and per target in "lava:runtime" style (one process
            per neuron population).
        parity, slow_parity: likewise for the comparison.
        attack, draws, eot: attacked images, scoring draws, noise draws per gradient.
        lava_attack, lava_draws: replayed on Lava.
        certify, certify_draws: images and draws per image.
    """

    epochs: int = 25
    run: int | None = None
    slow_run: int = 32
    parity: int = 100
    slow_parity: int = 8
    attack: int = 128
    draws: int = 8
    eot: int = 4
    lava_attack: int = 24
    lava_draws: int = 2
    certify: int = 32
    certify_draws: int = 1000


def run_demo(
    out: Path, seed: int = 0, listener: Progress | None = None, sizes: Sizes | None = None
) -> Report:
    """Run everything and write report.html, report.md, report.json and the bundle under `out`.

    Raises:
        RscError: training or writing failed. A target that cannot be had becomes a row with the reason.
    """
    listener, sizes = listener or Silent(), sizes or Sizes()
    models = [train(entry, listener) for entry in networks(seed, sizes.epochs)]
    rsc, direct = models[0], models[1]
    program = program_of(rsc)
    bundle = pipeline.to_bundle(rsc.packed, rsc.config, "digits-rsc2")
    bundle.save(out / "bundle")
    deployed: dict[str, DeployedModel] = {}
    try:
        missing = _deploy(program, deployed)
        rows = _run_targets(deployed, missing, rsc.packed.test.head(sizes.run), sizes, seed, listener)
        parity = _parity(program, deployed, sizes, seed, rsc, listener)
        energy = _energy(rsc, direct, deployed, sizes, seed, listener)
        robustness = _robustness(models, deployed, sizes, seed, listener)
        certificates = _certificates(models, deployed, sizes, seed, listener)
    finally:
        for model in deployed.values():
            model.close()
    listener.stage("writing the report")
    report = conclude(
        Report(
            title="Digits: one RSC-II network from training to Loihi arithmetic",
            created=utc_now(),
            environment=environment(torch.get_num_threads()),
            command=f"rsc demo --seed {seed}",
            config={"rsc": plain(rsc.config), "sizes": plain(sizes)},
            dataset=DatasetInfo("digits", 1297, len(rsc.packed.test), (0.0, 1.0), rsc.packed.test.labels),
            models=tuple(section(model, energy) for model in models),
            targets=tuple(rows),
            parity=tuple(parity),
            quantisation=quantisation(program, rsc.name),
            energy=tuple(energy),
            robustness=robustness,
            certificates=certificates,
            not_done=(
                "One training seed per network: differences between networks include the luck of that seed.",
                *left_out(robustness),
                "The images are made on the float twin; no attack used gradients of the integer network.",
                "Energy is priced from published costs of other chips and processes, not measured.",
                "Loihi silicon: the integer model equals Lava's fixed-point models, not a chip.",
            ),
        )
    )
    write_report(report, out)
    return report


def _deploy(program: Program, deployed: dict[str, DeployedModel]) -> list[TargetRow]:
    """Fill `deployed`; rows for the targets that cannot be had."""
    missing = []
    _offer_lava()
    for spec in TARGETS:
        try:
            deployed[spec] = deploy(program, spec)
        except TargetUnavailable as error:
            missing.append(TargetRow(spec, False, reason=error.why, fix=error.fix))
    return missing


def _offer_lava() -> None:
    """Make the Lava environment if there is none; the demo goes on without it if that fails."""
    from rsc.hw_targets import lava_env

    if get_target("lava").available() is not None:
        try:
            lava_env.install()
        except RscError:
            return


def _run_targets(
    deployed: dict[str, DeployedModel],
    missing: list[TargetRow],
    data: Dataset,
    sizes: Sizes,
    seed: int,
    listener: Progress,
) -> list[TargetRow]:
    rows = []
    listener.stage("running the held-out images on every target")
    for i, (spec, model) in enumerate(deployed.items()):
        part = data.head(sizes.slow_run) if spec == "lava:runtime" else data
        material = Material(data=part)
        rows.append(target_row(spec, material.run(model, seed), material, seed, "RSC-II"))
        listener.advance(i + 1, len(deployed))
    return rows + missing


def _parity(
    program: Program,
    deployed: dict[str, DeployedModel],
    sizes: Sizes,
    seed: int,
    model: DemoModel,
    listener: Progress,
) -> list[ParityRow]:
    rows: list[ParityRow] = []
    pairs = [(a, b) for a, b in PARITY if a in deployed and b in deployed]
    listener.stage("comparing targets value by value")
    for i, (a, b) in enumerate(pairs):
        data = model.packed.test.head(sizes.slow_parity if b == "lava:runtime" else sizes.parity)
        keys = Keys(seed, data.ids)
        rows += compare(
            program, [(a, deployed[a]), (b, deployed[b])], x=data.images, keys=keys, name=model.name
        )
        listener.advance(i + 1, len(pairs))
    return rows


def _energy(
    rsc: DemoModel,
    direct: DemoModel,
    deployed: dict[str, DeployedModel],
    sizes: Sizes,
    seed: int,
    listener: Progress,
) -> list[EnergyReport]:
    """RSC on the float and on the integer target, and the direct-coded twin."""
    listener.stage("counting synaptic operations")
    reports = []
    data = rsc.packed.test.head(sizes.run)
    sources = [(spec, deployed[spec], program_of(rsc)) for spec in ("torch", "loihi") if spec in deployed]
    with deploy(program_of(direct), "torch") as other:
        for spec, model, program in [*sources, ("torch", other, program_of(direct))]:
            result = model.run(data.images, Keys(seed, data.ids))
            reports.append(energy_report(program, result.spikes, STEPS, profiles=list(PROFILES), target=spec))
    return reports


def _robustness(
    models: Sequence[DemoModel],
    deployed: dict[str, DeployedModel],
    sizes: Sizes,
    seed: int,
    listener: Progress,
) -> tuple[RobustnessReport, ...]:
    plan = AttackPlan(EPS, steps=20, eot=sizes.eot, draws=sizes.draws, seed=seed)
    reports: list[RobustnessReport] = []
    for model in models:
        listener.stage(f"attacking {model.name}")
        data = model.packed.test.head(sizes.attack)
        places = []
        subject = model.packed.model
        if model.role == "rsc":
            subject = twin(program_of(model), model.name)
            places = [Deployed("loihi", deployed["loihi"])]
            if "lava" in deployed:
                places.append(Deployed("lava", deployed["lava"], sizes.lava_attack, sizes.lava_draws))
        reports += evaluate(subject, data.images, data.targets, plan, places, listener.advance)
    return tuple(reports)


def _certificates(
    models: Sequence[DemoModel],
    deployed: dict[str, DeployedModel],
    sizes: Sizes,
    seed: int,
    listener: Progress,
) -> tuple[CertifyReport, ...]:
    """The RSC network in float and in integers, and the smoothed ANN."""
    subjects = [(m.name, m.packed.model) for m in models if m.packed.model.encoder.stochastic]
    subjects.append(("RSC-II", deployed["loihi"]))  # type: ignore[arg-type]
    data = models[0].packed.test.head(sizes.certify)
    reports = []
    for name, subject in subjects:
        listener.stage(f"certifying {name} ({len(data) * sizes.certify_draws:,} runs)")
        report = certify(
            subject,
            data.images,
            data.targets,
            n=sizes.certify_draws,
            radii=RADII,
            seed=seed,
            samples=data.ids,
            on_progress=listener.advance,
        )
        reports.append(msgspec.structs.replace(report, model=name))
    return tuple(reports)
