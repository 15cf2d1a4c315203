"""The conformance suite for our own targets, or for anybody's: `pytest tests/conformance --target SPEC`.

The modules beside the tests in this folder are imported by their bare names.
"""

from __future__ import annotations

import sys
from pathlib import Path

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
