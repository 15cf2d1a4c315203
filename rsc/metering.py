"""Runs a program on a target in parts, counts every part, and prices the whole: `rsc energy`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec
import nir
import numpy as np

from rsc.energy import Counts, EnergyReport, Profile, count, load_profile, report_of
from rsc.energy.curve import CurveTally, chosen_steps
from rsc.energy.edges import SPIKING, Net, open_net
from rsc.energy.measured import measure, meters
from rsc.energy.pricing import check_amounts
from rsc.energy.results import Conventions
from rsc.energy.stream import count_stream, joined
from rsc.errors import InputRefused, UsageError
from rsc.hw_targets import DeployedModel, deploy
from rsc.hw_targets.base import StreamingModel
from rsc.material import Material
from rsc.program import Program
from rsc.results import Probe

BUDGET = 2**26  # bytes of frames and rasters that one part may take
Kind = Literal["auto", "events", "graded"]


@dataclasses.dataclass(frozen=True)
class Metering:
    """How a run is counted.

    Args:
        seed: of the encoder's noise; `seeds` runs with seed, seed + 1, ... count every sample so often.
        kind: what ready-made frames are: "events" (0 or 1, accumulated), "graded" (multiplied), or "auto":
            events if the whole material holds nothing but 0 and 1. The report says which, and why. Images
            pass through the program's encoder, whose kind decides.
        votes: passes per decision.
        step_time_s: duration of a step, for static power.
        curve: energy and accuracy after every step, too.
        touched: whether to count the updates with synaptic input, from the rasters of all neurons. Without it
            the price of a neuron update is an interval.
        measure_s: seconds to repeat the run under the machine's energy meters; 0 does not.
        conventions: see `Conventions`.
    """

    seed: int = 0
    seeds: int = 1
    kind: Kind = "auto"
    votes: int = 1
    step_time_s: float | None = None
    curve: bool = False
    touched: bool = True
    measure_s: float = 0.0
    conventions: Conventions = dataclasses.field(default_factory=Conventions)

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise UsageError(
                f"{self.seeds} seeds were asked for.", "At least one is needed.", "Use 1 or more."
            )
        check_amounts(self.votes, self.step_time_s)
        if not 0 <= self.measure_s < math.inf:
            raise UsageError(
                f"A measurement of {self.measure_s:g} s?", "A duration is above 0.", "Take 2 or more."
            )


def meter(
    program: Program,
    on: str,
    profiles: Sequence[str | Profile],
    material: Material,
    how: Metering | None = None,
    budget: int = BUDGET,
) -> EnergyReport:
    """Count and price the run of a program on its material, in parts of bounded memory.

    Raises:
        UsageError: what was asked does not fit the material.
        InputRefused: frames declared as events that are not.
    """
    how = how or Metering()
    _check_size(material)
    profiles = [p if isinstance(p, Profile) else load_profile(p) for p in profiles]
    events = input_events(material, how.kind)
    with deploy(program, on) as model:
        size = _per_sample(program, material)
        long = size > budget and not how.curve and how.conventions.pooling == "fold"
        if long and material.frames is not None and isinstance(model, StreamingModel):
            counts, tally = _stream(program, model, material.frames, events, on, budget, how.touched), None
        else:
            counts, tally = _parts(program, model, material, how, events, on, max(1, budget // size))
        measured, silent = _measured(model, material, how)
    seeds = 1 if material.frames is not None else how.seeds
    report = report_of(
        counts, profiles, how.conventions, votes=how.votes, step_time_s=how.step_time_s, seeds=seeds
    )
    curve = () if tally is None else tally.points(profiles, how.conventions)
    notes = (*report.notes, *taken_as(material, how.kind, events))
    return msgspec.structs.replace(report, notes=notes, curve=curve, measured=measured, not_measured=silent)


def input_events(material: Material, kind: Kind) -> bool | None:
    """Whether the Inputs of a run carry events; None if an encoder makes them.

    Raises:
        UsageError: images were said to be events.
    """
    if not ready_made(material):
        if kind != "auto":
            raise UsageError(
                f"Images were said to be {kind}.",
                "The program's encoder decides that.",
                "Give frames instead.",
            )
        return None
    return all(map(only_events, _all_frames(material))) if kind == "auto" else kind == "events"


def taken_as(material: Material, kind: Kind, events: bool | None) -> Iterator[str]:
    """What the frames were counted as, and why; nothing if an encoder made them."""
    if events is None:
        return
    meaning = "events (accumulates)" if events else "graded values (multiplications)"
    if kind != "auto":
        yield f"The frames were declared to be {kind} and were counted as {meaning}."
    elif events:
        yield f"The frames hold nothing but 0 and 1 and were counted as {meaning}; --input-as graded differs."
    else:
        arrays = list(_all_frames(material))
        others = sum(int(np.count_nonzero((a != 0) & (a != 1))) for a in arrays)
        share = others / sum(a.size for a in arrays)
        yield (
            f"The frames were counted as {meaning}: {100 * share:.3g} % of their values are neither 0 nor 1."
        )


def _check_size(material: Material) -> None:
    """Refuse material without a single step or sample."""
    for frames in _all_frames(material):
        if frames.size == 0:
            raise InputRefused(
                f"The frames are empty: their shape is {frames.shape}.",
                "Nothing happens in a run without steps, samples or values.",
                "Give at least one step of one sample.",
            )


def ready_made(material: Material) -> bool:
    """Whether the material is frames, which no encoder touches."""
    return material.frames is not None or (material.data is not None and material.data.frames)


def only_events(values: np.ndarray) -> bool:
    """Whether an array holds nothing but 0 and 1."""
    return values.dtype == bool or bool(((values == 0) | (values == 1)).all())


def _all_frames(material: Material) -> Iterator[np.ndarray]:
    if isinstance(material.frames, Mapping):
        yield from material.frames.values()
    elif material.frames is not None:
        yield material.frames
    else:
        data = material.images()
        yield from (np.asarray(data.images[k]) for k in range(len(data)))


def slices(material: Material, most: int) -> Iterator[Material]:
    """The material in parts of at most `most` samples, in order."""
    frames = material.frames
    if frames is not None:
        first = next(iter(frames.values())) if isinstance(frames, Mapping) else frames
        for k in range(0, first.shape[1], most):
            cut = slice(k, k + most)
            named = (
                {n: f[:, cut] for n, f in frames.items()} if isinstance(frames, Mapping) else frames[:, cut]
            )
            yield Material(frames=named)
        return
    data = material.images()
    for k in range(0, len(data), most):
        cut = slice(k, k + most)
        part = {"images": data.images[cut], "targets": data.targets[cut], "ids": data.ids[cut]}
        yield Material(data=dataclasses.replace(data, **part))


def _parts(
    program: Program,
    model: DeployedModel,
    material: Material,
    how: Metering,
    events: bool | None,
    on: str,
    most: int,
) -> tuple[Counts, CurveTally | None]:
    """Counts of all samples under every seed, and the curve if one was asked for."""
    net = open_net(program)
    touched, pooling = how.touched, how.conventions.pooling
    watched = _watched(net, how)
    probe = Probe(spikes=watched, counts=not _all(net) <= watched)  # else counts follow from the rasters
    counts: list[Counts] = []
    tally: CurveTally | None = None
    for seed in range(how.seed, how.seed + (1 if ready_made(material) else how.seeds)):
        for part in slices(material, most):
            result = part.run(model, seed, probe)
            steps = len(next(iter(result.outputs.values())))
            if events and not all(map(only_events, _all_frames(part))):
                raise InputRefused(
                    "Frames were declared to be events.",
                    "They hold values other than 0 and 1.",
                    "Count them as graded: --input-as graded.",
                )
            counts.append(count(program, result.spikes, steps, on, events, pooling, touched=touched))
            if how.curve:
                tally = tally or CurveTally(program, chosen_steps(steps), events, pooling, touched)
                tally.add(result, None if part.data is None else part.data.targets)
    return joined(counts), tally


def _watched(net: Net, how: Metering) -> frozenset[str]:
    """Nodes whose rasters are needed: all, or those whose events may come too late to be delivered."""
    if how.touched or how.curve or how.conventions.pooling == "graded":
        return _all(net)
    late = (
        edge.source
        for edges in net.arrivals.values()
        for edge in edges
        if edge.lag or any(isinstance(net.nodes[n], nir.Delay) for n in edge.path)
    )
    return frozenset(n for n in late if n in net.inputs or isinstance(net.nodes[n], SPIKING))


def _all(net: Net) -> frozenset[str]:
    """Inputs and all that spikes."""
    return frozenset([*net.inputs, *(n for n, node in net.nodes.items() if isinstance(node, SPIKING))])


def _stream(
    program: Program,
    model: StreamingModel,
    frames: np.ndarray | dict[str, np.ndarray],
    events: bool | None,
    on: str,
    budget: int,
    touched: bool,
) -> Counts:
    """Counts of long recordings, a few samples at a time and each in chunks of steps."""
    named = frames if isinstance(frames, Mapping) else {program.inputs[0]: frames}
    steps, samples = next(iter(named.values())).shape[:2]
    chunk = max(1, budget // _sites(program))
    parts = [
        count_stream(
            program,
            model,
            ({n: f[t : t + chunk, [k]] for n, f in named.items()} for t in range(0, steps, chunk)),
            events,
            on,
            touched,
        )
        for k in range(samples)
    ]
    return joined(parts)


def _measured(model: DeployedModel, material: Material, how: Metering) -> tuple[tuple, tuple[str, ...]]:
    """Rows of the machine's meters, and why others are missing; nothing if they were not asked for."""
    if not how.measure_s:
        return (), ()
    counters, missing = meters()
    rows, still = measure(lambda: len(material.run(model, how.seed).logits), how.measure_s, counters)
    return rows, (*missing, *still)


def _sites(program: Program) -> int:
    """Bytes that one step of one sample takes: float frames, and rasters of all that spikes."""
    net = open_net(program)
    inputs = sum(5 * math.prod(net.shapes[n]) for n in net.inputs)
    return inputs + sum(
        math.prod(net.shapes[n]) for n, node in net.nodes.items() if isinstance(node, SPIKING)
    )


def _per_sample(program: Program, material: Material) -> int:
    if material.frames is not None:
        steps = len(next(_all_frames(material)))
    elif material.images().frames:
        steps = material.images().images.shape[1]
    else:
        steps = program.encoder.steps if program.encoder is not None else 1
    return steps * _sites(program)
