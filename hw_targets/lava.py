"""Intel's Lava (lava-nc 0.10.0) as a target, in a worker process of its own.

Spec: `lava[:fixed|float][:models|runtime|loihi2][:sparse|conv][:frames|encoder]`.

fixed (default) runs Lava's bit-accurate Loihi models on the quantised program, float its floating-point
models. The engine "models" (default) steps Lava's own process models in one Python process; "runtime" is
Lava's multi-process runtime, with the same results, slower by an order of magnitude. "loihi2" only asks
that runtime for its Loihi 2 configuration; it needs Intel's research stack and is untested. "sparse"
(default) writes a convolution out for Lava's Sparse process where that is the same operator and small;
"conv" always uses Lava's Conv process, which loops over channel pairs in Python. "frames" (default) sends
ready-made frames; "encoder" makes the encoder a process of the network, which draws the same frames from the
same keys.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from rsc.errors import TargetUnavailable, UsageError
from rsc.hw_targets import lava_env
from rsc.hw_targets.base import DeployedModel, StepsResult, checked_images, refuse_errors
from rsc.hw_targets.lava_encoder import EncoderJob, Extras, check_encoder, encoder_job
from rsc.hw_targets.lava_job import JobOptions, Recording, execute, plan
from rsc.layered import Layer, LayeredProgram
from rsc.program import Program
from rsc.results import Issue, Keys, Probe, SpikeRecord, Unavailable

ARITHMETIC: dict[str, Literal["integer", "float"]] = {"fixed": "integer", "float": "float"}
ENGINES = ("models", "runtime", "loihi2")
CONVOLUTIONS = ("sparse", "conv")
SOURCES = ("frames", "encoder")
JOB_BYTES = 256 << 20  # of payload and records; larger batches are cut into several jobs
STATE_SCALE = 64  # v is held in 64ths of a weight unit


class LavaTarget:
    """The target; options as in the module's text.

    Args:
        options: at most one arithmetic, one engine, one form of convolution and one kind of source.
        wall_s: time budget of one job in seconds; None: grows with the work.

    Raises:
        UsageError: an option is not known, or given twice.
    """

    name = "lava"

    def __init__(self, *options: str, wall_s: float | None = None) -> None:
        self.arithmetic = ARITHMETIC[_choice(options, tuple(ARITHMETIC), "fixed")]
        self.engine = _choice(options, ENGINES, "models")
        self.convolution = _choice(options, CONVOLUTIONS, "sparse")
        self.encoder = _choice(options, SOURCES, "frames") == "encoder"
        self.wall_s = wall_s
        if "loihi2" in options and "float" in options:
            raise UsageError("Target 'lava' was given float and loihi2.", "The chip is integer.", "Drop one.")
        known = (*ARITHMETIC, *ENGINES, *CONVOLUTIONS, *SOURCES)
        unknown = [o for o in options if o not in known]
        if unknown:
            raise UsageError(
                f"Target 'lava' has no option '{unknown[0]}'.",
                f"Options: {', '.join(known)}.",
                "Write e.g. lava:float:runtime.",
            )

    def available(self) -> Unavailable | None:
        """None if an interpreter with lava-nc is known (for "loihi2": with Intel's stack)."""
        status = lava_env.status()
        if not status.available:
            return Unavailable(status.reason, status.fix)
        if self.engine == "loihi2" and not status.loihi:
            return Unavailable(
                "Lava's Loihi 2 extension is missing; Intel gives it to members of its research community.",
                "Set RSC_LAVA_PYTHON to an interpreter that has it, or use lava:fixed.",
            )
        return None

    def check(self, program: Program) -> list[Issue]:
        """What the lowering to Loihi's arithmetic refuses or changes."""
        from rsc.export import loihi

        return loihi.check(program)

    def compile(self, program: Program) -> LavaModel:
        """Lower the program.

        Raises:
            UnsupportedNode: an "error" of `check`, or a layer that Lava cannot run exactly.
            TargetUnavailable: no interpreter with lava-nc.
        """
        from rsc.export import loihi

        refuse_errors("lava", self.check(program))
        return self.deploy(loihi.lower(program, arithmetic=self.arithmetic), program)

    def deploy(self, layered: LayeredProgram, program: Program | None = None) -> LavaModel:
        """A runnable model of an already lowered program.

        Raises:
            UnsupportedNode, TargetUnavailable.
        """
        missing = self.available()
        if missing is not None:
            raise TargetUnavailable("Target 'lava' cannot run here.", missing.reason, missing.fix)
        hardware = self.engine == "loihi2"
        options = JobOptions(
            engine="models" if self.engine == "models" else "runtime",
            run_config="Loihi2HwCfg" if hardware else "Loihi2SimCfg",
            wall_s=self.wall_s,
            matrices=self.convolution == "sparse",
            encoder=self.encoder,
        )
        return LavaModel.from_layered(layered, program, options)


class LavaModel(DeployedModel):
    """A lowered program and the interpreter that runs it; every run is a worker process of its own."""

    target = "lava"

    def __init__(
        self,
        layered: LayeredProgram,
        program: Program | None,
        options: JobOptions,
        python: str | os.PathLike[str],
    ) -> None:
        self.layered, self.options, self.python = layered, options, Path(python)
        self.arithmetic = "integer" if layered.arithmetic == "integer" else "float64"
        if program is not None:
            self.program = program
        if options.encoder and program is not None:
            check_encoder(program)
        blank = {source.name: np.zeros((1, 1, *source.shape)) for source in layered.inputs}
        plan(layered, blank, Recording(), options)  # refuses now what would fail later

    @classmethod
    def from_layered(
        cls, layered: LayeredProgram, program: Program | None = None, options: JobOptions | None = None
    ) -> LavaModel:
        """A model of a lowered program on the interpreter that `lava_env.status` names.

        Raises:
            UnsupportedNode: a layer that Lava cannot run exactly.
            TargetUnavailable: no interpreter with lava-nc.
        """
        status = lava_env.status()
        if status.python is None or not status.available:
            raise TargetUnavailable("Lava is not available.", status.reason, status.fix)
        model = cls(layered, program, options or JobOptions(), status.python)
        model.version = f"lava-nc {status.versions.get('lava-nc', '?')} ({model.options.engine})"
        return model

    def _steps(self, frames: Mapping[str, np.ndarray], probe: Probe) -> StepsResult:
        """Run frames float32 [T, B, ...].

        Layers that were folded away (pooling, gains) have no raster or state of their own; probing
        them records nothing. In the "runtime" engine `saturated` covers probed layers and readouts only.
        """
        return self._result(frames, probe, lambda part: None)

    def _run_images(
        self, x: np.ndarray, keys: Keys, frames: Mapping[str, np.ndarray], probe: Probe
    ) -> StepsResult:
        """As `_steps`; with the option "encoder" only images and keys are sent, and Lava draws the frames."""
        if not self.options.encoder:
            return self._steps(frames, probe)
        return self._result(frames, probe, lambda part: Extras(self._encoder_job(x, keys, part)))

    def _encoder_job(self, x: np.ndarray, keys: Keys, part: slice) -> EncoderJob:
        (source,) = self.layered.inputs
        spec = check_encoder(self.program)
        mine = keys.replace(
            samples=keys.samples[part], draw=np.broadcast_to(np.asarray(keys.draw), len(keys))[part]
        )
        return encoder_job(spec, source, self.layered.arithmetic, x[part], mine)

    def votes(self, x: np.ndarray, keys: Keys, draws: int) -> np.ndarray:
        """Votes int64 [B, K] of `draws` runs of each image: images go in, and only votes come out of Lava.

        Draw k of sample i has the key (keys.seed, i, keys.draw + k).

        Raises:
            UsageError, UnsupportedNode: the program's encoder cannot be a process, or several layers are
                read at its output. InputRefused: the images do not fit.
        """
        if draws < 1:
            raise UsageError(f"{draws} draws were asked for.", "A vote needs one.", "Use draws >= 1.")
        x = checked_images(self.program, x)
        images, steps = len(x), check_encoder(self.program).steps
        group = np.repeat(np.arange(images), draws)
        first = np.broadcast_to(np.asarray(keys.draw), images)
        many = keys.replace(
            samples=keys.samples[group], draw=first[group] + np.tile(np.arange(draws), images)
        )
        (source,) = self.layered.inputs
        blank = {source.name: np.zeros((steps, len(group), *source.shape), np.int8)}
        recording, total = Recording(counts=False), 0
        size = self._samples_per_job(blank, recording)
        for i in range(0, len(group), size):
            part = slice(i, i + size)
            mine = many.replace(samples=many.samples[part], draw=np.asarray(many.draw)[part])
            encoder = self._encoder_job(x[group[part]], mine, slice(None))
            extras = Extras(encoder, self.program.semantics.readout, group[part], images)
            sent = {name: values[:, part] for name, values in blank.items()}
            total = total + execute(self.python, self.layered, sent, recording, self.options, extras)["votes"]
        return np.asarray(total)

    def _result(
        self, frames: Mapping[str, np.ndarray], probe: Probe, extras: Callable[[slice], Extras | None]
    ) -> StepsResult:
        arithmetic = self.layered.arithmetic
        payload = {s.name: s.payload(frames[s.name], arithmetic) for s in self.layered.inputs}
        recording = self._recording(probe)
        size = self._samples_per_job(payload, recording)
        samples = next(iter(payload.values())).shape[1]
        parts = []
        for i in range(0, samples, size):
            part = slice(i, i + size)
            sent = {name: values[:, part] for name, values in payload.items()}
            parts.append(execute(self.python, self.layered, sent, recording, self.options, extras(part)))
        results = _joined(parts)
        saturated = sum(s.clipped(frames[s.name], arithmetic) for s in self.layered.inputs)
        saturated += sum(int(v) for k, v in results.items() if k.endswith(".saturated"))
        outputs = {
            node: np.add.reduce([self._activity(self.layered.by_name[name], results) for name in names])
            for node, names in self.layered.outputs
        }
        return StepsResult(outputs, self._record(results, probe), saturated)

    def _recording(self, probe: Probe) -> Recording:
        """What the worker must keep for `probe` and for the output."""
        states: dict[str, tuple[str, ...]] = {n: ("u", "v") for n in probe.states if n in self._layers}
        rasters = {n for n in probe.spikes if n in self._layers}
        for name in {name for _, names in self.layered.outputs for name in names}:
            if self.layered.by_name[name].readout:
                states.setdefault(name, ("v",))
            else:
                rasters.add(name)
        return Recording(probe.counts, frozenset(rasters), tuple(sorted(states.items())))

    @property
    def _layers(self) -> set[str]:
        return {layer.name for layer in self.layered.layers}

    def _samples_per_job(self, payload: Mapping[str, np.ndarray], recording: Recording) -> int:
        """How many samples fit into JOB_BYTES of payload and records."""
        states = dict(recording.states)
        per_step = sum(values[0, 0].nbytes * 2 for values in payload.values())
        counts = 0
        for layer in self.layered.layers:
            sites = int(np.prod(layer.shape))
            per_step += sites * ((layer.name in recording.rasters) + 16 * len(states.get(layer.name, ())))
            counts += 8 * sites
        if self.options.engine == "runtime":
            per_step += sum(int(np.prod(layer.shape)) for layer in self.layered.layers)
        return max(1, JOB_BYTES // (len(next(iter(payload.values()))) * per_step + counts))

    def _activity(self, layer: Layer, results: Mapping[str, np.ndarray]) -> np.ndarray:
        """float64 [T, B, ...]: spikes, or in units of the float program what v gains in a step, or v."""
        if not layer.readout:
            return results[f"{layer.name}.raster"].astype(np.float64)
        v = results[f"{layer.name}.v"]
        unit = layer.scale * (STATE_SCALE if self.layered.arithmetic == "integer" else 1)
        if layer.readout == "state":
            return v / unit + layer.offset
        return np.diff(v, axis=0, prepend=np.broadcast_to(layer.v_init, v[:1].shape)) / unit

    def _record(self, results: Mapping[str, np.ndarray], probe: Probe) -> SpikeRecord:
        """What was probed; in floating point v is that of the program, which does not reset to 0."""
        counts, rasters, states = {}, {}, {}
        for layer in sorted(self.layered.layers, key=lambda layer: layer.name):
            name = layer.name
            if f"{name}.counts" in results:
                counts[name] = results[f"{name}.counts"]
            if name in probe.spikes:
                rasters[name] = results[f"{name}.raster"]
            if name in probe.states:
                states |= {f"{name}.{s}": results[f"{name}.{s}"] for s in ("u", "v")}
                if self.layered.arithmetic == "float":
                    states[f"{name}.v"] = states[f"{name}.v"] + layer.offset
        return SpikeRecord(counts, rasters, states)


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Results of several jobs as one: summed where scalar, else along the axis of the samples."""
    if len(parts) == 1:
        return parts[0]
    joined = {}
    for key in parts[0]:
        arrays = [part[key] for part in parts]
        axis = 0 if key.endswith(".counts") else 1
        joined[key] = np.asarray(sum(arrays)) if arrays[0].ndim == 0 else np.concatenate(arrays, axis)
    return joined


def _choice(options: tuple[str, ...], among: tuple[str, ...], default: str) -> str:
    chosen = [o for o in options if o in among]
    if len(chosen) > 1:
        raise UsageError(
            f"Target 'lava' was given {' and '.join(chosen)}.", "They exclude each other.", "Choose one."
        )
    return chosen[0] if chosen else default
