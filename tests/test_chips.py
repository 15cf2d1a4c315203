"""Limits of chips, and the numbers of a program that they cannot hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from placement_loops import lif, list_bits, mlp, program

from rsc.errors import UsageError
from rsc.export.chips import CHIPS, Limit, limits, weight_bits
from rsc.export.placement import chip_issues, place
from rsc.layered import Connection, LayeredProgram


@pytest.mark.parametrize(
    ("changes", "connection", "what"),
    [
        ({"vth": 131072}, {}, "threshold mantissa is 131072"),
        (
            {"bias_mant": np.full(2, -4096, np.int32)},
            {},
            "bias mantissa is -4096; Loihi 1 holds -4095 to 4095",
        ),
        ({"bias_exp": 8}, {}, "bias exponent is 8"),
        ({"dv": 4096}, {}, "decay dv is 4096"),
        ({}, {"weight": np.array([[511], [-511]], np.int32)}, "need 10 bits; Loihi 1 holds 9"),
        ({}, {"weight": np.array([[1], [-2]], np.int32), "weight_exp": 16}, "need exponent 9"),
        ({}, {"weight": np.array([[1], [-2]], np.int32), "weight_exp": -8}, "need exponent -8"),
        ({}, {"delay": np.array([[63], [1]], np.int32)}, "wait 63 steps; a synapse of Loihi 1 can wait 62"),
        ({}, {"graded": True}, "values up to 300 to 'a'; spikes of Loihi 1 carry none"),
    ],
)
def test_numbers_that_a_chip_cannot_hold(changes: Any, connection: Any, what: str) -> None:
    fields = {"weight": np.array([[2], [-2]], np.int32)} | connection
    layer = lif("a", (2,), Connection("x", "dense", source_shape=(1,), **fields), **changes)
    found = chip_issues(program(layer, shape=(1,), maximum=300), "loihi1")
    errors = [issue for issue in found if issue.severity == "error"]
    assert len(errors) == 1
    assert what in errors[0].what
    assert errors[0].fix


def test_waits_beyond_what_is_guaranteed_are_a_warning() -> None:
    def waiting(k: int) -> LayeredProgram:
        delay = np.array([[k], [0]], np.int32)
        c = Connection("x", "dense", np.full((2, 1), 2, np.int32), (1,), delay=delay)
        return program(lif("a", (2,), c), shape=(1,))

    assert [i.severity for i in place(waiting(8), limits("loihi1")).issues] == ["warning"]
    assert not place(waiting(7), limits("loihi1")).issues
    assert not place(waiting(8), limits("loihi2")).issues


def test_a_loop_that_is_too_fast_is_told() -> None:
    both = [
        Connection("x", "dense", np.full((1, 1), 2, np.int32), (1,)),
        Connection("a", "dense", np.full((1, 1), 2, np.int32), (1,)),
    ]
    (issue,) = place(program(lif("a", (1,), *both), shape=(1,)), limits("loihi1")).issues
    assert (issue.severity, "loop" in issue.what) == ("error", True)


@pytest.mark.parametrize(
    ("values", "bits", "exponent"),
    [
        ([0, 0], 1, 0),
        ([-256, 254], 8, 1),
        ([-255, 255], 9, 0),
        ([0, 255], 8, 0),
        ([-8, 0], 1, 3),
        ([-2, 1], 2, 0),
        ([-3 << 9, 3 << 9], 3, 9),
    ],
)
def test_bits_of_weights(values: list[int], bits: int, exponent: int) -> None:
    assert weight_bits(np.array(values, np.int32)) == (bits, exponent)


def test_limits_name_their_sources_and_say_what_is_not_public() -> None:
    for chip in CHIPS.values():
        for name in chip.__struct_fields__:
            limit = getattr(chip, name)
            if isinstance(limit, Limit):
                assert limit.source
                assert (limit.value is None) == limit.source.startswith("Not public")
    assert set(limits("loihi2").unknown) >= {"input_axons", "output_axons", "chips"}
    assert any("not public" in issue.what for issue in chip_issues(mlp(), "loihi2"))
    with pytest.raises(UsageError, match="loihi2"):
        limits("loihi3")


def test_lists_are_stored_in_groups_of_64_and_whole_words() -> None:
    stored = limits("loihi1").synapses
    entries = np.arange(300)
    for width in (1, 8, 17, 21):
        assert stored.bits(entries, width).tolist() == [list_bits(n, width) for n in entries.tolist()]
    assert [stored.index_size(n) for n in (1, 2, 64, 65, 1024)] == [0, 6, 6, 7, 10]
    assert [stored.weight_size(bits) for bits in (1, 7, 8, 9)] == [1, 8, 8, 9]
    assert limits("loihi2").synapses.index_size(8192) == 13
