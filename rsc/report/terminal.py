"""The same tables for a terminal; nothing is printed here."""

from __future__ import annotations

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from rsc.report.sections import sections
from rsc.report.table import Table
from rsc.report.value import Report

_STATES = {"PASS": "green", "WARN": "yellow", "FAIL": "bold red", "yes": "green", "no": "red"}


def terminal_tables(report: Report, detail: bool = False) -> list[RichTable]:
    """The tables of a report, in its order.

    Args:
        detail: long tables too (every attack, every layer).
    """
    found = [table for section in sections(report) if section.id != "appendix" for table in section.tables]
    return [rich_table(table) for table in found if detail or not table.detail]


def rich_table(table: Table) -> RichTable:
    """One table for the terminal."""
    rich = RichTable(
        title=Text(table.title, style="bold"),
        caption=Text(table.note) if table.note else None,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for column in table.columns:
        right = column.kind == "number"
        rich.add_column(Text(column.header), justify="right" if right else "left", overflow="fold")
    for row in table.rows:
        kinds = (column.kind for column in table.columns)
        # Text and not str: labels may look like rich's markup.
        rich.add_row(*(_cell(cell, kind) for cell, kind in zip(row, kinds, strict=True)))
    return rich


def _cell(cell: str, kind: str) -> Text:
    return Text(cell, style=_STATES.get(cell, "") if kind == "status" else "")
