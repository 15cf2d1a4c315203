"""Reports as files: report.json is the truth, report.html and report.md are made from it."""

from __future__ import annotations

from pathlib import Path

from rsc.errors import StorageError
from rsc.files import write_atomic
from rsc.report.html import html
from rsc.report.markdown import markdown
from rsc.report.read import JSON
from rsc.report.schema import to_json
from rsc.report.value import Report

MARKDOWN, HTML = "report.md", "report.html"


def write_report(report: Report, folder: str | Path) -> tuple[Path, Path, Path]:
    """Write report.json, report.md and report.html, each whole or not at all; other files stay.

    Args:
        folder: made if it does not exist.

    Returns:
        The three paths, in that order.

    Raises:
        UsageError: a value has no form in JSON (NaN, infinity).
        StorageError: a file could not be written.
    """
    folder = Path(folder)
    contents = {
        JSON: to_json(report),
        MARKDOWN: markdown(report).encode(),
        HTML: html(report).encode(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"Folder '{folder}' cannot be made.", f"{error.strerror or error}.", "Choose another place."
        ) from error
    for name, data in contents.items():
        write_atomic(folder / name, data)
    return folder / JSON, folder / MARKDOWN, folder / HTML
