"""Plain values as TOML: text, numbers, lists of these, and tables of these."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(values: Mapping[str, Any], table: tuple[str, ...] = ()) -> str:
    """A TOML document. Keys without a value (None) are left out: TOML has no null.

    Raises:
        TypeError: a value that is none of the above.
    """
    own = {k: v for k, v in values.items() if v is not None and not isinstance(v, Mapping)}
    inner = {k: v for k, v in values.items() if isinstance(v, Mapping)}
    lines = [f"{_key(k)} = {_value(v)}\n" for k, v in own.items()]
    head = f"[{'.'.join(map(_key, table))}]\n" if table and (own or not inner) else ""
    parts = [head + "".join(lines), *(to_toml(v, (*table, k)) for k, v in inner.items())]
    return "\n".join(part for part in parts if part)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _text(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Sequence):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None) + "}"
    raise TypeError(f"A {type(value).__name__} has no form in TOML.")


def _text(text: str) -> str:
    """A basic string; JSON's escapes are TOML's, but for DEL, which TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
