"""Cost profiles are refused when they lack a source, are out of order or count something twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from energy_vectors import XE, T, program, simulate

from rsc.energy import energy_report, list_profiles, load_profile, parse_profile
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


def example() -> str:
    """The profile that docs/extending.md shows."""
    text = (Path(__file__).parent.parent / "docs" / "extending.md").read_text()
    return text.split("```toml\n")[1].split("```")[0]


def test_the_documented_profile_prices_a_run_with_dram_and_step_time() -> None:
    profile = parse_profile(example().encode())
    assert profile.memory is not None
    assert profile.timing is not None
    near = energy_report(program(), simulate(XE).record(), T, [profile], input_events=True, step_time_s=1e-3)
    small = example().replace("on_chip_bytes = 262144", "on_chip_bytes = 0").encode()
    far = energy_report(program(), simulate(XE).record(), T, [parse_profile(small)], input_events=True)
    weights = [
        next(c.energy.nominal_nj for c in r.priced[0].breakdown if c.name == "weights") for r in (near, far)
    ]
    assert weights[1] == pytest.approx(9277 * (8 + 10) * 20 / 1e3)
    assert weights[0] < weights[1] / 20
    step = near.priced[0].step_time
    assert step is not None
    assert step.low_s == pytest.approx((100 + (2480 / T * 4 + 9844 / T * 1) / 64) * 1e-9)
    assert step.high_s == pytest.approx((300 + 2480 / T * 8 + 9844 / T * 2) * 1e-9)
    assert near.priced[0].static is not None


def test_the_limit_of_the_chip_needs_a_price_of_what_lies_beyond() -> None:
    without = "\n".join(line for line in example().splitlines() if not line.startswith("dram"))
    with pytest.raises(MalformedFile, match="no cost of that memory"):
        parse_profile(without.encode())
    with pytest.raises(MalformedFile, match="sync"):
        parse_profile(example().replace("sync =", "# sync =").encode())
