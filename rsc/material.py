"""What a run is made of: the program and the samples, as the command line names them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import msgspec
import numpy as np

from rsc.bundle import Bundle
from rsc.data import Dataset, load
from rsc.errors import InputRefused, MalformedFile, UsageError
from rsc.export.reader import read_graph
from rsc.hw_targets import DeployedModel
from rsc.presets import under
from rsc.program import Program, Semantics, declares
from rsc.results import Keys, Probe, RunResult
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
    def from_data(cls, name: str, root: Path | None, n: int | None = None, **options: int | None) -> Material:
        """The held-out split of a data set; options as in `rsc.data.load`."""
        return cls(data=load(name, "test", root, **options).head(n))

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
        trained_on, options = _trained_on(program) if data is None or program.is_dir() else ("", {})
        name = data or trained_on
        if not name:
            raise InputRefused(
                f"Nothing says what to feed '{program}'.",
                "It names no data set.",
                "Give --input frames.npy or --data.",
            )
        return cls.from_data(name, root, n, **(options if name == trained_on else {}))

    def images(self) -> Dataset:
        """The images.

        Raises:
            UsageError: there are only frames.
        """
        if self.data is None:
            raise UsageError("This needs labelled images.", "Only frames were given.", "Use --data.")
        return self.data

    def perturbable(self, program: Program) -> Dataset:
        """The images, for what moves their pixels before the program's encoder.

        Raises:
            UsageError: there are only frames, or the program encodes nothing.
        """
        data = self.images()
        if data.frames or program.encoder is None:
            raise UsageError(
                f"'{data.name}' holds event frames." if data.frames else "This program has no encoder.",
                "Attacks, certificates and proofs are about images that an encoder turns into frames.",
                "Use a program with an encoder and a set of images; run, parity and energy take frames.",
            )
        return data

    def ready_made(self) -> np.ndarray | dict[str, np.ndarray] | None:
        """Frames [T, B, ...], given or of a set of events; None for images."""
        if self.frames is not None or self.data is None or not self.data.frames:
            return self.frames
        return np.moveaxis(np.asarray(self.data.images), 1, 0)

    def run(self, model: DeployedModel, seed: int, probe: Probe | None = None) -> RunResult:
        """Run a deployed model on it."""
        frames = self.ready_made()
        if frames is not None:
            return model.run_frames(frames, probe)
        data = self.images()
        if model.program.encoder is None:
            raise InputRefused(
                "This program has no encoder.",
                "It cannot take images.",
                "Give ready-made frames with --input.",
            )
        return model.run(np.asarray(data.images), Keys(seed, data.ids), probe)


def _trained_on(path: Path) -> tuple[str, dict[str, int | None]]:
    """The data set in a bundle's training configuration ("" for none) and the options it was loaded with."""
    if path.exists() and not path.is_dir():
        return "", {}
    config = Bundle.load(path).config
    encoder = config.get("encoder") or {}
    steps = encoder.get("steps") if encoder.get("kind") == "frames" else None
    return str(config.get("dataset") or ""), {"size": config.get("size"), "steps": steps}


def open_program(path: Path, reading: Reading) -> Program:
    """The program in a bundle or file, read as asked for.

    Raises:
        InputRefused: there is no such thing, it cannot be read, or nobody says the time step.
        UsageError: unknown preset, unit or edge.
    """
    if is_bundle(path):
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


def is_bundle(path: Path) -> bool:
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
