"""A model file is held against the interpreter of its program, in a process of its own, before it is used.

The file as it stands is given more outputs (frames, spikes of every node) and run on the CPU; the frames that
its encoder made are fed to `reference` (to `loihi`, of integers), and every node is compared step by step.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from onnx import ModelProto, helper

from rsc.coding import encode, keyed_noise
from rsc.encoder_spec import EncoderSpec
from rsc.errors import GateFailed, InputRefused, RscError, TargetFault
from rsc.export.onnx import Feed, OnnxForm
from rsc.export.onnx_reader import parse_onnx, properties
from rsc.export.reader import read_program
from rsc.export.writer import write_program
from rsc.files import write_atomic
from rsc.graph import topology
from rsc.hw_targets import deploy, isolate
from rsc.hw_targets.onnxruntime_session import Runtime
from rsc.program import Program
from rsc.results import Keys, Probe, RunResult

# arithmetic -> places (a neuron in a step) that may differ, as rounding moves membranes that stand at their
# threshold, as a share of the interpreter's spikes (of all places, a layer that rarely fires could go wrong);
# and error of an Output that may remain where no spike differs, as a share of its largest value
ALLOWED = {
    "float64": (1e-5, 1e-9),
    "float32": (5e-3, 1e-4),
    "float16": (0.05, 0.02),
    "bfloat16": (0.1, 0.1),
    "integer": (0.0, 0.0),
}
NODE_FACTOR, NODE_PLACES = 4, 4  # one node may differ by so much more, or in so few places
MODEL, PROGRAM, FED, VERDICT = "model.onnx", "program.nir", "fed.npz", "verdict.json"


class NodeRow(msgspec.Struct, frozen=True):
    """One spiking node in the file and in the interpreter.

    Fields:
        neurons_steps: compared places: neurons times samples times steps.
        spikes: in the interpreter.
        differ: places where the two differ.
        first_step: step of the first difference; -1 without one.
    """

    node: str
    neurons_steps: int
    spikes: int
    differ: int
    first_step: int


class Proof(msgspec.Struct, frozen=True):
    """What came out.

    Fields:
        judge: "reference" or "loihi".
        arithmetic: of the file.
        allowed: how many places may differ, as a share of all spikes.
        rows: spiking nodes in the order of the data flow.
        output_error: largest difference of an Output, as a share of its largest value.
    """

    judge: str
    arithmetic: str
    allowed: float
    rows: tuple[NodeRow, ...]
    output_error: float

    @property
    def share(self) -> float:
        """How many places differ, as a share of the interpreter's spikes."""
        return sum(r.differ for r in self.rows) / max(1, sum(r.spikes for r in self.rows))

    @property
    def first(self) -> NodeRow | None:
        """The node that differs at the earliest step, and of those the first in the data flow."""
        return min((r for r in self.rows if r.differ), key=lambda row: row.first_step, default=None)

    @property
    def holds(self) -> bool:
        """Whether the differences are those of rounding."""
        if not self.first:
            return self.output_error <= ALLOWED[self.arithmetic][1]
        if not self.allowed:
            return False
        few = sum(row.differ for row in self.rows) <= NODE_PLACES
        most = [max(NODE_PLACES, NODE_FACTOR * self.allowed * row.spikes) for row in self.rows]
        nowhere_many = all(row.differ <= limit for row, limit in zip(self.rows, most, strict=True))
        return (few or self.share <= self.allowed) and nowhere_many


def write_proven(
    program: Program,
    model: ModelProto,
    form: OnnxForm,
    path: Path,
    fed: np.ndarray | Mapping[str, np.ndarray],
) -> Proof:
    """Prove a model in a child process, then give its file its name.

    Args:
        fed: images [B, ...] of a model with an encoder, else frames [T, B, ...] (by Input node if several).

    Raises:
        GateFailed: the file and the interpreter differ; nothing is written.
        TargetFault: the child failed.
    """
    data = model.SerializeToString()
    proof = prove(program, data, form, fed)
    if not proof.holds:
        first = proof.first
        where = f"First in '{first.node}' at step {first.first_step}; " if first else ""
        raise GateFailed(
            f"The exported model differs from {proof.judge}.",
            f"{where}{proof.share:.3%} of all spikes ({proof.allowed:.3%} may differ in {proof.arithmetic}), "
            f"outputs by {proof.output_error:.2g}.",
            "Nothing was written. Use a wider arithmetic, or report it with the program.",
        )
    write_atomic(path, data)
    return proof


def prove(program: Program, data: bytes, form: OnnxForm, fed: np.ndarray | Mapping[str, np.ndarray]) -> Proof:
    """Hold a model against its interpreter in a child process; raises TargetFault if that fails."""
    named = fed if isinstance(fed, Mapping) else {"": fed}
    with isolate.private_folder() as folder:
        (folder / MODEL).write_bytes(data)
        write_program(program, folder / PROGRAM)
        arrays: dict[str, Any] = {f"fed {name}": value for name, value in named.items()}
        np.savez(folder / FED, **arrays)
        command = [sys.executable, "-m", __spec__.name, form.feed, form.arithmetic, str(form.votes or 0)]
        paths = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path if entry)
        isolate.run(command, folder, environment={"PYTHONPATH": paths}, name="The proof")
        verdict = (folder / VERDICT).read_bytes()
    try:
        found = msgspec.json.decode(verdict, type=Proof | str)
    except msgspec.DecodeError as error:
        raise TargetFault("The proof is unreadable.", str(error), "Report it.") from error
    if isinstance(found, str):
        raise TargetFault("The exported model could not be proven.", found, "Report it with the program.")
    return found


def compared(
    program: Program,
    data: bytes,
    feed: Feed,
    arithmetic: str,
    votes: int | None,
    fed: np.ndarray | Mapping[str, np.ndarray],
) -> Proof:
    """The comparison itself, in this process.

    Raises:
        InputRefused: the file is not one of ours, or the encoder in it makes other frames.
    """
    model = parse_onnx(data)
    if properties(model).get("rsc.digest") != program.digest:
        raise InputRefused("The model is of another program.", "The digests differ.", "Export it again.")
    judge = "loihi" if arithmetic == "integer" else "reference"
    found, frames = _run(program, model, feed, votes, fed)
    with deploy(program, judge) as interpreter:
        expected = interpreter.run_frames(frames, Probe(spikes=frozenset(program.node_names)))
    return Proof(
        judge, arithmetic, ALLOWED[arithmetic][0], _rows(program, found, expected), _error(found, expected)
    )


def _run(
    program: Program,
    model: ModelProto,
    feed: Feed,
    votes: int | None,
    fed: np.ndarray | Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What the file does, by "spikes.NODE" and "outputs.NODE", and the frames it saw."""
    if feed == "frames":
        named = fed if isinstance(fed, Mapping) else {program.inputs[0]: fed}
        inputs = {f"frames.{name}": np.require(x, np.float32, "C") for name, x in named.items()}
        found = _probed(model, inputs)
        return found, {name: inputs[f"frames.{name}"] for name in program.inputs}
    images = np.require(fed, np.float32, "C")
    keys = [Keys(0, np.arange(len(images)), draw=k) for k in range(votes or 1)]
    spec = program.encoder
    assert spec is not None
    inputs, name = _images_fed(spec, model, images, keys, votes), program.inputs[0]
    found = _probed(model, inputs)
    frames = found[f"frames.{name}"].astype(np.float32)
    frames = np.broadcast_to(frames, (spec.steps, *frames.shape[1:]))
    expected = np.concatenate([encode(spec, images, key) for key in keys], 1)
    if feed == "noise" and not np.array_equal(frames, expected):
        raise InputRefused(
            "The encoder in the file makes other frames.",
            f"First at {np.argwhere(frames != expected)[0].tolist()} of [T, B, ...].",
            "Report it with the program.",
        )
    return found, {name: frames}


def _images_fed(
    spec: EncoderSpec, model: ModelProto, images: np.ndarray, keys: list[Keys], votes: int | None
) -> dict[str, np.ndarray]:
    """Inputs of a model with an encoder: the images, and keyed noise where it takes noise."""
    inputs, wanted = {"image": images}, {value.name for value in model.graph.input}
    if "noise" in wanted:
        noise = [np.asarray(keyed_noise(spec, key, images.shape[1:])) for key in keys]
        inputs["noise"] = np.stack(noise) if votes else noise[0]
    elif "runs" in wanted:
        inputs["runs"] = np.array([votes], np.int64)
    return inputs


def _probed(model: ModelProto, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run the file with the values in between that it names as further outputs."""
    inside: dict[str, str] = msgspec.json.decode(properties(model)["rsc.values"], type=dict[str, str])
    given = {value.name for value in (*model.graph.output, *model.graph.input)}
    more = ModelProto()
    more.CopyFrom(model)
    for name in dict.fromkeys(inside.values()):
        if name not in given:
            more.graph.output.append(helper.make_empty_tensor_value_info(name))
    session = Runtime(threads=1).session(more.SerializeToString())
    wanted = {key: name for key, name in inside.items() if name not in inputs}
    names = list(dict.fromkeys(wanted.values()))
    found: dict[str, Any] = dict(zip(names, session.run(names, dict(inputs)), strict=True))
    return {key: found[name] for key, name in wanted.items()}


def _rows(program: Program, found: Mapping[str, np.ndarray], expected: RunResult) -> tuple[NodeRow, ...]:
    order = topology(program.graph, program.semantics).order
    rows = []
    for node in order:
        if f"spikes.{node}" not in found or node not in expected.spikes.rasters:
            continue
        ours, theirs = found[f"spikes.{node}"].astype(bool), expected.spikes.rasters[node]
        wrong = (ours != theirs).reshape(len(ours), -1)
        steps = np.flatnonzero(wrong.any(1))
        first = int(steps[0]) if len(steps) else -1
        rows.append(NodeRow(node, ours.size, int(theirs.sum()), int(wrong.sum()), first))
    return tuple(rows)


def _error(found: Mapping[str, np.ndarray], expected: RunResult) -> float:
    errors = [0.0]
    for name, values in expected.outputs.items():
        if f"outputs.{name}" in found:
            largest = max(1.0, float(np.abs(values).max()))
            errors.append(float(np.abs(found[f"outputs.{name}"] - values).max()) / largest)
    return max(errors)


def main(feed: Feed, arithmetic: str, votes: str) -> None:
    """The child: read the folder it runs in, write the verdict there."""
    with np.load(FED, allow_pickle=False) as stored:
        named = {key.removeprefix("fed "): stored[key] for key in stored}
    fed = named[""] if list(named) == [""] else named
    try:
        program = read_program(Path(PROGRAM))
        verdict: Proof | str = compared(
            program, Path(MODEL).read_bytes(), feed, arithmetic, int(votes) or None, fed
        )
    except RscError as error:
        verdict = str(error)
    Path(VERDICT).write_bytes(msgspec.json.encode(verdict))


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]
