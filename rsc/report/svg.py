"""Figures as SVG text to stand inside an HTML page: same figure, same bytes; no script, no outside names."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any, NamedTuple

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK = "#010203"
"""Colour of text and axes while drawing; the page's own text colour replaces it."""

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
}


class Drawing(NamedTuple):
    """A plot: its caption, what it shows, and the <svg> element."""

    title: str
    description: str
    svg: str


@contextlib.contextmanager
def style(name: str) -> Iterator[None]:
    """Matplotlib's defaults with our changes inside the block; the caller's settings come back after it."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the browser has other fonts
        matplotlib.rcdefaults()
        settings: Any = matplotlib.rcParams
        settings.update(_STYLE | {"svg.hashsalt": name})
        yield


def render(figure: Figure, name: str, title: str, description: str) -> Drawing:
    """The figure as one <svg> element with a title and a description for those who cannot see it.

    Args:
        figure: drawn inside `style(name)`, and rendered there too.
        name: prefix of all ids, unique in a page.
    """
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    FigureCanvasSVG(figure).print_svg(buffer, metadata=metadata)
    root = ElementTree.fromstring(buffer.getvalue())
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(k): _value(k, v, name) for k, v in element.attrib.items()}
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag in ("metadata", "style")]:
            parent.remove(child)
    _describe(root, name, title, description)
    return Drawing(title, description, ElementTree.tostring(root, encoding="unicode"))


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _value(key: str, value: str, name: str) -> str:
    """Ids get the figure's name before them, wherever they are used; ink becomes the page's."""
    if key == "id":
        return f"{name}-{value}"
    if _local(key) == "href":
        return f"#{name}-{value.removeprefix('#')}"
    return re.sub(r"url\(#", f"url(#{name}-", value).replace(INK, "currentColor")


def _describe(root: ElementTree.Element, name: str, title: str, description: str) -> None:
    for key in ("height", "version"):
        root.attrib.pop(key, None)
    width = float(root.attrib.pop("width").removesuffix("pt"))
    root.attrib |= {
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-desc",
        "style": f"max-width: {width / 72 * 1.15:.2f}in",
    }
    for position, (tag, content) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        element.text = content
        root.insert(position, element)
