"""A table as every renderer sees it: headers, and cells that are already text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

from rsc.report.numbers import plain

Kind = Literal["text", "number", "status"]


@dataclasses.dataclass(frozen=True)
class Column:
    """Header of a column and what its cells hold; numbers align right, states are marked by colour too."""

    header: str
    kind: Kind = "text"


@dataclasses.dataclass(frozen=True)
class Table:
    """One table.

    Fields:
        id: unique in a report, for anchors.
        title: one line above it.
        columns, rows: every row has one text per column, free of control characters.
        note: one or two sentences below it: units, n, seeds, conventions.
        detail: long or deep; folded in HTML and left out in the terminal.
    """

    id: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    detail: bool = False


def table(
    id: str,
    title: str,
    columns: Sequence[Column],
    rows: Iterable[Sequence[object]],
    note: str = "",
    detail: bool = False,
) -> Table:
    """A `Table` with cleaned cells, without the columns that hold nothing in any row."""
    cells = [tuple(plain(cell) for cell in row) for row in rows]
    kept = [i for i, column in enumerate(columns) if i == 0 or any(row[i] not in ("", "–") for row in cells)]
    heads = tuple(Column(plain(columns[i].header), columns[i].kind) for i in kept)
    return Table(id, title, heads, tuple(tuple(row[i] for i in kept) for row in cells), plain(note), detail)


def text(*headers: str) -> list[Column]:
    """Columns of text."""
    return [Column(header) for header in headers]


def number(*headers: str) -> list[Column]:
    """Columns of numbers."""
    return [Column(header, "number") for header in headers]


def status(*headers: str) -> list[Column]:
    """Columns of states: PASS, WARN, FAIL, yes, no."""
    return [Column(header, "status") for header in headers]
