"""Cost profiles: what one operation costs on some hardware, from a TOML file that names its source.

A missing cost means "not priced", never zero. Scope says what a cost already contains, so that nothing is
added twice: "op" (arithmetic only), "op+mem" (with the memory accesses), "all-in" (with neurons and static
power as well).
"""

from __future__ import annotations

import math
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

import msgspec

from rsc.errors import MalformedFile, UsageError, unknown_name

Evidence = Literal["measured", "fitted", "simulated", "derived", "vendor", "assumed"]
Scope = Literal["op", "op+mem", "all-in"]
Format = Literal["dense", "sparse"]


class Cost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Energy of one operation in pJ with its interval (not a standard deviation).

    Fields:
        low, nominal, high: 0 <= low <= nominal <= high.
        evidence: how the number was obtained.
        scope: what it contains.
        includes_neurons: the cost already holds a share of the neuron update.
    """

    low: float
    nominal: float
    high: float
    evidence: Evidence
    scope: Scope = "op"
    includes_neurons: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.nominal <= self.high < math.inf:
            raise UsageError(
                f"A cost has low {self.low}, nominal {self.nominal}, high {self.high}.",
                "It needs 0 <= low <= nominal <= high, finite.",
                "Order the numbers.",
            )


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """pJ per operation; None: not priced.

    Fields:
        sop, sop_conv: one synaptic operation; of a convolution where it differs.
        mac: one multiply-accumulate of a graded input.
        mul, add: arithmetic that neurons and encoders are made of (comparisons cost an addition).
        mul8: 8-bit multiplication, scaled with the square of the width for the bit-matched ANN.
        neuron_active, neuron_inactive: one neuron update with / without synaptic input.
        spike: one event sent (emitted, or a binary input); spike_out: emitted only.
        hop, hop_bit: one event over one link of the network on chip; one bit of it.
        rng: one random number.
    """

    sop: Cost | None = None
    sop_conv: Cost | None = None
    mac: Cost | None = None
    mul: Cost | None = None
    add: Cost | None = None
    mul8: Cost | None = None
    neuron_active: Cost | None = None
    neuron_inactive: Cost | None = None
    spike: Cost | None = None
    spike_out: Cost | None = None
    hop: Cost | None = None
    hop_bit: Cost | None = None
    rng: Cost | None = None


class Duration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nanoseconds that one operation takes, at least and at most."""

    low: float
    high: float
    evidence: Evidence
    note: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high < math.inf:
            raise UsageError(
                f"A duration is {self.low} to {self.high} ns.",
                "It needs 0 <= low <= high, finite.",
                "Order the numbers.",
            )


class Timing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Times of a chip whose cores work one operation after the other, see `rsc.energy.step_time`.

    Fields:
        cores: per chip.
        sync: of all cores, once per step; update: of one neuron; sop: one synaptic operation.
    """

    cores: int
    sync: Duration
    update: Duration
    sop: Duration


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """On-chip SRAM by a square-root law: pJ(64 bit) = pj_64b_at_8kb * sqrt(size / 8 kB).

    Reproduces Horowitz's 10, 20 and 100 pJ at 8 kB, 32 kB and 1 MB (the last as 113).

    Fields:
        weight_bits, state_bits, accumulator_bits, activation_bits: widths of the words.
        index_bits: width of a synapse's target index, read with every weight of a sparse format.
        low_factor, high_factor: interval of the law.
        buffer_bytes: one size for all buffers; None sizes each by its content.
        minimum_bytes: smallest buffer the law is used for.
        dram: pJ per bit of memory off the chip; on_chip_bytes: a buffer whose content is larger lies there.
            None: everything is on the chip.
    """

    weight_bits: int
    state_bits: int
    accumulator_bits: int
    activation_bits: int
    evidence: Evidence
    index_bits: int = 0
    pj_64b_at_8kb: float = 10.0
    low_factor: float = 0.5
    high_factor: float = 2.0
    buffer_bytes: int | None = None
    minimum_bytes: int = 1024
    dram: Cost | None = None
    on_chip_bytes: int | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.on_chip_bytes is not None and self.dram is None:
            raise UsageError(
                f"Buffers above {self.on_chip_bytes} bytes lie off the chip.",
                "The profile has no cost of that memory.",
                "Give memory.dram, or leave on_chip_bytes out.",
            )

    def off_chip(self, content_bits: float) -> Cost | None:
        """pJ per bit of the buffer that holds `content_bits`, if it lies off the chip."""
        too_large = self.on_chip_bytes is not None and content_bits / 8 > self.on_chip_bytes
        return self.dram if too_large else None

    def pj_per_bit(self, content_bits: float) -> float:
        """Nominal energy of one bit read from or written to the buffer that holds `content_bits`."""
        size = self.buffer_bytes if self.buffer_bytes is not None else content_bits / 8
        return self.pj_64b_at_8kb / 64 * math.sqrt(max(size, self.minimum_bytes) / 8192)


class Static(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Power that flows whether or not anything happens, mW per chip."""

    low: float
    nominal: float
    high: float
    evidence: Evidence
    note: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.nominal <= self.high < math.inf:
            raise UsageError(
                f"Static power is {self.low}, {self.nominal}, {self.high} mW.",
                "It needs 0 <= low <= nominal <= high, finite.",
                "Order the numbers.",
            )


class Hops(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Assumed links an event crosses on the chip; a placement would tell."""

    low: float = 0
    nominal: float = 0
    high: float = 0


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Costs of one hardware with their source.

    Fields:
        synapse_format: "dense" pays for zero weights (sop), "sparse" does not (sop_nz).
        low_synapse_format: the format behind the low end of the interval, if another.
        execution: "event" pays per event; "dense" executes every layer densely at every step (CPU, GPU).
        bits: width of weights and activations, where the profile is about one.
        ann_baselines: ids of the profiles that price the ANN beside it; "matched" is the ANN of
            ceil(log2(T + 1)) bits at the integer costs of the last id before it.
    """

    id: str
    title: str
    source: str
    cost: Costs
    process_nm: float | None = None
    voltage_v: float | None = None
    doi: str = ""
    note: str = ""
    synapse_format: Format = "dense"
    low_synapse_format: Format | None = None
    execution: Literal["event", "dense"] = "event"
    memory: Memory | None = None
    static: Static | None = None
    hops: Hops = Hops()
    timing: Timing | None = None
    bits: int | None = None
    ann_baselines: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.source or not self.title:
            raise UsageError(
                f"Profile '{self.id}' lacks a title or a source.",
                "Numbers without origin are worthless.",
                "Name it.",
            )
        scopes = {c.scope for c in self.costs().values()}
        if self.memory is not None and scopes != {"op"}:
            raise UsageError(
                f"Profile '{self.id}' adds memory to costs of scope {sorted(scopes)}.",
                "They already contain it.",
                "Remove [memory], or give arithmetic costs of scope 'op'.",
            )
        if "all-in" in scopes and (self.static is not None or set(self.costs()) - {"sop", "mac"}):
            raise UsageError(
                f"Profile '{self.id}' adds to an all-in cost.",
                "It already contains neurons, events and static power.",
                "Keep the all-in cost alone.",
            )

    def costs(self) -> dict[str, Cost]:
        """The costs that are known, by name."""
        return {k: v for k in self.cost.__struct_fields__ if (v := getattr(self.cost, k)) is not None}


def list_profiles() -> tuple[str, ...]:
    """Ids of the profiles that come with the package, sorted."""
    return tuple(
        sorted(p.name.removesuffix(".toml") for p in _folder().iterdir() if p.name.endswith(".toml"))
    )


def load_profile(which: str | Path) -> Profile:
    """A profile by id, or from a TOML file of your own (a path, or a name that ends in .toml).

    Raises:
        UsageError: unknown id or missing file.
        MalformedFile: the file does not follow the schema.
    """
    if isinstance(which, Path) or which.endswith(".toml"):
        try:
            return parse_profile(Path(which).read_bytes(), str(which))
        except OSError as error:
            raise UsageError(
                f"Profile {which} cannot be read.",
                str(error.strerror),
                "Check the path; `rsc profiles` lists ids.",
            ) from error
    known = list_profiles()
    if which not in known:
        raise unknown_name("energy profile", which, known, "Give an id or the path of a TOML file.")
    return parse_profile((_folder() / f"{which}.toml").read_bytes(), which)


def parse_profile(text: bytes, name: str = "profile") -> Profile:
    """A profile from TOML.

    Raises:
        MalformedFile: not TOML, an unknown or missing key, or numbers out of order.
    """
    try:
        return msgspec.toml.decode(text, type=Profile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedFile(
            f"{name} is not an energy profile.", str(error), "Compare it with docs/extending.md."
        ) from error


def _folder() -> Traversable:
    return resources.files("rsc.energy") / "profiles"
