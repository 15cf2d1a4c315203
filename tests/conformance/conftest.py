"""The conformance suite for our own targets, or for anybody's: `pytest tests/conformance --target SPEC`.

The modules beside the tests in this folder are imported by their bare names.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))

import third_party

from rsc.errors import UsageError


def pytest_addoption(parser: pytest.Parser) -> None:
    """The targets to be tested."""
    parser.addoption(
        "--target",
        action="append",
        default=[],
        metavar="SPEC",
        help="run the conformance suite against this target instead: module:Class[:option...], where the "
        "class follows rsc.hw_targets.Target, the name of one of ours or of a peer; may be repeated",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Remember the targets before the tests are collected."""
    sys.path.append(str(Path.cwd()))  # so that a module beside the reader is found
    third_party.GIVEN = tuple(config.getoption("--target", default=None) or ())
    for spec in third_party.GIVEN:
        try:
            third_party.target_of(spec)
        except UsageError as error:
            raise pytest.UsageError(str(error)) from error


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what speaks of our own targets alone."""
    if third_party.GIVEN:
        for item in items:
            if item.get_closest_marker("ours"):
                item.add_marker(pytest.mark.skip(reason="speaks of the targets of this package"))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A target that refuses everything has shown nothing."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if third_party.GIVEN and reporter is not None and exitstatus == 0 and not _ran(reporter, "passed"):
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How much of the table a target runs."""
    if third_party.GIVEN:
        passed, refused = (_ran(terminalreporter, kind) for kind in ("passed", "skipped"))
        wrong = _ran(terminalreporter, "failed")
        names = ", ".join(third_party.GIVEN)
        terminalreporter.write_line(f"{names}: cases exact {passed}, refused {refused}, wrong {wrong}")


def _ran(reporter: Any, kind: str) -> int:
    """How many cases of the table ended so."""
    return sum("test_a_target_gives_what_the_case_says" in r.nodeid for r in reporter.stats.get(kind, ()))
