"""One way to print each kind of number; every renderer uses these and nothing else."""

from __future__ import annotations

import unicodedata

from rsc.energy.results import Energy
from rsc.robustness.results import Accuracy

NONE = "–"
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_JOULES = ((1e9, "J"), (1e6, "mJ"), (1e3, "µJ"), (1.0, "nJ"), (1e-3, "pJ"), (1e-6, "fJ"))


def plain(text: object) -> str:
    """Text with the replacement character where a control, direction or non-character stood.

    Labels come from files; they must not steer a terminal, reorder a line or break an XML parser.
    """
    return "".join("\ufffd" if unprintable(c) else c for c in str(text))


def unprintable(char: str) -> bool:
    """Whether a character stands for no sign but an action: control, direction, line end, non-character."""
    kind = unicodedata.category(char)
    return (
        kind in ("Cc", "Cs", "Cn", "Zl", "Zp")
        or char in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    )


def percent(fraction: float | None, digits: int = 1) -> str:
    """0.612 -> "61.2 %"."""
    return NONE if fraction is None else f"{100 * fraction:.{digits}f} %"


def percent_range(low: float, high: float) -> str:
    """(0.57, 0.653) -> "[57.0, 65.3]"."""
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


def accuracy(value: Accuracy | None) -> str:
    """An accuracy with its interval: "61.2 % [57.0, 65.3]"."""
    if value is None:
        return NONE
    return f"{percent(value.value)} {percent_range(value.interval.low, value.interval.high)}"


def points(difference: float) -> str:
    """A difference of two fractions in percentage points: "-1.8"."""
    return f"{100 * difference:+.1f}"


def count(value: float | None) -> str:
    """Integers up to a million in full, the rest and means in engineering notation: "9,674", "2.48 M"."""
    if value is None:
        return NONE
    if float(value).is_integer() and abs(value) < 1e6:
        return f"{value:,.0f}"
    return engineering(value)


def engineering(value: float) -> str:
    """Three significant digits and a prefix: 12345 -> "12.3 k"."""
    for scale, prefix in _PREFIXES:
        if abs(value) >= 0.9995 * scale and scale > 1:
            return f"{_three(value / scale)} {prefix}"
    return _three(value)


def joules(nanojoules: float | None) -> str:
    """1234.0 -> "1.23 µJ"."""
    if nanojoules is None:
        return NONE
    scale, unit = _joule_scale(nanojoules)
    return f"{_three(nanojoules / scale)} {unit}"


def energy(value: Energy | None) -> str:
    """Nominal energy and its interval in one unit: "429 nJ [349, 572]"."""
    if value is None:
        return NONE
    scale, unit = _joule_scale(value.nominal_nj or value.high_nj)
    nominal, low, high = (_three(e / scale) for e in (value.nominal_nj, value.low_nj, value.high_nj))
    return f"{nominal} {unit} [{low}, {high}]"


def _joule_scale(nanojoules: float) -> tuple[float, str]:
    for scale, unit in _JOULES:
        if abs(nanojoules) >= 0.9995 * scale:
            return scale, unit
    return (1.0, "nJ") if nanojoules == 0 else _JOULES[-1]


def times(low: float, high: float) -> str:
    """A range of ratios: "1.49× to 5.25×"; one number if both ends print alike."""
    ends = [f"{value:.2f}×" if abs(value) < 10 else f"{_three(value)}×" for value in (low, high)]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def seconds(value: float | None) -> str:
    """A duration: "340 ms", "12.3 s", "5 min 2 s", "3 h 5 min"."""
    if value is None:
        return NONE
    if abs(value) < 1:
        return milliseconds(1000 * value)
    if abs(value) < 100:
        return f"{_three(value)} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def milliseconds(value: float | None) -> str:
    """A short duration given in ms: "1.9 ms", "10.0 µs"."""
    if value is None:
        return NONE
    return f"{_three(value)} ms" if abs(value) >= 0.1 or value == 0 else f"{_three(1000 * value)} µs"


def small(value: float | None) -> str:
    """A quantity without natural scale, three significant digits: "0.00391", "1.2e-07"."""
    return NONE if value is None else f"{value:.3g}"


def yes_no(value: bool) -> str:
    """ "yes" or "no"."""
    return "yes" if value else "no"


def join(parts: tuple[str, ...], separator: str = ", ") -> str:
    """Non-empty parts joined, or a dash."""
    return separator.join(part for part in parts if part) or NONE


def seed(value: int | None) -> str:
    """A seed, or a dash if nothing was drawn."""
    return NONE if value is None else str(value)


def _three(value: float) -> str:
    """Three significant digits, without exponent between 0.001 and 99999."""
    mantissa, exponent = f"{value:.2e}".split("e")
    if value == 0 or not -3 <= int(exponent) < 5:
        return f"{value:.3g}"
    return f"{float(mantissa) * 10 ** int(exponent):.{max(0, 2 - int(exponent))}f}"
