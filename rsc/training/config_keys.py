"""Which key a misspelt one was meant to be."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

import msgspec

Tables = Sequence[type[msgspec.Struct]]


def suggestion(message: str, config: type[msgspec.Struct]) -> str:
    """What to do about an error message of msgspec: the nearest key of the table that it speaks of.

    The nearest key of the whole file is taken where the table has none that is near.
    """
    unknown = re.search(r"unknown field `([^`]*)`", message)
    if unknown is None:
        return "Compare it with examples/configs/."
    where = re.search(r"at `\$([^`]*)`", message)
    tables = _tables(config, re.findall(r"\.(\w+)", where[1]) if where else [])
    own = sorted(_keys(tables))
    near = difflib.get_close_matches(unknown[1], own, 1)
    near = near or difflib.get_close_matches(unknown[1], sorted(_keys(_below([config]))), 1)
    return f"Did you mean '{near[0]}'?" if near else f"Known keys: {', '.join(own)}."


def _tables(config: type[msgspec.Struct], path: list[str]) -> Tables:
    """The kinds of tables that may stand at a path."""
    tables: Tables = [config]
    for name in path:
        inner = [found for table in tables for found in _structs(get_type_hints(table).get(name))]
        tables = inner or tables
    return tables


def _below(tables: Tables) -> Tables:
    inner = [s for table in tables for hint in get_type_hints(table).values() for s in _structs(hint)]
    return [*tables, *(_below(inner) if inner else [])]


def _keys(tables: Tables) -> set[str]:
    return {field.encode_name for table in tables for field in msgspec.structs.fields(table)}


def _structs(hint: Any) -> Tables:
    """All structs in a type, e.g. in `tuple[A | B, ...] | None`."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return [hint]
    return [found for part in get_args(hint) for found in _structs(part)]
