"""The options that several verbs share: how a program file is read, and what it is fed.

Plain values; everything heavy is imported when they are used, so `rsc --help` stays quick.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from tyro.conf import Suppress, UseAppendAction, arg

if TYPE_CHECKING:
    from rsc.material import Material
    from rsc.program import Program


T = TypeVar("T")
Flat = Annotated[T, arg(name="")]  # options of a group without the name of the group


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a file is read that does not say everything itself."""

    dt: float | None = None
    """Seconds per step, for .nir files that do not say."""
    semantics: str | None = None
    """Rules of a simulator in place of the file's, e.g. snntorch; see docs/nir.md."""
    time_unit: Literal["s", "ms", "steps", "norse"] = "s"
    """Of the time constants in the file; norse: as Norse 1.1.0 exports them."""
    delay: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="FROM:TO")] = ()
    """Edge FROM:TO that hands over the value of the step before; in place of the rule for cycles."""
    trust: bool = False
    """Lift the limits on size, memory and time of reading a .nir file."""

    def program(self, path: Path) -> Program:
        """The program in a bundle or file."""
        from rsc.material import open_program

        return open_program(path, self)

    def adjusted(self, program: Program) -> Program:
        """A program that was read already, with what these options change."""
        from rsc.material import adjusted

        return adjusted(program, self)


@dataclasses.dataclass(frozen=True)
class Images:
    """Which labelled images."""

    n: int | None = None
    """First n samples only. Without it parity takes 64 images, energy, attack and certify 100, others all."""
    most: Suppress[int | None] = None
    """Images of a data set that are taken if n is not given."""
    seed: int = 0
    """Of the encoder's noise."""
    data: str | None = None
    """Data set; the one the bundle was trained on by default."""
    data_root: Path | None = None
    """Folder of data sets that are not embedded."""

    @property
    def limit(self) -> int | None:
        """How many images of a data set."""
        return self.most if self.n is None else self.n

    def material(self, path: Path) -> Material:
        """The images."""
        from rsc.material import Material

        return Material.choose(path, None, self.data, self.data_root, self.limit)


@dataclasses.dataclass(frozen=True)
class Feed(Images):
    """Labelled images, or ready-made frames."""

    input: Path | None = None
    """Frames [T, B, ...] as .npy instead of a data set; .npz with an array per Input node."""

    def material(self, path: Path) -> Material:
        """The frames, or the images."""
        from rsc.material import Material

        limit = self.limit if self.input is None else self.n
        return Material.choose(path, self.input, self.data, self.data_root, limit)


def repeated(words: list[str], options: tuple[str, ...]) -> list[str]:
    """Words in which `--on a b` reads `--on a --on b`, for options that may be given several times.

    The last word stays alone if no other word could be the PROGRAM.
    """
    spread: list[str] = []
    free, i = False, 0  # free: a word that belongs to no option was met
    while i < len(words):
        word, i = words[i], i + 1
        spread.append(word)
        if word not in options:
            free = free or not (word.startswith("-") or (len(spread) > 1 and spread[-2].startswith("--")))
            continue
        values = []
        while i < len(words) and not words[i].startswith("-"):
            values.append(words[i])
            i += 1
        last = [values.pop()] if len(values) > 1 and i == len(words) and not free else []
        spread += [
            part for k, value in enumerate(values) for part in ([word, value] if k else [value])
        ] + last
    return spread
