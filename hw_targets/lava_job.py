"""One job for the Lava worker: a layered program and a payload go out, checked arrays come back."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rsc.errors import StorageError, TargetFault, UnsupportedNode
from rsc.hw_targets import lava_layout, lava_neuron
from rsc.hw_targets.isolate import Budget, private_folder, run
from rsc.hw_targets.lava_encoder import Extras
from rsc.layered import CONSTANT, STATE_MAX, Connection, Layer, LayeredProgram

WORKER = Path(__file__).with_name("lava_worker.py")
NAME = "The Lava worker"

# Generous costs, used for time budgets only: seconds per unit on a slow, busy core.
START_S = 60.0
PROCESS_STEP_S = {"models": 0.5e-3, "runtime": 5e-3}
SYNAPSE_S = 20e-9
PLANE_S = 0.5e-3  # one two-dimensional convolution of one channel pair
PLANE_TAP_S = 30e-9  # one tap of it at one position
WAITING = 20  # a synapse that may wait, per step of the longest wait: Lava rebuilds its matrix in every step


@dataclasses.dataclass(frozen=True)
class Recording:
    """What the worker keeps of each layer.

    Fields:
        counts: spike counts of every layer but readouts, which are not meant to fire.
        rasters: names of layers whose spikes [T, N, ...] are kept.
        states: layer -> the states kept, among "u" and "v".
    """

    counts: bool = True
    rasters: frozenset[str] = frozenset()
    states: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclasses.dataclass(frozen=True)
class JobOptions:
    """How the worker runs a job.

    Fields:
        engine: "models", Lava's process models stepped in one process, or "runtime", Lava's own.
        run_config: Lava's run configuration.
        wall_s: time budget; None: `time_budget` of the work.
        memory_bytes: memory budget of the worker and all its processes.
        matrices: convolutions as Lava's Sparse instead of Conv where that is the same operator; Conv loops
            over channel pairs in Python and is slower by an order of magnitude.
        encoder: a process draws the frames of images; ready-made frames are sent all the same.
    """

    engine: Literal["models", "runtime"] = "models"
    run_config: str = "Loihi2SimCfg"
    wall_s: float | None = None
    memory_bytes: int = 8 << 30
    matrices: bool = False
    encoder: bool = False


def execute(
    python: str | Path,
    layered: LayeredProgram,
    payload: Mapping[str, np.ndarray],
    recording: Recording,
    options: JobOptions,
    extras: Extras | None = None,
) -> dict[str, np.ndarray]:
    """Run payloads (Input node -> [T, N, ...]) and give the records of each layer, all in torch layout.

    Every sample starts with u = 0, v = v_init and nothing under way.

    Returns:
        "name.counts" int64 [N, ...] (not of readouts), "name.raster" bool [T, N, ...], "name.u" and "name.v"
        int64 or float64 [T, N, ...], "name.saturated" int64, "seconds": time in Lava, start-up excluded;
        "votes" int64 [images, K] where `extras` ask for them.

    Raises:
        UnsupportedNode: Lava would compute something else.
        TargetFault: the worker failed, or its result is not what was asked for.
        StorageError: the job cannot be written.
    """
    header, arrays = plan(layered, payload, recording, options, extras)
    wall_s = options.wall_s if options.wall_s is not None else time_budget(header, arrays)
    header["timeout_s"] = wall_s
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    with private_folder("rsc-lava-") as folder:
        _write(folder / "job.npz", arrays)
        # The worker's own limit comes first: it can say which process model failed to answer.
        budget = Budget(wall_s + START_S, options.memory_bytes)
        run([str(python), "-I", str(WORKER), "run", str(folder)], folder, budget, name=NAME)
        return _read(folder / "result.npz", header)


def plan(
    layered: LayeredProgram,
    payload: Mapping[str, np.ndarray],
    recording: Recording,
    options: JobOptions,
    extras: Extras | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of a job, in Lava's layout.

    All samples run as one stream with a new one every `period` steps. Where a program's delays carry
    something from one step to a later one, the period is longer than a sample by the longest delay, and
    neurons that are silent in the gap ("gated") let it run empty; they are also what starts at v_init.
    Everything else needs Lava's own LIFReset only.

    Raises:
        UnsupportedNode: Lava would compute something else.
    """
    integer = layered.arithmetic == "integer"
    number = np.int32 if integer else np.float64
    levels = layered.levels()
    steps, samples = next(iter(payload.values())).shape[:2]
    gap = max((int(c.delay.max(initial=0)) for c in _moving(layered)), default=0)
    gated = gap > 0 or any(np.any(layer.v_init) for layer in layered.layers)
    if gated and options.run_config == "Loihi2HwCfg":
        raise UnsupportedNode(
            "Samples of this program cannot be told apart on the chip.",
            "Delays that reach into the next sample, and v_init, need neurons that are only simulated.",
            "Use lava:fixed or lava:fixed:runtime.",
        )
    index = {source.name: -1 - i for i, source in enumerate(layered.inputs)}
    index |= {layer.name: i for i, layer in enumerate(layered.layers)}
    more, arrays = (extras or Extras()).described(layered)
    if "encoder" in more:
        arrays["encoder.table"] = arrays["encoder.table"].astype(number)
    else:
        arrays |= {
            f"payload.{-1 - index[name]}": lava_layout.to_lava(values.astype(number), 2)
            for name, values in payload.items()
        }
    layers = []
    for i, layer in enumerate(layered.layers):
        specs = []
        for j, connection in enumerate(part for c in layer.connections for part in _parts(c)):
            built = _built(layered, layer, connection, payload, options.matrices)
            arrays |= {f"{i}.{j}.{name}": value for name, value in built.arrays.items()}
            specs.append({"kind": built.kind, "source": index.get(connection.source)} | built.fields)
            if built.arrivals:
                step = (np.arange(steps + gap) + 1 - levels[layer.name]) % (steps + gap)
                there = step >= np.array(built.arrivals)[:, None]
                arrays[f"{i}.{j}.constant"] = there.astype(number)
        arrays[f"{i}.bias"] = lava_neuron.bias(layer, integer)
        arrays |= {f"{i}.{name}": value for name, value in lava_neuron.neuron(layer, integer).items()}
        layers.append(
            _described(layer, recording, integer) | {"level": levels[layer.name], "connections": specs}
        )
    header = {
        "arithmetic": layered.arithmetic,
        "engine": options.engine,
        "run_config": options.run_config,
        "steps": steps,
        "samples": samples,
        "period": steps + gap,
        "gated": gated,
        "state_max": STATE_MAX,
        "input_shape": layered.inputs[0].shape[::-1],
        "layers": layers,
    } | more
    return header, arrays


def _moving(layered: LayeredProgram) -> list[Connection]:
    """The connections whose sources change: all but those of the constant."""
    return [c for layer in layered.layers for c in layer.connections if c.source != CONSTANT]


def _parts(connection: Connection) -> list[Connection]:
    """The connection, or one for each delay: behind a pooling, synapses of several may share a pixel."""
    if connection.pool is None or not connection.delay.ndim:
        return [connection]
    weight = connection.weight.reshape(connection.delay.shape)
    return [
        dataclasses.replace(
            connection, weight=np.where(connection.delay == k, weight, 0), delay=np.asarray(k, np.int32)
        )
        for k in np.unique(connection.delay)
    ]


def _built(
    layered: LayeredProgram,
    layer: Layer,
    connection: Connection,
    payload: Mapping[str, np.ndarray],
    matrices: bool,
) -> lava_layout.Synapses:
    """The process of one connection, for what its source sends."""
    largest = 1
    if connection.source in layered.sources:
        if connection.graded:
            largest = layered.sources[connection.source].maximum
        elif not np.isin(payload[connection.source], (0, 1)).all():
            largest = 2  # not spikes: whatever is not 0 must be made 1
    integer, waits = layered.arithmetic == "integer", layered.waits(layer, connection)
    source = (layered.by_name | layered.sources).get(connection.source)
    if source is not None and connection.kind == "dense" and connection.pool is None:
        connection = dataclasses.replace(connection, source_shape=source.shape)  # may say it flattened
    return lava_layout.synapses(connection, layer, integer, largest, matrices, waits)


def _described(layer: Layer, recording: Recording, integer: bool) -> dict[str, Any]:
    """The header's entry of a layer, apart from its place and its connections."""
    return {
        "name": layer.name,
        "shape": layer.shape[::-1],
        "bias_exp": int(layer.bias_exp) if integer else 0,
        "counts": recording.counts and not layer.readout,
        "raster": layer.name in recording.rasters,
        "states": dict(recording.states).get(layer.name, ()),
        "readout": layer.readout,
    }


def time_budget(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> float:
    """Seconds a job may take: the start, and for every step its processes, synapses and convolutions."""
    steps = header["period"] * header["samples"] + len(header["layers"])
    processes, work = 1, 0.0
    for i, layer in enumerate(header["layers"]):
        processes += 1 + int(layer["counts"]) + len(layer["states"]) + len(layer["connections"])
        for j, spec in enumerate(layer["connections"]):
            weight = arrays.get(f"{i}.{j}.weight", arrays.get(f"{i}.{j}.data"))
            synapses = 0 if weight is None else weight.size
            work += synapses * SYNAPSE_S * (WAITING * (spec["longest"] + 1) if "longest" in spec else 1)
            if spec["kind"] == "conv" and weight is not None:
                taps = int(np.prod(weight.shape[1:3])) * int(np.prod(spec["input_shape"][:2]))
                work += weight.shape[0] * weight.shape[3] * (PLANE_S + taps * PLANE_TAP_S)
    return START_S + steps * (processes * PROCESS_STEP_S[header["engine"]] + work)


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    try:
        np.savez(path, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise StorageError(
            "The job for Lava cannot be written.", str(error), "Free space in the temporary folder (TMPDIR)."
        ) from error


def _read(path: Path, header: dict[str, Any]) -> dict[str, np.ndarray]:
    """The result file, checked against what was asked for."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            found = {name: data[name] for name in data.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _impossible(f"its result cannot be read ({error})") from error
    results = {"seconds": found.get("seconds", np.float64(0))}
    if "decision" in header:
        results["votes"] = _votes(found.get("votes"), header)
    for i, layer in enumerate(header["layers"]):
        for name, (shape, dtype) in _expected(header, layer).items():
            value = found.get(f"{i}.{name}")
            if value is None or value.shape != shape or value.dtype != dtype:
                raise _impossible(f"'{name}' of layer '{layer['name']}' is missing or not {dtype} {shape}")
            results[f"{layer['name']}.{name}"] = _checked(value, name, layer, header)
    return results


def _votes(votes: np.ndarray | None, header: dict[str, Any]) -> np.ndarray:
    """Votes int64 [images, K]: one of each sample."""
    decision = header["decision"]
    classes = int(np.prod(header["layers"][decision["layer"]]["shape"]))
    if votes is None or votes.shape != (decision["images"], classes) or votes.sum() != header["samples"]:
        raise _impossible(f"its votes are missing, or not one for each of {header['samples']} samples")
    return votes


def _expected(header: dict[str, Any], layer: dict[str, Any]) -> dict[str, tuple[tuple[int, ...], type]]:
    steps, samples, shape = header["steps"], header["samples"], tuple(layer["shape"])
    state = np.int32 if header["arithmetic"] == "integer" else np.float64
    expected: dict[str, tuple[tuple[int, ...], type]] = {"saturated": ((), np.int64)}
    if layer["counts"]:
        expected["counts"] = ((samples, *shape), np.int64)
    if layer["raster"]:
        expected["raster"] = ((steps, samples, *shape), np.bool_)
    return expected | dict.fromkeys(layer["states"], ((steps, samples, *shape), state))


def _checked(value: np.ndarray, name: str, layer: dict[str, Any], header: dict[str, Any]) -> np.ndarray:
    """Values inside their range, in torch layout."""
    if name == "counts" and (value.min() < 0 or value.max() > header["steps"]):
        raise _impossible(f"layer '{layer['name']}' counts {value.max()} spikes in {header['steps']} steps")
    if name == "v" and value.dtype.kind == "i" and np.abs(value).max() > header["state_max"]:
        raise _impossible(f"v of layer '{layer['name']}' leaves 24 bits")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise _impossible(f"'{name}' of layer '{layer['name']}' is not finite")
    if name == "saturated":
        return value
    value = value.astype(np.int64) if value.dtype == np.int32 else value
    return lava_layout.to_lava(value, 1 if name == "counts" else 2)


def _impossible(why: str) -> TargetFault:
    return TargetFault(f"{NAME} returned something that cannot be right:", why, "Report it with the program.")
