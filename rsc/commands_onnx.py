"""What `rsc export --to onnx` does (choose a form, prove the model, write it), and `rsc run MODEL.onnx`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from rsc.coding import encode
from rsc.errors import MalformedFile, TargetUnavailable, UsageError
from rsc.export.onnx import Arithmetic, Feed, OnnxForm, to_onnx
from rsc.files import write_atomic
from rsc.hw_targets import get_target
from rsc.hw_targets.base import refuse_errors
from rsc.hw_targets.onnxruntime import OnnxRuntimeTarget
from rsc.hw_targets.onnxruntime_file import OnnxFile
from rsc.hw_targets.onnxruntime_proof import Proof, write_proven
from rsc.material import is_bundle
from rsc.program import Program
from rsc.report.value import TargetRow
from rsc.results import Keys
from rsc.robustness.results import Accuracy
from rsc.robustness.statistics import wilson

if TYPE_CHECKING:
    from rsc import feeding
    from rsc.material import Material

SAMPLES = 4  # that a model is proven on; the interpreter is slow
STEPS = 16  # of frames made up where nothing says how many there are


def onnx_form(
    program: Program,
    noise: str | None,
    arithmetic: Arithmetic,
    votes: int | None,
    counts: bool,
    stateful: bool = False,
) -> OnnxForm:
    """The form that the options ask for; `noise` is "frames", "input", "graph" or None."""
    feeds: dict[str, Feed] = {"frames": "frames", "input": "noise", "graph": "graph"}
    fallback = "frames" if program.encoder is None or stateful else "input"
    return OnnxForm(arithmetic, feeds[noise or fallback], votes, counts, outputs=stateful, stateful=stateful)


def write_for_onnx(program: Program, form: OnnxForm, path: Path, source: Path, feed: feeding.Feed) -> Proof:
    """Write the model of a program after it was proven on some of its material.

    Args:
        source: where the program came from; a bundle names its data set.
        feed: what was chosen instead.

    Raises:
        UnsupportedNode: the target `onnxruntime` refuses the program.
        GateFailed: the model and the interpreter differ.
    """
    refuse_errors("onnxruntime", get_target(f"onnxruntime:{form.arithmetic}").check(program))
    chosen = feed.input is not None or feed.data is not None or is_bundle(source)
    few = dataclasses.replace(feed, n=min(feed.limit or SAMPLES, SAMPLES))
    material = few.material(source) if chosen else None
    return write_proven(program, to_onnx(program, form), form, path, _fed(program, form, material, feed.seed))


def proof_line(proof: Proof) -> str:
    """A proof in one sentence."""
    spikes = sum(row.spikes for row in proof.rows)
    differ = sum(row.differ for row in proof.rows)
    return (
        f"proven against {proof.judge}: {differ} of {spikes} spikes in {len(proof.rows)} populations differ, "
        f"outputs by {proof.output_error:.2g} at most ({proof.arithmetic})"
    )


def run_file(
    path: Path, on: str, feed: feeding.Feed, probe: Sequence[str] = (), out: Path | None = None
) -> TargetRow:
    """Run an exported model as it stands; its accuracy is that of its vote if it takes one.

    Args:
        on: `onnxruntime` with options; "reference", the default of the verb, is taken for it.
        out: .npz of everything the model gives, by the names of its outputs.

    Raises:
        UsageError: another target, or an arithmetic that the file does not have.
        InputRefused: the reader for hostile files refuses it, or it takes something else.
    """
    spec = "onnxruntime" if on == "reference" else on
    target = get_target(spec)
    if not isinstance(target, OnnxRuntimeTarget) or probe:
        raise UsageError(
            f"'{path}' is run on {on}{' with --probe' if probe else ''}.",
            "A model in ONNX runs in ONNX Runtime and gives what it was exported with.",
            "Use --on onnxruntime, or the bundle it was made of.",
        )
    missing = target.available()
    if missing is not None:
        raise TargetUnavailable(f"Target '{spec}' cannot run here.", missing.reason, missing.fix)
    model, material = OnnxFile(path, target.runtime), feed.material(path)
    if set(spec.split(":")) & set(get_args(Arithmetic)) - {model.arithmetic}:
        raise UsageError(
            f"'{path}' is run on {on}.",
            f"Its arithmetic is {model.arithmetic}.",
            "Leave it out, or export it again.",
        )
    frames = material.ready_made()
    if frames is None:
        data = material.images()
        found = model.run_images(np.asarray(data.images), Keys(feed.seed, data.ids))
    else:
        found = model.run_frames(frames)
    if out is not None:
        given = {name: value for name, value in found.items() if name != "seconds"}
        write_atomic(out, lambda file: _save(file, given | {"program_digest": np.array(model.digest)}))
    return _row(path, spec, model, material, feed.seed, found)


def _row(
    path: Path, spec: str, model: OnnxFile, material: Material, seed: int, found: Mapping[str, np.ndarray]
) -> TargetRow:
    if "logits" not in found:
        raise MalformedFile(f"'{path}' gives no logits.", "Every exported model does.", "Export it again.")
    n, wall, accuracy, keyed = len(found["logits"]), float(found["seconds"]), None, model.feed != "graph"
    if material.data is not None:
        chosen = found.get("prediction", found["logits"].reshape(n, -1).argmax(1))
        hits = int((chosen == np.asarray(material.data.targets)).sum())
        runs = int(found["votes"][0].sum()) if "votes" in found else 1
        accuracy = Accuracy(hits / n, n, wilson(hits, n), "vote" if "votes" in found else "per_run", runs)
    return TargetRow(
        spec=spec,
        available=True,
        version=model.version,
        arithmetic=model.arithmetic,
        n=n,
        accuracy=accuracy,
        wall_s=wall,
        ms_per_image=1000 * wall / n,
        model=path.name,
        seed=seed if keyed and material.ready_made() is None else None,
        saturated=int(found.get("saturated", 0)),
    )


def _save(path: Path, arrays: Mapping[str, Any]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _fed(program: Program, form: OnnxForm, material: Material | None, seed: int) -> Any:
    """Images for a model with an encoder, else frames."""
    images = material is not None and material.frames is None and not material.images().frames
    if form.feed != "frames":
        if material is not None and images:
            return np.asarray(material.images().images)
        low, high = program.bounds or (0.0, 1.0)
        rng = np.random.default_rng(seed)
        return rng.uniform(low, high, (SAMPLES, *program.input_shape)).astype(np.float32)
    if material is None:
        return _random_frames(program, seed)
    if material.frames is not None:
        return material.frames
    data = material.images()
    if data.frames:
        return np.moveaxis(np.asarray(data.images), 1, 0)
    if program.encoder is None:
        return _random_frames(program, seed)
    return encode(program.encoder, np.asarray(data.images), Keys(seed, data.ids))


def _random_frames(program: Program, seed: int) -> Mapping[str, np.ndarray]:
    """Spikes at a rate of a third, by Input node."""
    rng, steps = np.random.default_rng(seed), STEPS if program.encoder is None else program.encoder.steps
    found = {}
    for name in program.inputs:
        shape = np.atleast_1d(next(iter(program.graph.nodes[name].input_type.values())))
        found[name] = (rng.random((steps, SAMPLES, *map(int, shape))) < 1 / 3).astype(np.float32)
    return found
