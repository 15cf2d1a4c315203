"""What the verbs of the command line do, as plain functions that return values and print nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from rsc.discretise import NEURONS, SPIKING
from rsc.energy.results import EnergyReport
from rsc.errors import UsageError, unknown_name
from rsc.export.lint import TOOLS, Activity, Finding, from_source, lint
from rsc.export.reader import read_graph
from rsc.files import write_atomic
from rsc.hw_targets import TARGETS, DeployedModel, deploy, get_target
from rsc.material import Material, is_bundle
from rsc.metering import Metering, meter
from rsc.parity import compare
from rsc.parity_results import ParityRow
from rsc.program import Program, declares, walk
from rsc.progress import Progress, Silent
from rsc.quantiser import Quantiser
from rsc.report.value import TargetRow
from rsc.results import Issue, Keys, Probe, RunResult
from rsc.robustness.certify import Plan, certify, vote_or_abstain
from rsc.robustness.model import ModuleModel, from_module
from rsc.robustness.plan import duration
from rsc.robustness.predict import Generated
from rsc.robustness.results import Accuracy, CertifyReport
from rsc.robustness.statistics import wilson

if TYPE_CHECKING:
    from rsc.calibration import CalibrationRow
    from rsc.export.placement import Placement
    from rsc.export.placement_traffic import Traffic
    from rsc.feeding import Reading

CHIPS = ("loihi1", "loihi2")


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


def on_grid(program: Program, grid: int | None) -> Program:
    """The program with an encoder of so many levels per unit (None: as it is).

    Raises:
        UsageError: it has no encoder, or one that cannot be put on a grid.
    """
    if grid is None:
        return program
    if program.encoder is None:
        raise UsageError("This program has no encoder.", "Only noise has a grid.", "Leave --grid out.")
    return dataclasses.replace(program, encoder=msgspec.structs.replace(program.encoder, grid=grid))


def quantised(
    program: Program, material: Material | None, mode: str, bits: int, seed: int
) -> tuple[Program, tuple[CalibrationRow, ...]]:
    """The program with the scales that calibration on the material finds; without any, with so many bits."""
    from rsc.calibration import calibrate

    if material is None:
        return dataclasses.replace(program, quantiser=Quantiser(bits)), ()
    frames = material.ready_made()
    if frames is not None:
        found = calibrate(program, frames, None, mode, bits)  # type: ignore[arg-type]
    else:
        data = material.images()
        found = calibrate(program, data.images, Keys(seed, data.ids), mode, bits)  # type: ignore[arg-type]
    return found.program, found.rows


def write_for_netx(program: Program, path: Path) -> None:
    """The integers of a program as lava-dl's netx reads them; biases are rounded to what it holds."""
    from rsc.export.loihi import lower
    from rsc.export.netx import round_biases, write_netx

    layered = lower(program, "integer")
    rounded = round_biases(layered)
    if rounded.digest != layered.digest:
        warnings.warn(
            "Biases are rounded to multiples of 64 units of v, as netx holds no others.", stacklevel=2
        )
    write_netx(rounded, path)


def placed(
    program: Program, chip: str, material: Material | None, seed: int
) -> tuple[Placement, Traffic | None]:
    """The neurons of a program on the cores of a chip, and the messages between them while it runs."""
    from rsc.export.chips import limits
    from rsc.export.loihi import lower
    from rsc.export.placement import place
    from rsc.export.placement_traffic import traffic

    layered = lower(program, "integer")
    placement = place(layered, limits(chip))
    if material is None or not placement.fits:
        return placement, None
    with deploy(program, "loihi") as model:
        record = material.run(model, seed).spikes
    return placement, traffic(layered, placement, record)


def _issues(program: Program, spec: str) -> list[Issue]:
    """What a target of ours, or a chip, says of a program."""
    if spec not in CHIPS:
        return get_target(spec).check(program)
    from rsc.export import loihi
    from rsc.export.placement import chip_issues

    errors = [issue for issue in loihi.check(program) if issue.severity == "error"]
    return errors or chip_issues(loihi.lower(program, "integer"), spec)


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
    accuracy, data = None, material.data
    if data is not None:
        hits = int((result.predictions == data.targets).sum())
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
        seed=None if material.frames is not None or (data is not None and data.frames) else seed,
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
        frames = material.ready_made()
        if frames is not None:
            return compare(program, models, frames=frames, name=name, on_progress=listener.advance)
        data = material.images()
        keys = Keys(seed, data.ids)
        return compare(program, models, x=data.images, keys=keys, name=name, on_progress=listener.advance)
    finally:
        for _, model in models:
            model.close()


def energy_of(
    program: Program,
    on: str,
    profiles: Sequence[str],
    material: Material,
    seed: int,
    how: Metering | None = None,
) -> EnergyReport:
    """Count and price a run on the material; `how` may ask for more than one plain run under `seed`."""
    return meter(program, on, profiles, material, how or Metering(seed))


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


def certify_on(
    program: Program,
    on: str,
    material: Material,
    plan: Plan,
    radii: Sequence[float],
    *,
    twin: str | None = None,
    noise: str = "keyed",
    vote: int = 0,
    state: Path | None = None,
    listener: Progress | None = None,
) -> CertifyReport:
    """Certify the voted classifier of one target, by its own runs or through a faster twin.

    Args:
        twin: target that draws in its place.
        noise: "keyed", or "generator" for that of the device (torch).
        vote: runs per image of a vote that may abstain; 0 for none.
        state: see `certify`.
    """
    listener = listener or Silent()
    data = material.perturbable(program)
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(deploy(program, on))
        fast = target if twin is None else stack.enter_context(deploy(program, twin))
        subject = _generated(program, fast) if noise == "generator" else fast
        each = seconds_per_run(fast, data.images[:1], data.ids[:1])
        runs = plan.runs(len(data), twin is not None) + vote * len(data)
        took = duration(runs * each)
        listener.stage(f"certifying {len(data)} images on {on}: {runs:,} runs, about {took}")
        report = certify(
            subject,
            data.images,
            data.targets,
            encoder=program.encoder,
            plan=plan,
            target=None if twin is None else target,
            radii=tuple(radii),
            samples=data.ids,
            state=state,
            on_progress=listener.advance,
        )
        if not vote:
            return report
        options: dict[str, Any] = {"n": vote, "alpha": plan.alpha, "seed": plan.seed, "samples": data.ids}
        voted = vote_or_abstain(target, data.images, data.targets, **options)
        return msgspec.structs.replace(report, voted=voted)


def _generated(program: Program, model: DeployedModel) -> Generated:
    """The model's module under the device's own noise.

    Raises:
        UsageError: it has no module, or the program names no encoder or no bounds.
    """
    module = getattr(model, "module", None)
    if module is None or program.encoder is None or program.bounds is None:
        raise UsageError(
            f"Target '{model.target}' draws no noise of its own.", "Only torch does.", "Use keyed noise."
        )
    return Generated(from_module(module, program.encoder, program.bounds, program.semantics.readout))


def seconds_per_run(model: DeployedModel, image: np.ndarray, ids: np.ndarray, runs: int = 32) -> float:
    """Of one image in a batch, by a trial on noise of its own, a larger one on quick targets."""
    model.run(image, Keys(0, ids, 0), Probe(counts=False))
    for size in (runs, 16 * runs):
        x, keys = np.repeat(image, size, 0), Keys(0, np.repeat(ids, size), np.arange(size))
        start = time.perf_counter()
        model.run(x, keys, Probe(counts=False))
        took = time.perf_counter() - start
        if took > 0.05:
            break
    return took / size


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
        if spec.split(":")[0] not in TARGETS and spec not in (*TOOLS, *CHIPS):
            raise unknown_name("target to lint for", spec, [*TARGETS, *TOOLS, *CHIPS])
    if is_bundle(path):
        program, declared, told = reading.program(path), True, True
    else:
        graph = read_graph(path, trust=reading.trust)
        program, declared = from_source(graph, reading.dt)
        told = declares(graph) or reading.semantics is not None
        program = reading.adjusted(program)
    if frames is not None and "torch" not in asked:
        asked.append("torch")  # runs the sample
    issues = {spec: _issues(program, spec) for spec in asked if spec not in TOOLS}
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
