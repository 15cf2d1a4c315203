"""A peer as a target: its network is a function of tensors, [T, B, ...] -> [T, B, ...]."""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor

from rsc.errors import UnsupportedNode
from rsc.hw_targets.base import DeployedModel, StepsResult
from rsc.program import Program, Semantics
from rsc.results import Issue, Probe, SpikeRecord, Unavailable

Network = Callable[[Tensor], Tensor]


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep what a peer prints, logs and warns of from the screen."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        torch.random.fork_rng(devices=[]),
    ):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


class PeerTarget:
    """A tool of the `peers` extra."""

    arithmetic = "float32"

    def __init__(self, name: str, module: ModuleType) -> None:
        self.name, self.module = name, module

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.module.TITLE} {importlib.metadata.version(self.module.PACKAGE)}"

    def available(self) -> Unavailable | None:
        """None if the package is installed."""
        if importlib.util.find_spec(self.module.PACKAGE) is None:
            return Unavailable(f"{self.module.TITLE} is not installed.", "pip install 'rsc-snn[peers]'")
        return None

    def check(self, program: Program) -> list[Issue]:
        """Rules that it cannot be told; what else it cannot do it says when it is asked to."""
        if program.semantics != Semantics(program.semantics.dt):
            return [Issue("error", "", f"{self.module.TITLE} cannot be told the rules of the program.")]
        return []

    def compile(self, program: Program) -> PeerModel:
        """Import the graph; what the peer raises becomes UnsupportedNode."""
        return PeerModel(program, self)

    def load(self, graph: Any, dt: float) -> Network:
        """The peer's network of a graph: frames [T, B, ...] -> outputs [T, B, ...], from the zero state."""
        with silent():
            network = self.module.load(copy.deepcopy(graph), dt)

        def run(x: Tensor) -> Tensor:
            with silent():
                return network(x)

        return run


class PeerModel(DeployedModel):
    """A program as a peer's network."""

    arithmetic = "float32"

    def __init__(self, program: Program, target: PeerTarget) -> None:
        self.program, self.target = program, target.name
        self.version = target.title
        try:
            self.network = target.load(_through_a_file(program), program.semantics.dt)
        except Exception as error:
            raise UnsupportedNode(f"{target.title} does not import this.", _short(error)) from error

    def _steps(self, frames: Mapping[str, np.ndarray], probe: Probe) -> StepsResult:
        if len(frames) != 1 or len(self.program.outputs) != 1:
            raise UnsupportedNode(f"{self.version} runs one input and one output.")
        (x,) = frames.values()
        try:
            with torch.no_grad():
                y = self.network(torch.from_numpy(x.copy()))
            values = y.detach().to(torch.float64).numpy()
        except Exception as error:
            raise UnsupportedNode(f"{self.version} does not run this.", _short(error)) from error
        return StepsResult({self.program.outputs[0]: values}, SpikeRecord())


def _through_a_file(program: Program) -> nir.NIRGraph:
    """The graph as a tool finds it: nodes sorted by name; unchecked, as nir refuses grouped convolutions."""
    with TemporaryDirectory() as folder:
        nir.write(Path(folder) / "net.nir", program.to_graph())
        return nir.read(Path(folder) / "net.nir", type_check=False)


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}"


def steps(network: Callable[..., Any]) -> Network:
    """A network `y, state = network(x, state)` of one step, over all steps."""

    def run(x: Tensor) -> Tensor:
        state, outputs = None, []
        for frame in x:
            y = network(frame, state)
            y, state = y if isinstance(y, tuple) and len(y) == 2 else (y, state)
            outputs.append(y)
        return torch.stack(outputs)

    return run
