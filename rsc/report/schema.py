"""Report and JSON: one encoding, one strict reading, one published schema."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from rsc.errors import MalformedFile, UsageError
from rsc.report.numbers import unprintable
from rsc.report.value import SCHEMA_VERSION, Report

SCHEMA_ID = f"rsc-snn/report/{SCHEMA_VERSION}"

_UNUSUAL = re.compile("[^\x00-\x7e]")


class _Version(msgspec.Struct):
    schema_version: int = 0


def to_json(report: Report) -> bytes:
    """The report as indented JSON; the same report gives the same bytes.

    Raises:
        UsageError: a value has no form in JSON, e.g. NaN.
    """
    encoded = msgspec.json.encode(report)
    try:
        msgspec.json.decode(encoded, type=Report)
    except msgspec.ValidationError as error:
        raise UsageError(
            "The report cannot be written.",
            f"A value would not survive: {error}.",
            "Leave out numbers that are NaN or infinite, or use None.",
        ) from error
    text = msgspec.json.format(encoded, indent=1).decode()
    return _UNUSUAL.sub(_spelled_out, text).encode() + b"\n"


def _spelled_out(match: re.Match[str]) -> str:
    r"""A character that a terminal would obey as \uXXXX, which JSON reads as the same character."""
    if not unprintable(match[0]):
        return match[0]
    units = match[0].encode("utf-16-be").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


def from_json(data: bytes, name: str = "the report") -> Report:
    """Read what `to_json` made.

    Raises:
        MalformedFile: not JSON, an unknown or missing field, a wrong type, or a layout of another version.
    """
    try:
        found = msgspec.json.decode(data, type=_Version).schema_version
        if found == SCHEMA_VERSION:
            return msgspec.json.decode(data, type=Report)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedFile(f"{name} is not a report.", f"{error}.", "Make the report again.") from error
    raise MalformedFile(
        f"{name} has layout version {found}.",
        f"This version of rsc-snn reads version {SCHEMA_VERSION}.",
        "Read it with the version of rsc-snn that wrote it, or make it again.",
    )


def report_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of report.json."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **msgspec.json.schema(Report),
    }
