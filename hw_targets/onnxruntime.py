"""Target `onnxruntime`: a program as one ONNX model on any provider of ONNX Runtime.

Options, one of each kind: arithmetic `float32` (default), `float64`, `float16`, `bfloat16` or `integer` (the
Loihi form); a provider, `cpu` (default), `cuda` and others of `PROVIDERS`; `threadsN`. In float64 it agrees
with `reference` spike for spike, up to the order in which a product is summed; `integer` equals `loihi`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np

from rsc.discretise import EVERY_RULE
from rsc.errors import TargetFault, UsageError
from rsc.export import loihi
from rsc.export.onnx import Arithmetic, OnnxForm, to_onnx
from rsc.hw_targets.base import DeployedModel, State, StepsResult, StreamingModel, refuse_errors
from rsc.hw_targets.onnxruntime_session import PROVIDERS, Runtime
from rsc.hw_targets.reference_check import beyond, check_program, leaves
from rsc.program import Program
from rsc.results import Issue, Probe, SpikeRecord, Unavailable

_THREADS = re.compile(r"threads(\d{1,3})")


class OnnxRuntimeTarget:
    """Target `onnxruntime[:arithmetic][:provider][:threadsN]`."""

    name = "onnxruntime"

    def __init__(self, *options: str) -> None:
        kinds = [_kind(option) for option in options]
        if None in kinds or len(set(kinds)) < len(kinds):
            known = (*get_args(Arithmetic), *PROVIDERS, "threadsN")
            raise UsageError(
                f"Target 'onnxruntime' has no option '{':'.join(options)}'.",
                f"Options: {', '.join(known)}; one arithmetic, one provider, one number of threads.",
                "Correct it.",
            )
        given = dict(zip(kinds, options, strict=True))
        self.arithmetic: Any = given.get("arithmetic", "float32")
        self.runtime = Runtime(given.get("provider", "cpu"), int(given.get("threads", "threads0")[7:]))

    def available(self) -> Unavailable | None:
        """Whether ONNX Runtime is installed and has the provider."""
        return self.runtime.available()

    def check(self, program: Program) -> list[Issue]:
        """As targets `torch` and `loihi`; and numbers that the arithmetic cannot hold."""
        if self.arithmetic == "integer":
            return loihi.check(program)
        issues = check_program(program, EVERY_RULE)
        if self.arithmetic == "float64" or any(issue.severity == "error" for issue in issues):
            return issues
        narrow = np.float16 if self.arithmetic == "float16" else np.float32
        fix = "Use 'onnxruntime:float64', or check the units of dt and tau."
        for name, node in leaves(program):
            dtype = narrow if hasattr(node, "weight") else np.float32
            issues += [Issue("error", name, text, fix) for text in beyond(node, program.semantics, dtype)]
        return issues

    def compile(self, program: Program) -> DeployedModel:
        """A model whose sessions are made when they are needed; UnsupportedNode on any error of `check`."""
        refuse_errors(self.name, self.check(program))
        kind = IntegerOnnxModel if self.arithmetic == "integer" else OnnxModel
        return kind(program, self.arithmetic, self.runtime)


class _Sessions:
    """The sessions of a program, one for each set of things to record."""

    def __init__(self, program: Program, arithmetic: Any, runtime: Runtime) -> None:
        self.program, self.arithmetic, self.runtime = program, arithmetic, runtime
        self._made: dict[tuple[Probe, bool], Any] = {}

    def run(self, frames: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray], probe: Probe) -> dict:
        """Run frames by Input node; the outputs of the model by name.

        Raises:
            TargetFault: ONNX Runtime failed.
        """
        session = self._session(probe, stateful=self.arithmetic != "integer")
        fed = {f"frames.{name}": np.require(x, np.float32, "C") for name, x in frames.items()}
        fed |= {f"state.{key}": value for key, value in state.items()}
        names = [output.name for output in session.get_outputs()]
        try:
            return dict(zip(names, session.run(names, fed), strict=True))
        except Exception as error:  # its errors have no common class
            raise TargetFault(
                "ONNX Runtime failed.", str(error)[:500], "Use a smaller batch; if it repeats, report it."
            ) from error

    def _session(self, probe: Probe, stateful: bool) -> Any:
        key = probe, stateful
        if key not in self._made:
            form = OnnxForm(
                self.arithmetic,
                counts=probe.counts,
                outputs=True,
                spikes=probe.spikes,
                states=probe.states,
                stateful=stateful,
            )
            self._made[key] = self.runtime.session(to_onnx(self.program, form).SerializeToString())
        return self._made[key]

    def clear(self) -> None:
        """Free them."""
        self._made.clear()


class OnnxState(State):
    """numpy arrays in the type of the model's states."""


class OnnxModel(StreamingModel):
    """A float program in ONNX Runtime."""

    target = "onnxruntime"

    def __init__(self, program: Program, arithmetic: Any, runtime: Runtime) -> None:
        self.program, self.arithmetic, self.version = program, arithmetic, runtime.version
        self._sessions = _Sessions(program, arithmetic, runtime)

    def close(self) -> None:
        """Free the sessions."""
        self._sessions.clear()

    def _stream(
        self, frames: Mapping[str, np.ndarray], state: OnnxState | None, probe: Probe
    ) -> tuple[StepsResult, OnnxState]:
        fed = {} if state is None else _named(state)
        found = self._sessions.run(frames, fed, probe)
        return _result(found, self.program), _state(found)


class IntegerOnnxModel(DeployedModel):
    """The Loihi form of a program in ONNX Runtime."""

    target, arithmetic = "onnxruntime", "integer"

    def __init__(self, program: Program, arithmetic: Any, runtime: Runtime) -> None:
        self.program, self.version = program, runtime.version
        self._sessions = _Sessions(program, arithmetic, runtime)

    def close(self) -> None:
        """Free the sessions."""
        self._sessions.clear()

    def _steps(self, frames: Mapping[str, np.ndarray], probe: Probe) -> StepsResult:
        return _result(self._sessions.run(frames, {}, probe), self.program)


def _kind(option: str) -> str | None:
    if option in get_args(Arithmetic):
        return "arithmetic"
    if option in PROVIDERS:
        return "provider"
    return "threads" if _THREADS.fullmatch(option) else None


def _result(found: Mapping[str, np.ndarray], program: Program) -> StepsResult:
    """What the model's outputs say."""
    inputs = set(program.inputs)
    counts = _under(found, "counts.")
    states = _under(found, "states.")
    return StepsResult(
        {name: np.asarray(x, np.float64) for name, x in _under(found, "outputs.").items()},
        SpikeRecord(
            counts={name: x for name, x in counts.items() if name not in inputs},
            rasters=_under(found, "spikes."),
            states={k: v if v.dtype.kind == "i" else v.astype(np.float64) for k, v in states.items()},
        ),
        int(found.get("saturated", 0)),
    )


def _under(found: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): x for name, x in found.items() if name.startswith(prefix)}


def _state(found: Mapping[str, np.ndarray]) -> OnnxState:
    states = _under(found, "next.")
    parts = {kind: _under(states, f"{kind}.") for kind in ("v", "i", "held", "line")}
    return OnnxState(parts["v"], parts["i"], parts["held"], parts["line"])


def _named(state: OnnxState) -> dict[str, np.ndarray]:
    kinds = {"v": state.v, "i": state.i, "held": state.held, "line": state.lines}
    return {f"{kind}.{name}": x for kind, values in kinds.items() for name, x in values.items()}
