"""Reports as files: they read back as they were written, fit their schema, and damage is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from report_sample import HOSTILE, sample

from rsc.errors import MalformedFile, StorageError, UsageError
from rsc.report import Report, conclude, from_json, read_report, report_schema, to_json, write_report

replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def hostile() -> Report:
    return conclude(sample(HOSTILE, "x</title><img src=y onerror=z>"))


def test_a_report_reads_back_as_it_was_written(tmp_path: Path, hostile: Report) -> None:
    (tmp_path / "metrics.jsonl").write_text("kept")
    paths = write_report(hostile, tmp_path)
    assert [p.name for p in paths] == ["report.json", "report.md", "report.html"]
    assert read_report(tmp_path) == read_report(paths[0]) == hostile
    assert (tmp_path / "metrics.jsonl").read_text() == "kept"
    assert len(list(tmp_path.iterdir())) == 4


def test_the_folder_is_made(tmp_path: Path) -> None:
    write_report(Report("t", "now"), tmp_path / "a" / "b")
    assert read_report(tmp_path / "a" / "b") == Report("t", "now")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        write_report(Report("t", "now"), tmp_path / "file" / "b")


def test_numbers_without_json_form_are_refused_with_their_place(tmp_path: Path) -> None:
    report = sample()
    broken = replace(report.quantisation[0], scale=float("nan"))
    with pytest.raises(UsageError, match=r"quantisation\[0\]\.scale"):
        write_report(replace(report, quantisation=(broken,)), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"schema_version": 1}',
        b'{"schema_version": 99, "title": "t", "created": "c"}',
        b'{"title": "t", "created": "c"}',
        b'{"schema_version": 1, "title": "t", "created": "c", "extra": 1}',
        b'{"schema_version": 1, "title": 5, "created": "c"}',
        b'{"schema_version": 1, "title": "t", "created": "c", "config": {"a": 1e999}}',
        b'{"schema_version": 1, "config": ' + b'{"a":' * 100_000,
    ],
)
def test_what_is_no_report_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "report.json").write_bytes(data)
    with pytest.raises(MalformedFile):
        read_report(tmp_path)


def test_every_truncation_is_refused() -> None:
    data = to_json(sample()).rstrip()
    for length in range(0, len(data), 211):
        with pytest.raises(MalformedFile):
            from_json(data[:length])


def test_a_missing_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(MalformedFile, match=r"none\.json"):
        read_report(tmp_path / "none.json")


# --- schema --------------------------------------------------------------------------------------


def valid(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """The part of JSON Schema 2020-12 that the published schema uses, written from its specification."""
    if "$ref" in schema:
        return valid(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    if "anyOf" in schema:
        return any(valid(value, option, root) for option in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float)}
    kind = schema.get("type")
    if kind == "null":
        return value is None
    if kind == "boolean":
        return isinstance(value, bool)
    if kind is None:
        return True
    if not isinstance(value, kinds[kind]) or isinstance(value, bool):
        return False
    return _valid_object(value, schema, root) if kind == "object" else _valid_array(value, schema, root)


def _valid_object(value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any]) -> bool:
    known, more = schema.get("properties", {}), schema.get("additionalProperties", True)
    return all(key in value for key in schema.get("required", [])) and all(
        valid(v, known[k], root)
        if k in known
        else (valid(v, more, root) if isinstance(more, dict) else bool(more))
        for k, v in value.items()
    )


def _valid_array(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    if not isinstance(value, list):
        return True
    first = schema.get("prefixItems", [])
    rest = schema.get("items", {})
    return (
        schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
        and all(valid(v, s, root) for v, s in zip(value, first, strict=False))
        and (rest is not False or len(value) <= len(first))
        and all(valid(v, rest or {}, root) for v in value[len(first) :])
    )


def test_the_json_fits_the_published_schema_and_damaged_json_does_not(hostile: Report) -> None:
    schema, value = report_schema(), msgspec.json.decode(to_json(hostile))
    assert valid(value, schema, schema)
    assert not valid({k: v for k, v in value.items() if k != "title"}, schema, schema)
    assert not valid(value | {"extra": 1}, schema, schema)
    assert not valid(value | {"models": [{"name": 5}]}, schema, schema)
    assert not valid(value | {"models": [{"name": "a", "role": "best"}]}, schema, schema)
