"""Every form of a report says what the value says, whatever its labels are."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from report_sample import HOSTILE, sample
from rich.console import Console

from rsc.report import (
    Report,
    conclude,
    from_json,
    terminal_tables,
    to_json,
    write_report,
)
from rsc.report import numbers as n
from rsc.report.html import html
from rsc.report.markdown import escape, markdown
from rsc.report.sections import sections

replace = msgspec.structs.replace
SECTIONS = (
    "models",
    "targets",
    "parity",
    "quantisation",
    "energy",
    "robustness",
    "certificates",
    "verification",
)


class Page(HTMLParser):
    """What a browser would find: tags, attributes, text, and the text of the last <pre>."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text, self.pre = "", ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(key, value or "") for key, value in attrs]
        if tag == "pre":
            self.pre = ""

    def handle_data(self, data: str) -> None:
        self.text += data
        if "pre" in self.tags:
            self.pre += data


@pytest.fixture(scope="module")
def hostile() -> Report:
    return conclude(sample(HOSTILE, "x</title><img src=y onerror=z>"))


@pytest.fixture(scope="module")
def hostile_page(hostile: Report) -> str:
    return html(hostile)


# --- HTML ----------------------------------------------------------------------------------------


def test_the_page_stands_alone_and_runs_nothing(hostile_page: str) -> None:
    page = Page(hostile_page)
    assert not {"script", "link", "iframe", "img", "object", "embed", "form", "base", "image"} & set(
        page.tags
    )
    assert not [key for key, _ in page.attributes if key.startswith("on") or key in ("src", "srcset")]
    assert all(value.startswith("#") for key, value in page.attributes if key.endswith("href"))
    assert all(m.startswith("#") for _, value in page.attributes for m in re.findall(r"url\(([^)]*)", value))
    policy = next(value for key, value in page.attributes if key == "content")
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")


def test_hostile_names_stay_text(hostile_page: str) -> None:
    text = Page(hostile_page).text
    assert "<script>alert(1)</script>|`x` </pre> ${y} [a](http://b) $\\frac$ _u_ &" in text
    assert "\x1b" not in hostile_page
    assert "\u202e" not in hostile_page
    assert "\\u202e" in hostile_page, "the embedded JSON spells it out"


def test_the_page_holds_the_whole_json(hostile: Report, hostile_page: str) -> None:
    assert from_json(Page(hostile_page).pre.split("\n</pre>")[0].encode()) == hostile


def test_ids_are_unique_and_plots_have_titles(hostile_page: str) -> None:
    ids = [value for key, value in Page(hostile_page).attributes if key == "id"]
    assert len(ids) == len(set(ids))
    assert hostile_page.count("<svg") == 8
    for label in re.findall(r'aria-labelledby="([^"]*)"', hostile_page):
        assert set(label.split()) <= set(ids)


def test_plots_take_their_ink_from_the_page(hostile_page: str) -> None:
    assert "currentColor" in hostile_page
    assert "#010203" not in hostile_page


def test_the_same_report_gives_the_same_bytes_in_another_process(tmp_path: Path, hostile: Report) -> None:
    first = write_report(hostile, tmp_path / "a")
    code = "import sys; from rsc.report import *; write_report(read_report(sys.argv[1]), sys.argv[2])"
    code += "; assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules), 'too much was loaded'"
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    second = tmp_path / "b"
    subprocess.run([sys.executable, "-c", code, first[0], second], check=True, env=environment)
    for path in first:
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_drawing_leaves_the_callers_settings_alone() -> None:
    with matplotlib.rc_context({"font.size": 23.0, "svg.hashsalt": "mine"}):
        before = dict(matplotlib.rcParams)
        html(sample())
        assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("kept", [(), *((name,) for name in SECTIONS)])
def test_every_section_stands_alone(kept: tuple[str, ...]) -> None:
    report = conclude(replace(sample(), **{name: () for name in SECTIONS if name not in kept}))
    assert html(report)
    assert markdown(report)
    tables = {table.id for section in sections(report) for table in section.tables}
    assert (len(tables) > 3) == bool(kept)


def test_deeply_nested_configurations_are_cut_short_and_wholly_in_the_json() -> None:
    nested: Any = 42.5
    for _ in range(300):
        nested = {"a": [nested]}
    report = replace(sample(), config={"deep": nested}, models=())
    assert from_json(to_json(report)) == report
    assert "…" in markdown(report)
    assert "42.5" in html(report)


# --- Markdown ------------------------------------------------------------------------------------


def rendered(text: str) -> tuple[set[str], list[str]]:
    """Kinds of tokens and texts that an independent Markdown parser sees, HTML and tables allowed."""
    kinds, texts = set(), []
    for token in MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text):
        kinds.add(token.type)
        kinds |= {child.type for child in token.children or []}
        if token.children:
            texts.append("".join(child.content for child in token.children))
    return kinds, texts


FORBIDDEN = {
    "html_block",
    "html_inline",
    "link_open",
    "image",
    "em_open",
    "strong_open",
    "s_open",
    "code_block",
}


def test_markdown_shows_hostile_names_as_text(hostile: Report) -> None:
    kinds, texts = rendered(markdown(hostile))
    assert not FORBIDDEN & kinds
    assert n.plain(HOSTILE) in texts


def test_markdown_tables_have_as_many_cells_as_columns(hostile: Report) -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown(hostile))
    rows, widths = 0, []
    for token in tokens:
        if token.type == "thead_open":
            widths.append([])
        elif token.type == "tr_open":
            widths[-1].append(0)
        elif token.type in ("th_open", "td_open"):
            widths[-1][-1] += 1
    expected = [table for section in sections(hostile) for table in section.tables]
    assert len(widths) == len(expected)
    for table, found in zip(expected, widths, strict=True):
        assert found == [len(table.columns)] * (len(table.rows) + 1)
        rows += len(table.rows)
    assert rows > 60


@given(st.text(min_size=1, max_size=60) | st.text("#-+*_`~=|<>[]()!&$\\:.1 a\n", min_size=1, max_size=12))
@settings(max_examples=400, deadline=None, derandomize=True, database=None)
def test_any_text_survives_markdown_in_a_cell_a_bullet_and_a_heading(text: str) -> None:
    shown = " ".join(n.plain(text).split())
    safe = escape(text)
    kinds, texts = rendered(f"- {safe}\n\n| a |\n| --- |\n| {safe} |\n\n# {safe}\n\nlast")
    assert not FORBIDDEN & kinds
    assert not {"fence", "hr", "blockquote_open", "ordered_list_open", "code_inline"} & kinds
    if shown:
        assert texts[0] == texts[2] == shown


# --- tables and numbers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (n.percent(0.6124), "61.2 %"),
        (n.percent_range(0.57, 0.6531), "[57.0, 65.3]"),
        (n.points(-0.0184), "-1.8"),
        (n.count(9674.0), "9,674"),
        (n.count(9674.25), "9.67 k"),
        (n.count(2_480_000), "2.48 M"),
        (n.engineering(999.96), "1.00 k"),
        (n.count(None), "–"),
        (n.joules(0.0), "0 nJ"),
        (n.joules(1234.0), "1.23 µJ"),
        (n.joules(0.0009), "900 fJ"),
        (n.times(1.494, 5.249), "1.49× to 5.25×"),
        (n.times(0.3, 0.3), "0.30×"),
        (n.seconds(0.34), "340 ms"),
        (n.seconds(302.0), "5 min 2 s"),
        (n.milliseconds(0.01), "10.0 µs"),
        (n.small(1.2345e-7), "1.23e-07"),
        (n.plain("a\x1bb\u2066\ufffe"), "a\ufffdb\ufffd\ufffd"),
    ],
)
def test_numbers_print_in_one_way(shown: str, expected: str) -> None:
    assert shown == expected


def cells(report: Report, table: str) -> list[dict[str, str]]:
    """Rows of a table as dicts."""
    found = next(t for section in sections(report) for t in section.tables if t.id == table)
    heads = [column.header for column in found.columns]
    return [dict(zip(heads, row, strict=True)) for row in found.rows]


def test_the_glance_shows_the_strongest_attack_the_certificate_and_the_cost() -> None:
    row = cells(sample(), "models")[0]
    assert row == {
        "Model": "RSC-II",
        "Clean, per run": "97.0 % [93.0, 100.0]",
        "Clean, vote of 16": "98.0 % [94.0, 100.0]",
        "Robust L∞ 8/255": "61.2 % [57.2, 65.2]",
        "Robust L∞ 16/255": "40.0 % [36.0, 44.0]",
        "Certified L2 0.125": "61.2 % [47.1, 73.5]",
        "Certified L1 0.0625": "55.3 % [41.4, 68.4]",
        "SOPs": "154,784",
        "MACs": "19,744",
        "Random draws": "8,192",
        "Energy per decision": "429 nJ [349, 572]",
    }


def test_white_box_and_replayed_attacks_stand_apart() -> None:
    row = cells(sample(), "robust")[0]
    assert row["White box, where the model was attacked"] == "61.2 % [57.2, 65.2] torch (pgd)"
    assert (
        row["Same images replayed on a target"] == "60.0 % [56.0, 64.0] loihi (transfer of RSC-II on torch)"
    )


def test_failed_checks_come_first_and_say_what_to_do() -> None:
    rows = cells(sample(), "checks")
    assert [row["Status"] for row in rows] == ["WARN", "WARN", "PASS", "PASS"]
    assert rows[0]["What to do"] == "Use a wider surrogate."


def leaves(value: Any) -> list[float]:
    """All numbers in JSON, those inside strings and the lengths of lists included."""
    if isinstance(value, bool) or value is None:
        return []
    if isinstance(value, int | float):
        return [value]
    if isinstance(value, str):
        return [float(number) for number in re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", value)]
    parts = [*value.values(), *value] if isinstance(value, dict) else value
    return [len(parts), *(leaf for part in parts for leaf in leaves(part))]


def close(token: str, leaf: float) -> bool:
    """Whether a printed number is a leaf in some unit, to the digits it is printed with."""
    digits = len(token.partition(".")[2].partition("e")[0])
    units = (1.0, 100.0, *(10.0 ** (3 * k) for k in (-4, -3, -2, -1, 1, 2)))
    half = 0.5 * 10**-digits * (10 ** float(token.partition("e")[2] or 0))
    return any(abs(abs(leaf) * unit - float(token)) <= half * 1.0001 for unit in units)


def test_every_number_in_a_table_is_in_the_json() -> None:
    report = sample()
    known = leaves(msgspec.json.decode(to_json(report)))
    known += [1 - e.totals.rate for e in report.energy if e.totals.rate]  # sparsity of NeuroBench
    for section in sections(report):
        for table in section.tables:
            for cell in (cell for row in table.rows for cell in row):
                for token in re.findall(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?", cell):
                    bare = token.replace(",", "").rstrip(",")
                    assert any(close(bare, leaf) for leaf in known), (table.id, cell)


def test_tables_for_the_terminal_show_labels_literally() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=400, color_system=None)
    tables = terminal_tables(sample("[bold red]\x1b[31mx", "[/] y"), detail=True)
    console.print(*tables)
    assert "[bold red]\ufffd[31mx" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
    assert len(tables) > len(terminal_tables(sample()))
