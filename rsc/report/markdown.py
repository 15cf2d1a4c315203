"""A report as Markdown for pull requests and model cards; a function of the report alone."""

from __future__ import annotations

import re
from collections.abc import Iterable

from jinja2 import Environment, PackageLoader, StrictUndefined

from rsc.report.numbers import plain
from rsc.report.sections import lead, sections
from rsc.report.table import Table
from rsc.report.value import Report

# An interval such as [57.0, 65.3] is no link, and reads better without backslashes.
_OPENING = re.compile(r"\[(?![-+\d., ]+\](?![(\[:]))")
_LEADING = re.compile(r"^(#|[-+](?!\d)|\d+(?=[.)](\s|$)))")


def markdown(report: Report) -> str:
    """The report as GitHub-flavoured Markdown."""
    # Autoescaping is for HTML; `escape` does what Markdown needs.
    environment = Environment(
        loader=PackageLoader("rsc.report"),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": escape, "md_table": pipe_table}
    template = environment.get_template("report.md.j2")
    return template.render(report=report, lead=lead(report), sections=sections(report))


def escape(text: str) -> str:
    """Text that Markdown shows as it is: on one line, without markup, HTML, mathematics or links."""
    text = " ".join(plain(text).split())
    text = re.sub(r"[\\`*_|~$>]", r"\\\g<0>", text)
    text = _OPENING.sub(r"\\[", text)
    text = _LEADING.sub(_escape_leading, text)
    text = re.sub(r"(?<!\\)#$", r"\#", text)  # a heading would lose it
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _escape_leading(match: re.Match[str]) -> str:
    """A heading, bullet or number at the start of a line; of a number the dot is escaped."""
    return f"{match[0]}\\" if match[0].isdigit() else f"\\{match[0]}"


def pipe_table(table: Table) -> str:
    """One table with pipes."""
    marks = ("---:" if column.kind == "number" else "---" for column in table.columns)
    heads = _row(escape(column.header) for column in table.columns)
    return "\n".join([heads, _row(marks), *(_row(map(escape, row)) for row in table.rows)])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
