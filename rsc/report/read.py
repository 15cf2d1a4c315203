"""Reading a report back; needs neither plots nor templates."""

from __future__ import annotations

from pathlib import Path

from rsc.errors import MalformedFile
from rsc.report.schema import from_json
from rsc.report.value import Report

JSON = "report.json"
MAX_BYTES = 256 * 1024 * 1024


def read_report(path: str | Path) -> Report:
    """Read a report.

    Args:
        path: report.json, or the folder that holds it.

    Raises:
        MalformedFile: there is none, it is too large, or it is not a report of this layout.
    """
    path = Path(path)
    path = path / JSON if path.is_dir() else path
    try:
        if path.stat().st_size > MAX_BYTES:
            raise MalformedFile(
                f"'{path}' is too large.", f"A report has at most {MAX_BYTES:,} bytes.", "Check the path."
            )
        return from_json(path.read_bytes(), f"'{path}'")
    except OSError as error:
        reason = f"{error.strerror or error}."
        raise MalformedFile(f"Report '{path}' cannot be read.", reason, "Check the path.") from error
