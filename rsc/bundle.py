"""A trained model as a folder: weights, program, facts and model card. Nothing in it executes.

    model.safetensors   the training network's parameters
    program.nir         the deployed program (NIR graph, encoder, semantics)
    rsc.json            what it is, how it was trained, measured figures, digests of the other files
    README.md           model card

A bundle appears under its name complete or not at all, and every file is checked against its
digest before use.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from rsc import __version__
from rsc.errors import InputRefused, MalformedFile
from rsc.export.reader import read_program
from rsc.export.writer import write_program
from rsc.files import atomic_folder, make_parents, sha256_file
from rsc.program import Program

WEIGHTS, PROGRAM, FACTS, CARD = "model.safetensors", "program.nir", "rsc.json", "README.md"
_FILES = (WEIGHTS, PROGRAM, CARD)
_MAX_FACTS = 16 << 20


class BundleFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of rsc.json.

    Fields:
        name: of the model.
        program_digest: of the Program (content, not file bytes).
        files: file name -> SHA-256.
        config: the training configuration, every default written out.
        metrics: measured figures, each a number or a small mapping with n and interval.
        made_with: versions of the packages that trained it.
    """

    name: str
    program_digest: str
    files: dict[str, str]
    config: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    made_with: dict[str, str] = {}
    version: int = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Bundle:
    """A model ready to be deployed, attacked or trained further.

    Fields:
        state: parameters of the training network by name.
    """

    name: str
    program: Program
    state: Mapping[str, np.ndarray]
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    made_with: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"rsc-snn": __version__})

    def save(self, path: str | Path) -> Path:
        """Write the folder `path`, replacing an older bundle there.

        Raises:
            StorageError: no space or permission; an older bundle is left as it was.
            InputRefused: `path` exists and is not a bundle.
        """
        from safetensors.numpy import save_file

        path = Path(path)
        if path.exists() and not (path / FACTS).is_file() and (not path.is_dir() or any(path.iterdir())):
            raise InputRefused(
                f"'{path}' exists and is not a bundle.", "It would be replaced.", "Choose another name."
            )
        make_parents(path)
        with atomic_folder(path) as folder:
            write_program(self.program, folder / PROGRAM)
            save_file(dict(self.state), folder / WEIGHTS)
            (folder / CARD).write_text(self.card(), encoding="utf-8")
            facts = BundleFacts(
                name=self.name,
                program_digest=self.program.digest,
                files={name: sha256_file(folder / name) for name in _FILES},
                config=dict(self.config),
                metrics=dict(self.metrics),
                made_with=dict(self.made_with),
            )
            (folder / FACTS).write_bytes(msgspec.json.format(msgspec.json.encode(facts, order="sorted")))
        return path

    @classmethod
    def load(cls, path: str | Path) -> Bundle:
        """Read and verify a bundle.

        Raises:
            InputRefused: there is none.
            MalformedFile: a file is missing, damaged or changed.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        path = Path(path)
        facts = _facts(path)
        for name in _FILES:
            _verify(path / name, facts.files.get(name, ""))
        program = read_program(path / PROGRAM, verified=True)
        if program.digest != facts.program_digest:
            raise MalformedFile(
                f"Bundle '{path}' contradicts itself.",
                f"{PROGRAM} has digest {program.digest[:12]}, {FACTS} says {facts.program_digest[:12]}.",
                "Export it again.",
            )
        try:
            state = load((path / WEIGHTS).read_bytes())
        except (SafetensorError, ValueError) as error:
            raise MalformedFile(
                f"'{path / WEIGHTS}' cannot be read.", str(error), "Train it again."
            ) from error
        return cls(facts.name, program, state, facts.config, facts.metrics, facts.made_with)

    def card(self) -> str:
        """The model card: what it is, how it was made, what was measured."""
        p, e = self.program, self.program.encoder
        lines = [
            "---",
            f"task: classification into {len(p.labels)} classes",
            f"input: {list(p.input_shape)} in {list(p.bounds) if p.bounds else 'any range'}",
            f"encoder: {e.kind if e else 'none'}",
            f"steps: {e.steps if e else 'any'}",
            f"sigma: {e.sigma if e else 0}",
            f"dt_s: {p.semantics.dt}",
            f"program_digest: {p.digest}",
            "---",
            "",
            f"# {self.name}",
            "",
            "A spiking network trained and packed with rsc-snn. `program.nir` is a NIR graph that any",
            "NIR tool reads; encoder and stepping rules ride in the metadata of its Input node.",
            "",
            "    rsc run THIS_FOLDER --on reference",
            "",
            "## Measured",
            "",
            *([f"- {key}: {value}" for key, value in sorted(self.metrics.items())] or ["Nothing yet."]),
            "",
            "## Trained with",
            "",
            *([f"- {key}: {value}" for key, value in sorted(self.config.items())] or ["Not recorded."]),
            "",
        ]
        return "\n".join(lines)


def load_program(path: str | Path, **overrides: Any) -> Program:
    """The program in a bundle folder or in any .nir file.

    Args:
        overrides: `semantics`, `encoder` for files that carry none.

    Raises:
        InputRefused, MalformedFile: see Bundle.load and read_program.
    """
    path = Path(path)
    if path.is_dir() or not path.exists():
        program = Bundle.load(path).program
        changes = {k: v for k, v in overrides.items() if v is not None}
        return dataclasses.replace(program, **changes) if changes else program
    return read_program(path, **overrides)


def _facts(path: Path) -> BundleFacts:
    if not path.is_dir():
        raise InputRefused(
            f"There is no bundle '{path}'.",
            "No such folder.",
            "Check the path, or make one with `rsc train`.",
        )
    try:
        file = path / FACTS
        if file.is_symlink() or file.stat().st_size > _MAX_FACTS:
            raise MalformedFile(
                f"'{file}' is refused.", "It is a link or larger than 16 MiB.", "Train it again."
            )
        return msgspec.json.decode(file.read_bytes(), type=BundleFacts)
    except FileNotFoundError as error:
        raise InputRefused(
            f"'{path}' is not a bundle.", f"It has no {FACTS}.", "Point to a folder made by `rsc train`."
        ) from error
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedFile(f"'{path / FACTS}' cannot be read.", str(error), "Train it again.") from error


def _verify(file: Path, digest: str) -> None:
    """Refuse links, missing files and changed bytes."""
    if file.is_symlink() or not file.is_file():
        raise MalformedFile(
            f"'{file}' is missing or not a plain file.", "A bundle holds plain files only.", "Copy it again."
        )
    if sha256_file(file) != digest:
        raise MalformedFile(
            f"'{file}' is damaged.",
            "Its SHA-256 differs from the one in rsc.json.",
            "Copy or train it again.",
        )
