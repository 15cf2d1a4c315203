"""How short a step can be, how operations spread over samples, and memory off the chip."""

from __future__ import annotations

import itertools

import msgspec
import numpy as np
import pytest
from energy_vectors import XE, T, program, simulate

from rsc.energy import EnergyReport, Profile, energy_report, load_profile, parse_profile
from rsc.energy.intervals import histogram
from rsc.errors import MalformedFile, UsageError

SOP, UPDATES = 9140 + 534 + 170, 2480
DRAM = 1300 / 64


def priced(*profiles: str | Profile, **more) -> EnergyReport:
    return energy_report(program(), simulate(XE).record(), T, profiles, input_events=True, **more)


def test_a_step_is_bounded_by_even_spread_and_by_one_core() -> None:
    found = priced("loihi1-davies2018").priced[0].step_time
    assert found is not None
    assert found.low_s == pytest.approx((113 + UPDATES / T * 5.3 / 128) * 1e-9)
    assert found.high_s == pytest.approx((465 + UPDATES / T * 8.4 + SOP / T * 3.5) * 1e-9)
    assert priced("h45-int8").priced[0].step_time is None


def test_more_chips_shorten_the_least_step_and_not_the_longest() -> None:
    one, two = (priced("loihi1-davies2018", chips=c).priced[0].step_time for c in (1, 2))
    assert one is not None
    assert two is not None
    assert two.low_s < one.low_s
    assert two.high_s == one.high_s


def test_a_step_time_that_no_placement_reaches_is_noted() -> None:
    assert any("at least" in n for n in priced("loihi1-davies2018", step_time_s=1e-7).notes)
    assert not any("at least" in n for n in priced("loihi1-davies2018", step_time_s=1e-5).notes)


def test_a_histogram_counts_every_sample_once() -> None:
    values = np.random.default_rng(2).normal(100, 10, 1000)
    found = histogram("sop", "operations", values)
    assert sum(found.counts) == 1000
    assert len(found.edges) == len(found.counts) + 1 <= 31
    inside = [((values >= a) & (values < b)).sum() for a, b in itertools.pairwise(found.edges)]
    assert list(found.counts[:-1]) == inside[:-1]
    assert sum(histogram("sop", "operations", values, seeds=10).counts) == 100
    assert sum(histogram("sop", "operations", np.array([7, 7])).counts) == 2


def test_the_report_holds_the_distribution_of_operations() -> None:
    (found,) = priced("h45-int8").histograms
    assert (found.name, sum(found.counts)) == ("sop", 1)
    assert found.edges[0] <= SOP <= found.edges[-1]


def with_memory(**more) -> Profile:
    profile = load_profile("h45-int8-sram")
    assert profile.memory is not None
    return msgspec.structs.replace(profile, memory=msgspec.structs.replace(profile.memory, **more))


def weights_of(profile: Profile) -> list[float]:
    """nJ of reading weights."""
    found = priced(profile).priced[0].breakdown
    (energy,) = (c.energy for c in found if c.name == "weights")
    return [energy.low_nj, energy.nominal_nj, energy.high_nj]


def test_buffers_too_large_for_the_chip_are_priced_as_dram() -> None:
    assert weights_of(with_memory(on_chip_bytes=0)) == pytest.approx(
        [SOP * 8 * DRAM / 1e3, SOP * 8 * DRAM / 1e3, SOP * 8 * 2 * DRAM / 1e3]
    )
    assert weights_of(with_memory(on_chip_bytes=2**20)) == weights_of(with_memory())


def test_only_the_buffers_that_are_too_large_leave_the_chip() -> None:
    sizes = [program().graph.nodes[n].weight.size for n in ("conv1", "conv2", "fc")]  # type: ignore[attr-defined]
    assert max(sizes[:2]) < 400 < sizes[2]
    few, most = weights_of(with_memory()), weights_of(with_memory(on_chip_bytes=0))
    some = weights_of(with_memory(on_chip_bytes=400))
    assert few[1] < some[1] < most[1]
    on_chip = 9674 * 8 * 10 / 64 * np.sqrt(1 / 8)  # two convolutions, below 1 kB
    assert some[1] == pytest.approx((on_chip + 170 * 8 * DRAM) / 1e3)


def test_the_ann_beside_it_has_the_same_memory() -> None:
    far, near = (priced(with_memory(on_chip_bytes=b)).ann[0].total_reuse for b in (0, 2**20))
    assert far is not None
    assert near is not None
    assert far.nominal_nj > near.nominal_nj


def test_bad_timings_and_memories_are_refused() -> None:
    span = '{{ low = {}, high = 2.0, evidence = "simulated" }}'
    text = 'id = "x"\ntitle = "t"\nsource = "s"\n[cost]\n[timing]\ncores = 1\n'
    text += "sync = {}\nupdate = {}\nsop = {}\n"
    assert parse_profile(text.format(*[span.format(1.0)] * 3).encode()).timing is not None
    with pytest.raises(MalformedFile):
        parse_profile(text.format(span.format(3.0), *[span.format(1.0)] * 2).encode())
    with pytest.raises(UsageError, match="off the chip"):
        with_memory(dram=None, on_chip_bytes=1).memory.__post_init__()  # type: ignore[union-attr]
