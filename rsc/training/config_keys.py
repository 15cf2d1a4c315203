"""Which key or name a misspelt one was meant to be."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

import msgspec

Tables = Sequence[type[msgspec.Struct]]


def suggestion(message: str, config: type[msgspec.Struct]) -> str:
    """What to do about an error message of msgspec: the nearest key of the table, or name, that it speaks of.

    The nearest key of the whole file is taken where the table has none that is near.
    """
    where = re.search(r"at `\$([^`]*)`", message)
    path = re.findall(r"\.(\w+)", where[1]) if where else []
    unknown = re.search(r"unknown field `([^`]*)`", message)
    if unknown is None:
        return _name(message, config, path) or "Compare it with examples/configs/."
    tables = _tables(config, path)
    own = sorted(_keys(tables))
    near = difflib.get_close_matches(unknown[1], own, 1)
    near = near or difflib.get_close_matches(unknown[1], sorted(_keys(_below([config]))), 1)
    return f"Did you mean '{near[0]}'?" if near else f"Known keys: {', '.join(own)}."


def _name(message: str, config: type[msgspec.Struct], path: list[str]) -> str:
    """The names that a field may have, where the message is about one that it may not; else nothing."""
    wrong = re.search(r"Invalid (?:enum )?value '([^']*)'", message)
    if wrong is None or not path:
        return ""
    names: set[str] = set()
    for table in _tables(config, path[:-1]):
        kind = table.__struct_config__
        names |= {str(kind.tag)} if kind.tag_field == path[-1] else set()
        names |= set(_texts(get_type_hints(table).get(path[-1])))
    near = difflib.get_close_matches(wrong[1], sorted(names), 1)
    known = f"Known: {', '.join(sorted(names - {''}))}."
    return f"{known} Did you mean '{near[0]}'?" if near else known


def _texts(hint: Any) -> list[str]:
    """All texts of the Literals in a type."""
    found = [value for value in get_args(hint) if isinstance(value, str)]
    return found + [text for part in get_args(hint) for text in _texts(part)]


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
