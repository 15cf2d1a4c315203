"""What `rsc export --to onnx` does: choose a form, find something to prove the model on, and write it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rsc.coding import encode
from rsc.export.onnx import Arithmetic, Feed, OnnxForm, to_onnx
from rsc.hw_targets import get_target
from rsc.hw_targets.base import refuse_errors
from rsc.hw_targets.onnxruntime_proof import Proof, write_proven
from rsc.material import is_bundle
from rsc.program import Program
from rsc.results import Keys

if TYPE_CHECKING:
    from rsc import feeding
    from rsc.material import Material

SAMPLES = 4  # that a model is proven on; the interpreter is slow
STEPS = 16  # of frames made up where nothing says how many there are


def onnx_form(
    program: Program, noise: str | None, arithmetic: Arithmetic, votes: int | None, counts: bool
) -> OnnxForm:
    """The form that the options ask for; `noise` is "frames", "input", "graph" or None."""
    feeds: dict[str, Feed] = {"frames": "frames", "input": "noise", "graph": "graph"}
    fallback = "frames" if program.encoder is None else "input"
    return OnnxForm(arithmetic, feeds[noise or fallback], votes, counts)


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
