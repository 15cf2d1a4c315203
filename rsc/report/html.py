"""A report as one HTML file: no script, nothing from the network, every text escaped."""

from __future__ import annotations

import re
from html import escape

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rsc.report.numbers import plain
from rsc.report.plots import PLOTS
from rsc.report.schema import to_json
from rsc.report.sections import lead, sections
from rsc.report.value import Report

STATES = {"PASS": "good", "WARN": "warn", "FAIL": "bad", "yes": "good", "no": "bad"}
_SPAN = re.compile(r"\[[-+\d., ]+\]|\b\d[\d.,]* (?:[kMGTPnµmpf]?J|[kMGTP]|[mµ]?s)\b|L[∞012] \S+")
_INTERVAL = re.compile(r"^(?P<value>[^\[]*\S) (?P<range>\[[^\]]*\])(?P<rest>[^;]*)$")


def html(report: Report) -> str:
    """The report as a page that stands alone and opens with scripts and network disabled."""
    environment = Environment(
        loader=PackageLoader("rsc.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"plain": plain, "split_interval": split_interval, "flow": flow}
    found = sections(report)
    # Our own drawing, serialised by an XML writer that escapes every label in it.
    drawings = {name: PLOTS[name](report) for section in found for name in section.plots}
    plots = {name: d and d._replace(svg=Markup(d.svg)) for name, d in drawings.items()}
    return environment.get_template("report.html.j2").render(
        report=report,
        lead=lead(report),
        sections=found,
        plots=plots,
        states=STATES,
        json=Markup(escape(to_json(report).decode(), quote=False)),
    )


def flow(text: str) -> str:
    """Running text in which no line breaks inside a number with its unit or an interval."""
    text = plain(text).replace(" %", "\u00a0%").replace(" = ", "\u00a0=\u00a0")
    return _SPAN.sub(lambda match: match[0].replace(" ", "\u00a0"), text)


def split_interval(cell: str) -> Markup:
    """A number with its interval on a line of its own; several, parted by semicolons, below each other."""
    return Markup("<br>").join(map(_one, cell.split("; ")))


def _one(cell: str) -> Markup:
    match = _INTERVAL.match(cell)
    if match is None:
        return (
            Markup('<span class="part">{}</span>').format(cell)
            if len(cell) < 15
            else Markup.escape(flow(cell))
        )
    shown = match["value"] + match["rest"]
    return Markup('<span class="part">{}</span><span class="range">{}</span>').format(shown, match["range"])
