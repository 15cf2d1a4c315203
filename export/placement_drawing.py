"""A placement as a drawing: standalone SVG text, readable on light and dark, no script, nothing from outside.

Every core of a chip in use is a tile. Its filling has the colour of the layer (several layers side by side,
as wide as their share of the neurons) and the height of the fullest limit; its title tells all limits. Where
a core sits on the real chip is not public: tiles are in order of number.
"""

from __future__ import annotations

import colorsys
import math
import re
import textwrap
from collections.abc import Callable, Iterator
from html import escape

from rsc.export.placement import CoreUse, Placement
from rsc.export.placement_traffic import Traffic

LINE_CHARACTERS = 76  # of text that fit the narrowest drawing
MOST_CHIPS, MOST_LINKS = 32, 128  # drawn; a line of text tells what is left out
_TILE, _GAP, _MARGIN, _LINE = 26, 4, 16, 18
_COLUMNS, _CHIPS_ABREAST = 16, 2
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")

_STYLE = """<style>
.pl text{font:13px system-ui,sans-serif;fill:#1c1c1c}.pl .h{font-weight:600;font-size:15px}
.pl .paper{fill:#fff}.pl .core{fill:#8882;stroke:#8a8a8a}
.pl .link{stroke:#1c1c1c;stroke-opacity:.45;fill:none}
@media (prefers-color-scheme:dark){.pl text{fill:#ececec}.pl .paper{fill:#161616}.pl .link{stroke:#ececec}}
</style>"""


def drawing(placement: Placement, traffic: Traffic | None = None) -> str:
    """The placement as SVG text.

    Args:
        traffic: messages between cores, drawn as lines whose width grows with the number of messages.
    """
    per_chip = placement.cores_per_chip
    drawn = min(placement.chips, MOST_CHIPS)
    colours = {layer.name: _colour(i) for i, layer in enumerate(placement.layers)}
    head = [*_summary(placement), *_notes(placement, traffic)]
    top = _MARGIN + _LINE * (len(head) + len(colours)) + _LINE
    columns, abreast = min(_COLUMNS, per_chip), max(1, min(_CHIPS_ABREAST, drawn))
    panel = columns * (_TILE + _GAP), (-(-per_chip // columns)) * (_TILE + _GAP) + 2 * _LINE
    width = max(640, _MARGIN + abreast * (panel[0] + _MARGIN))
    height = top + -(-drawn // abreast) * panel[1] + _MARGIN

    def corner(number: int) -> tuple[int, int]:
        """Top left of a core's tile, by its number over all chips."""
        which, core = divmod(number, per_chip)
        x = _MARGIN + which % abreast * (panel[0] + _MARGIN) + core % columns * (_TILE + _GAP)
        return x, top + which // abreast * panel[1] + _LINE + core // columns * (_TILE + _GAP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="pl" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">',
        f"<title>{_text(head[0])}</title><desc>{_text(' '.join(head[1:]))}</desc>",
        _STYLE,
        f'<rect class="paper" width="{width}" height="{height}"/>',
    ]
    for i, line in enumerate(head):
        kind = ' class="h"' if i == 0 else ""
        parts.append(f'<text{kind} x="{_MARGIN}" y="{_MARGIN + _LINE * (i + 1) - 6}">{_text(line)}</text>')
    parts += _legend(placement, colours, _MARGIN + _LINE * len(head))
    for which in range(drawn):
        x, y = corner(which * per_chip)
        parts.append(f'<text x="{x}" y="{y - 6}">chip {which}</text>')
        for core in range(which * per_chip, (which + 1) * per_chip):
            used = placement.cores[core] if core < len(placement.cores) else None
            parts += _tile(used, corner(core), colours)
    if traffic is not None:
        parts += _links(traffic, drawn * per_chip, corner)
    return "\n".join([*parts, "</svg>", ""])


def _summary(placement: Placement) -> list[str]:
    chips = f"{placement.chips} chip{'' if placement.chips == 1 else 's'}"
    cores = f"{len(placement.cores)} core{'' if len(placement.cores) == 1 else 's'}"
    lines = [f"{placement.title}: {cores} on {chips}"]
    errors = [issue for issue in placement.issues if issue.severity == "error"]
    if errors:
        lines.append(f"It does not fit: {len(errors)} finding{'' if len(errors) == 1 else 's'}.")
    if placement.unplaced:
        lines.append(_short(f"On no core: {', '.join(placement.unplaced)}.", LINE_CHARACTERS))
    return lines


def _notes(placement: Placement, traffic: Traffic | None) -> Iterator[str]:
    if placement.unknown:
        names = ", ".join(name.replace("_", " ") for name in placement.unknown)
        yield from textwrap.wrap(f"Not public, not checked: {names}.", LINE_CHARACTERS)
    if placement.chips > MOST_CHIPS:
        yield f"The first {MOST_CHIPS} of {placement.chips} chips are drawn."
    if traffic is not None:
        busy = int(((traffic.total > 0) & (traffic.links[:, 0] != traffic.links[:, 1])).sum())
        text = f"Lines: messages between cores, the {min(busy, MOST_LINKS)} busiest of {busy} links"
        largest = traffic.largest
        yield text + (f"; most: {largest[2]} from core {largest[0]} to {largest[1]}." if largest else ".")


def _legend(placement: Placement, colours: dict[str, str], top: int) -> Iterator[str]:
    for i, layer in enumerate(placement.layers):
        y = top + _LINE * i + 2
        sizes = f"neurons {layer.neurons}, synapses {layer.synapses}, cores {layer.cores}"
        text = f"{_short(layer.name, 60)}: {sizes}"
        yield (
            f'<g><title>{_text(layer.name)}</title><rect x="{_MARGIN}" y="{y}" width="12" height="12" '
            f'fill="{colours[layer.name]}"/><text x="{_MARGIN + 20}" y="{y + 11}">{_text(text)}</text></g>'
        )


def _tile(used: CoreUse | None, corner: tuple[int, int], colours: dict[str, str]) -> Iterator[str]:
    x, y = corner
    frame = f'<rect class="core" x="{x}" y="{y}" width="{_TILE}" height="{_TILE}"/>'
    if used is None:
        yield frame
        return
    lines = [f"chip {used.chip}, core {used.core}"]
    lines += [f"{part.layer}: {part.neurons} neurons" for part in used.slices]
    lines += [f"{name.replace('_', ' ')}: {share:.1%}" for name, share in used.occupancy.items()]
    yield f"<g><title>{_text(chr(10).join(lines))}</title>{frame}"
    share = min(1.0, max(used.occupancy.values(), default=1.0))
    height, left = max(1.0, share * _TILE), float(x)
    for part in used.slices:
        width = _TILE * part.neurons / used.neurons
        yield (
            f'<rect x="{left:.2f}" y="{y + _TILE - height:.2f}" width="{width:.2f}" height="{height:.2f}" '
            f'fill="{colours[part.layer]}"/>'
        )
        left += width
    yield "</g>"


def _links(traffic: Traffic, shown: int, corner: Callable[[int], tuple[int, int]]) -> Iterator[str]:
    """Arcs between the middles of tiles, the busiest last; from left to right they hang, back they rise."""
    pairs = [
        (int(count), int(a), int(b))
        for (a, b), count in zip(traffic.links, traffic.total, strict=True)
        if a != b and count > 0 and max(a, b) < shown
    ]
    busiest = sorted(sorted(pairs, key=lambda p: (-p[0], p[1:]))[:MOST_LINKS], key=lambda p: (p[0], p[1:]))
    for count, a, b in busiest:
        (x, y), (u, v) = corner(a), corner(b)
        half = _TILE // 2
        bend = min(0.25, 2 * _TILE / math.hypot(u - x, v - y))
        middle = f"{(x + u) / 2 + half - bend * (v - y):.1f} {(y + v) / 2 + half + bend * (u - x):.1f}"
        yield (
            f'<path class="link" stroke-width="{0.5 + 3.5 * count / busiest[-1][0]:.2f}" '
            f'd="M{x + half} {y + half}Q{middle} {u + half} {v + half}">'
            f"<title>core {a} to core {b}: {count} messages</title></path>"
        )


def _colour(index: int) -> str:
    """Hues a golden angle apart, of a lightness that stands out on white and on black."""
    rgb = colorsys.hls_to_rgb((0.58 + index * 0.6180339887) % 1, 0.52, 0.6)
    return "#" + "".join(f"{round(255 * c):02x}" for c in rgb)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _text(text: str) -> str:
    return escape(_NOT_XML.sub("\ufffd", text))
