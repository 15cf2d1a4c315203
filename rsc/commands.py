"""What the verbs of the command line do, as plain functions that return values and print nothing."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import msgspec
import numpy as np

from rsc.bundle import Bundle
from rsc.data import Dataset, load
from rsc.discretise import NEURONS, SPIKING
from rsc.energy import energy_report
from rsc.energy.results import EnergyReport
from rsc.errors import InputRefused, MalformedFile, UsageError, unknown_name
from rsc.evaluation import AttackPlan, Deployed, evaluate
from rsc.export.lint import TOOLS, Activity, Finding, from_source, lint
from rsc.export.reader import read_graph
from rsc.files import write_atomic
from rsc.hw_targets import TARGETS, DeployedModel, deploy, get_target
from rsc.parity import compare
from rsc.parity_results import ParityRow
from rsc.presets import under
from rsc.program import Program, Semantics, declares, walk
from rsc.progress import Progress, Silent
from rsc.report.value import TargetRow
from rsc.results import Keys, Probe, RunResult
from rsc.robustness.certify import certify
from rsc.robustness.model import ModuleModel, from_module
from rsc.robustness.results import Accuracy, CertifyReport, RobustnessReport
from rsc.robustness.statistics import wilson
from rsc.time_unit import in_seconds

if TYPE_CHECKING:
    from rsc.feeding import Reading


@dataclasses.dataclass(frozen=True, eq=False)
class Material:
    """What a run is fed: labelled images, or ready-made frames [T, B, ...] (by Input node if several)."""

    data: Dataset | None = None
    frames: np.ndarray | dict[str, np.ndarray] | None = None

    @classmethod
    def from_file(cls, path: Path, n: int | None = None) -> Material:
        """Frames [T, B, ...] of an .npy file, or of an .npz file with an array per Input node.

        Raises:
            MalformedFile: no such file, or not plain arrays.
        """
        if n is not None and n < 1:
            raise UsageError(f"{n} samples were asked for.", "At least one is needed.", "Use --n 1 or more.")
        try:
            loaded = np.load(path, allow_pickle=False)
            named = {"": loaded} if isinstance(loaded, np.ndarray) else {k: loaded[k] for k in loaded}
        except FileNotFoundError as error:
            raise InputRefused(f"There is no file '{path}'.", "No frames.", "Check the path.") from error
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise MalformedFile(
                f"Frames '{path}' cannot be read.", str(error), "Save them with np.save or np.savez."
            ) from error
        if not named or any(frames.ndim < 2 for frames in named.values()):
            raise MalformedFile(f"'{path}' holds no frames.", "Arrays [T, B, ...] are needed.", "Save them.")
        cut = {name: frames[:, :n] for name, frames in named.items()}
        return cls(frames=cut[""] if list(cut) == [""] else cut)

    @classmethod
    def from_data(cls, name: str, root: Path | None, n: int | None = None) -> Material:
        """The held-out split of a data set."""
        return cls(data=load(name, "test", root).head(n))

    @classmethod
    def choose(
        cls, program: Path, frames: Path | None, data: str | None, root: Path | None, n: int | None
    ) -> Material:
        """Frames of a file, a named data set, or the data set that a bundle was trained on.

        Raises:
            UsageError: both were given.
            InputRefused: neither was given and the program names no data set.
        """
        if frames is not None:
            if data is not None:
                raise UsageError(
                    "--input and --data were both given.", "One of them feeds the run.", "Drop one."
                )
            return cls.from_file(frames, n)
        return cls.from_data(data or _trained_on(program), root, n)

    def images(self) -> Dataset:
        """The images.

        Raises:
            UsageError: there are only frames.
        """
        if self.data is None:
            raise UsageError("This needs labelled images.", "Only frames were given.", "Use --data.")
        return self.data

    def run(self, model: DeployedModel, seed: int, probe: Probe | None = None) -> RunResult:
        """Run a deployed model on it."""
        if self.frames is not None:
            return model.run_frames(self.frames, probe)
        data = self.images()
        if model.program.encoder is None:
            raise InputRefused(
                "This program has no encoder.",
                "It cannot take images.",
                "Give ready-made frames with --input.",
            )
        return model.run(data.images, Keys(seed, data.ids), probe)


def _trained_on(path: Path) -> str:
    """Name of the data set in a bundle's training configuration."""
    name = None
    if path.is_dir() or not path.exists():
        name = Bundle.load(path).config.get("dataset")
    if name is None:
        raise InputRefused(
            f"Nothing says what to feed '{path}'.",
            "It names no data set.",
            "Give --input frames.npy or --data.",
        )
    return str(name)


def open_program(path: Path, reading: Reading) -> Program:
    """The program in a bundle or file, read as asked for.

    Raises:
        InputRefused: there is no such thing, it cannot be read, or nobody says the time step.
        UsageError: unknown preset, unit or edge.
    """
    if _is_bundle(path):
        return reading.adjusted(Bundle.load(path).program)
    graph = read_graph(path, trust=reading.trust)
    given = None if reading.dt is None or declares(graph) else Semantics(reading.dt)
    return reading.adjusted(Program.from_graph(graph, semantics=given))


def adjusted(program: Program, reading: Reading) -> Program:
    """A program with another time step, unit of time, rules, or delayed edges."""
    changes: dict[str, Any] = {} if reading.dt is None else {"dt": reading.dt}
    if changes:
        program = dataclasses.replace(
            program, semantics=msgspec.structs.replace(program.semantics, **changes)
        )
    if reading.time_unit != "s":
        seconds = in_seconds(program.graph, reading.time_unit, program.semantics.dt)
        program = dataclasses.replace(program, graph=seconds)
    if reading.semantics is not None:
        program = under(program, reading.semantics)
    if reading.delay:
        named = msgspec.structs.replace(program.semantics, delayed_edges=_edges(reading.delay))
        program = dataclasses.replace(program, semantics=named)
    return program


def _edges(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    pairs = [tuple(text.split(":")) for text in texts]
    for text, pair in zip(texts, pairs, strict=True):
        if len(pair) != 2 or not all(pair):
            raise UsageError(f"--delay is '{text}'.", "An edge joins two nodes.", "Write FROM:TO.")
    return tuple((a, b) for a, b in pairs)


def _is_bundle(path: Path) -> bool:
    """Whether a path is meant as a bundle folder.

    Raises:
        InputRefused: there is nothing.
    """
    if path.is_dir() or path.is_file():
        return path.is_dir()
    raise InputRefused(
        f"There is no file or bundle '{path}'.",
        "Nothing is there.",
        "Check the path; `rsc train` makes bundles.",
    )


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Numbers separated by commas; `option` names them in the error."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option} is '{text}'.", str(error), "Give numbers separated by commas.") from error


def run_program(
    program: Program, on: str, material: Material, seed: int, probe: Sequence[str] = ()
) -> tuple[RunResult, TargetRow]:
    """Run once; the result and its line for reports."""
    silent = [n for n in probe if n in program.node_names and n not in recorded(program)]
    if silent:
        raise UsageError(
            f"Node '{silent[0]}' cannot be probed.",
            "It has neither spikes nor a state.",
            f"Probe one of {', '.join(recorded(program))}.",
        )
    with deploy(program, on) as model:
        result = material.run(model, seed, Probe.everything(tuple(probe)))
    return result, target_row(on, result, material, seed)


def recorded(program: Program) -> list[str]:
    """The nodes that a probe keeps something of: inputs, and neurons and thresholds."""
    kinds = (*NEURONS, *SPIKING)
    return [*program.inputs, *(name for name, node in walk(program.graph) if isinstance(node, kinds))]


def announce(program: Program, *on: str) -> None:
    """Warn of what would surprise whoever runs a program on these targets."""
    said = [issue for spec in on for issue in get_target(spec).check(program) if issue.severity == "warning"]
    for text in dict.fromkeys(f"{i.node + ': ' if i.node else ''}{i.what} {i.fix}".strip() for i in said):
        warnings.warn(text, stacklevel=2)


def target_row(spec: str, result: RunResult, material: Material, seed: int, model: str = "") -> TargetRow:
    """One run as a line of a report."""
    n = len(result.logits)
    accuracy = None
    if material.data is not None:
        hits = int((result.predictions == material.data.targets).sum())
        accuracy = Accuracy(hits / n, n, wilson(hits, n), "per_run", 1)
    return TargetRow(
        spec=spec,
        available=True,
        version=result.stats.version,
        arithmetic=result.stats.arithmetic,
        n=n,
        accuracy=accuracy,
        wall_s=result.stats.wall_s,
        ms_per_image=1000 * result.stats.wall_s / n,
        model=model,
        seed=seed if material.frames is None else None,
        saturated=result.stats.saturated,
    )


def save_result(result: RunResult, program: Program, path: Path) -> None:
    """Write output, logits, counts, spikes/NODE and state arrays such as v/NODE as .npz, atomically."""
    outputs = list(result.outputs.items())
    arrays: dict[str, Any] = {"logits": result.logits}
    arrays |= {"output": outputs[0][1]} if len(outputs) == 1 else {f"output/{k}": v for k, v in outputs}
    arrays |= {f"counts/{k}": v for k, v in result.spikes.counts.items()}
    arrays |= {f"spikes/{k}": v for k, v in result.spikes.rasters.items()}
    for key, value in result.spikes.states.items():
        node, _, state = key.rpartition(".")
        arrays[f"{state}/{node}"] = value
    arrays["program_digest"] = np.array(program.digest)

    def save(target: Path) -> None:
        with target.open("wb") as file:
            np.savez_compressed(file, **arrays)

    write_atomic(path, save)


def parity_rows(
    program: Program,
    on: Sequence[str],
    material: Material,
    seed: int,
    name: str = "",
    listener: Progress | None = None,
) -> list[ParityRow]:
    """Compare every later target with the first on the same frames.

    Raises:
        UsageError: fewer than two targets.
        TargetUnavailable: one of them cannot run here.
    """
    listener = listener or Silent()
    if len(on) < 2:
        raise UsageError(f"Parity was asked for {len(on)} targets.", "Two are needed.", "Repeat --on.")
    models: list[tuple[str, DeployedModel]] = []
    try:
        for spec in on:
            models.append((spec, deploy(program, spec)))  # noqa: PERF401  # close those that were made
        listener.stage(f"comparing {', '.join(on)}")
        if material.frames is not None:
            return compare(program, models, frames=material.frames, name=name, on_progress=listener.advance)
        data = material.images()
        keys = Keys(seed, data.ids)
        return compare(program, models, x=data.images, keys=keys, name=name, on_progress=listener.advance)
    finally:
        for _, model in models:
            model.close()


def energy_of(
    program: Program, on: str, profiles: Sequence[str], material: Material, seed: int
) -> EnergyReport:
    """Count and price one run."""
    with deploy(program, on) as model:
        result = material.run(model, seed)
    steps = next(iter(result.outputs.values())).shape[0]
    return energy_report(program, result.spikes, steps, profiles=list(profiles), target=on)


def twin(program: Program, name: str) -> ModuleModel:
    """The differentiable torch form of a program, for white-box attacks.

    Raises:
        UsageError: the program names no encoder or no bounds.
    """
    if program.encoder is None or program.bounds is None:
        raise UsageError(
            "This program cannot be attacked.", "It names no encoder or no bounds.", "Export it with both."
        )
    module = deploy(program, "torch").module  # type: ignore[attr-defined]
    return from_module(module, program.encoder, program.bounds, program.semantics.readout, name)


def attack_on(
    program: Program,
    on: Sequence[str],
    material: Material,
    plan: AttackPlan,
    name: str = "model",
    listener: Progress | None = None,
) -> tuple[RobustnessReport, ...]:
    """Attack the torch twin and replay on the other targets."""
    listener = listener or Silent()
    data = material.images()
    model = twin(program, name)
    others = [spec for spec in on if spec != "torch"]
    deployed = [Deployed(spec, deploy(program, spec)) for spec in others]
    runs = len(data) * plan.steps * plan.eot * len(plan.strengths())
    listener.stage(
        f"attacking {len(data)} images with FGSM and PGD-{plan.steps} (EOT {plan.eot}): about {runs:,} runs"
    )
    try:
        reports = evaluate(model, data.images, data.targets, plan, deployed, listener.advance)
    finally:
        for entry in deployed:
            entry.model.close()
    return reports if "torch" in on or not on else reports[1:]


def certify_on(
    program: Program,
    on: str,
    material: Material,
    draws: int,
    alpha: float,
    radii: Sequence[float],
    seed: int,
    listener: Progress | None = None,
) -> CertifyReport:
    """Certify the voted classifier of one target."""
    listener = listener or Silent()
    data = material.images()
    listener.stage(f"certifying {len(data)} images on {on}: {len(data) * draws:,} runs")
    with deploy(program, on) as model:
        return certify(
            model,
            data.images,
            data.targets,
            n=draws,
            alpha=alpha,
            radii=tuple(radii),
            seed=seed,
            samples=data.ids,
            on_progress=listener.advance,
        )


def lint_findings(
    path: Path, reading: Reading, targets: Sequence[str], frames: Path | None = None
) -> list[Finding]:
    """What the targets would refuse or change; without targets, what our own say.

    Raises:
        UsageError: unknown target.
        InputRefused, MalformedFile: the program or the frames cannot be read.
    """
    asked = list(targets or TARGETS)
    for spec in asked:
        if spec.split(":")[0] not in TARGETS and spec not in TOOLS:
            raise unknown_name("target to lint for", spec, [*TARGETS, *TOOLS])
    if _is_bundle(path):
        program, declared, told = reading.program(path), True, True
    else:
        graph = read_graph(path, trust=reading.trust)
        program, declared = from_source(graph, reading.dt)
        told = declares(graph) or reading.semantics is not None
        program = reading.adjusted(program)
    if frames is not None and "torch" not in asked:
        asked.append("torch")  # runs the sample
    issues = {spec: get_target(spec).check(program) for spec in asked if spec not in TOOLS}
    activity = None
    if frames is not None and not any(issue.severity == "error" for issue in issues["torch"]):
        with deploy(program, "torch") as model:
            result = Material.from_file(frames).run(model, 0)
        activity = Activity(result.spikes.counts, len(next(iter(result.outputs.values()))))
    return lint(program, asked, issues=issues, activity=activity, declared=declared, told=told)


def target_list() -> list[TargetRow]:
    """Every target, and why it cannot run here if it cannot."""
    rows = []
    for spec in TARGETS:
        missing = get_target(spec).available()
        rows.append(
            TargetRow(spec, missing is None)
            if missing is None
            else TargetRow(spec, False, reason=missing.reason, fix=missing.fix)
        )
    return rows
