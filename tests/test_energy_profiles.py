"""Cost profiles are refused when they lack a source, are out of order or count something twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsc.energy import list_profiles, load_profile, parse_profile
from rsc.errors import MalformedFile, UsageError

GOOD = b"""id = "x"
title = "t"
source = "s"
[cost]
sop = { low = 1.0, nominal = 2.0, high = 3.0, evidence = "measured", scope = "op+mem" }
"""
MEMORY = b"""[memory]
weight_bits = 8
state_bits = 8
accumulator_bits = 8
activation_bits = 8
evidence = "derived"
"""


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace(b"low = 1.0", b"low = 2.5"),
        GOOD.replace(b"low = 1.0", b"low = -1.0"),
        GOOD.replace(b"high = 3.0", b"high = inf"),
        GOOD.replace(b"measured", b"guessed"),
        GOOD.replace(b'source = "s"', b'source = ""'),
        GOOD.replace(b"sop =", b"soup ="),
        GOOD + MEMORY,
        GOOD.replace(b"op+mem", b"all-in")
        + b'[static]\nlow = 1\nnominal = 1\nhigh = 1\nevidence = "measured"\n',
        b"not = [toml",
        b"\xff\xfe",
    ],
)
def test_bad_profiles_are_refused(text: bytes) -> None:
    assert parse_profile(GOOD).cost.mac is None
    with pytest.raises(MalformedFile):
        parse_profile(text)


def test_every_profile_has_a_doi_or_says_that_there_is_none() -> None:
    for profile in map(load_profile, list_profiles()):
        assert profile.doi.startswith("10.") != profile.source.endswith("no public DOI found"), profile.id


def test_profiles_come_by_id_or_path(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(GOOD)
    assert load_profile(tmp_path / "mine.toml").id == "x"
    assert load_profile(str(tmp_path / "mine.toml")).id == "x"
    with pytest.raises(UsageError, match="Did you mean 'loihi1-sanafe'"):
        load_profile("loihi1-sanfe")
    with pytest.raises(UsageError, match="cannot be read"):
        load_profile("missing.toml")
