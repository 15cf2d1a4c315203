"""What Loihi 1 and Loihi 2 hold, as far as it is public, and which numbers of a program they cannot hold.

Every limit names its source; where nothing is public its value is None and nothing is checked, so "it
fits" then means "nothing that is known stands against it".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from rsc.errors import UnsupportedNode, unknown_name
from rsc.layered import BIAS_MANT_MAX, DELAY_MAX, VTH_MAX, Connection, Layer, LayeredProgram
from rsc.results import Issue

_DAVIES = "Davies et al., IEEE Micro 38(1), 2018"
_NENGO = "source of nengo-loihi"
_UNCHECKED = "source of nengo-loihi, validate_core, marked there as to be checked"
_BRIEF = "Intel, technology brief on Loihi 2, 2021"
_LAVA = "Lava 0.10.0, precisions of its fixed-point processes"
_NOT_PUBLIC = "Not public."


class Limit(msgspec.Struct, frozen=True):
    """The largest allowed value, or None if no limit is public, and who says so."""

    value: int | None
    source: str


class SynapseFormat(msgspec.Struct, frozen=True):
    """How lists of synapses are stored: groups of up to `group` entries, each with a header, in whole words.

    Fields:
        weight_sizes, index_sizes: bits that a weight and a target index may take; empty: any number.
        header: bits in front of each group; word: bits to whose multiple a group is rounded up.
    """

    weight_sizes: tuple[int, ...]
    index_sizes: tuple[int, ...]
    header: int
    group: int
    word: int
    source: str

    def weight_size(self, needed: int) -> int:
        """Bits that a weight of `needed` bits takes."""
        return next((size for size in self.weight_sizes if size >= needed), needed)

    def index_size(self, neurons: int) -> int:
        """Bits of an index among `neurons`."""
        needed = max(neurons - 1, 0).bit_length()
        return next((size for size in self.index_sizes if size >= needed), needed)

    def bits(self, entries: Any, entry_bits: int) -> Any:
        """Bits of lists with so many entries (a number or an integer array) of `entry_bits` each."""
        full, rest = entries // self.group, entries % self.group
        return full * self._words(self.group * entry_bits) + (rest > 0) * self._words(rest * entry_bits)

    def _words(self, content: Any) -> Any:
        return -(-(content + self.header) // self.word) * self.word


class Chip(msgspec.Struct, frozen=True):
    """Limits of a chip.

    Fields:
        name, title: as `limits` knows it, and as people write it.
        cores: neuron cores of a chip; chips: chips that one system can join.
        neurons, synaptic_bits, input_axons, output_axons, compartment_configs, vth_configs, synapse_configs:
            of one core (`PER_CORE`). Compartment configurations are distinct (du, dv).
        weight_bits: of a weight with its sign, after a common power of two went into the exponent.
        weight_exp: largest magnitude of the exponent of a connection.
        decay, vth, bias_mant, bias_exp: largest du and dv, threshold and bias mantissa, bias exponent.
        delay: steps that a synapse can wait beyond the first; delay_guaranteed: steps (the first included)
            that need no neurons to be given up.
        payload_bits: of a graded spike with its sign; 0 if spikes carry nothing.
        synapses: how synapses are stored.
    """

    name: str
    title: str
    cores: Limit
    chips: Limit
    neurons: Limit
    synaptic_bits: Limit
    input_axons: Limit
    output_axons: Limit
    compartment_configs: Limit
    vth_configs: Limit
    synapse_configs: Limit
    weight_bits: Limit
    weight_exp: Limit
    decay: Limit
    vth: Limit
    bias_mant: Limit
    bias_exp: Limit
    delay: Limit
    delay_guaranteed: Limit
    payload_bits: Limit
    synapses: SynapseFormat

    def of(self, limit: str) -> int | None:
        """The value of a limit."""
        return getattr(self, limit).value

    @property
    def unknown(self) -> tuple[str, ...]:
        """Limits of a core and of its systems that are not public."""
        return tuple(name for name in (*PER_CORE, "chips") if self.of(name) is None)


PER_CORE = (
    "neurons",
    "synaptic_bits",
    "input_axons",
    "output_axons",
    "compartment_configs",
    "vth_configs",
    "synapse_configs",
)

_LOIHI1 = Chip(
    name="loihi1",
    title="Loihi 1",
    cores=Limit(128, _DAVIES),
    chips=Limit(16384, _DAVIES),
    neurons=Limit(1024, _DAVIES),
    synaptic_bits=Limit(16384 * 64, f"{_DAVIES}: 128 KB per core; {_NENGO}: 16384 words of 64 bits"),
    input_axons=Limit(4096, f"{_DAVIES}; {_NENGO}, block.py"),
    output_axons=Limit(4096, f"{_DAVIES}; {_NENGO}, block.py"),
    compartment_configs=Limit(32, _UNCHECKED),
    vth_configs=Limit(16, _UNCHECKED),
    synapse_configs=Limit(16, _UNCHECKED),
    weight_bits=Limit(9, f"{_DAVIES}: 1 to 9 bits"),
    weight_exp=Limit(7, f"{_NENGO}, validate_synapse_cfg"),
    decay=Limit(4095, f"{_DAVIES}: 12 bits"),
    vth=Limit(VTH_MAX, f"{_NENGO}: 17-bit mantissa"),
    bias_mant=Limit(BIAS_MANT_MAX, f"{_NENGO}: 12 bits and sign"),
    bias_exp=Limit(7, f"{_NENGO}: 3 bits"),
    delay=Limit(DELAY_MAX, f"{_DAVIES}: 6-bit field; lava-dl netx uses at most 62"),
    delay_guaranteed=Limit(8, f"{_DAVIES}: more steps only with fewer neurons; how many fewer is not public"),
    payload_bits=Limit(0, f"{_BRIEF}: graded spikes came with Loihi 2"),
    synapses=SynapseFormat(
        (1, 2, 3, 4, 5, 6, 8, 9),
        (0, 6, 7, 8, 9, 10, 11, 12),
        10,
        64,
        64,
        f"{_NENGO}, SynapseConfig.bits_per_axon; 9-bit weights from {_DAVIES}",
    ),
)

_LOIHI2 = Chip(
    name="loihi2",
    title="Loihi 2",
    cores=Limit(128, _BRIEF),
    chips=Limit(None, _NOT_PUBLIC),
    neurons=Limit(8192, f"{_BRIEF}: up to 8192"),
    synaptic_bits=Limit(128 * 1024 * 8, f"{_BRIEF}: up to 128 KB of the 192 KB of a core"),
    input_axons=Limit(None, _NOT_PUBLIC),
    output_axons=Limit(None, _NOT_PUBLIC),
    compartment_configs=Limit(None, f"{_NOT_PUBLIC} Neurons are microcode."),
    vth_configs=Limit(None, f"{_NOT_PUBLIC} Neurons are microcode."),
    synapse_configs=Limit(None, _NOT_PUBLIC),
    weight_bits=Limit(8, f"{_BRIEF}: documented synapses have up to 8 bits"),
    weight_exp=Limit(None, _NOT_PUBLIC),
    decay=Limit(4095, f"{_LAVA}: 12 bits"),
    vth=Limit(VTH_MAX, f"{_LAVA}: 17-bit mantissa"),
    bias_mant=Limit(BIAS_MANT_MAX, f"{_LAVA}: 12 bits and sign"),
    bias_exp=Limit(7, f"{_LAVA}: 3 bits"),
    delay=Limit(DELAY_MAX, f"{_LAVA}: 6 bits; lava-dl netx uses at most 62"),
    delay_guaranteed=Limit(None, _NOT_PUBLIC),
    payload_bits=Limit(32, f"{_BRIEF}: up to 32 bits"),
    synapses=SynapseFormat((), (), 10, 64, 64, f"{_NOT_PUBLIC} The lists of Loihi 1 are assumed."),
)

CHIPS: dict[str, Chip] = {chip.name: chip for chip in (_LOIHI1, _LOIHI2)}


def limits(name: str) -> Chip:
    """The chip called "loihi1" or "loihi2".

    Raises:
        UsageError: there is no such chip.
    """
    if name not in CHIPS:
        raise unknown_name("chip", name, CHIPS)
    return CHIPS[name]


def weight_bits(weights: np.ndarray) -> tuple[int, int]:
    """(bits per weight, exponent): the fewest that hold integer weights as m * 2^exponent.

    Weights of both signs take two's complement; of one sign, magnitudes (the sign is part of the format).
    """
    used = weights[weights != 0].astype(np.int64)
    if not used.size:
        return 1, 0
    together = int(np.bitwise_or.reduce(np.abs(used)))
    exponent = (together & -together).bit_length() - 1
    low, high = int(used.min()) >> exponent, int(used.max()) >> exponent
    if low < 0 < high:
        return max(high.bit_length(), (-low - 1).bit_length()) + 1, exponent
    return max(abs(low), abs(high)).bit_length(), exponent


def number_issues(layered: LayeredProgram, chip: Chip) -> Iterator[Issue]:
    """Parameters of neurons and payloads that the chip cannot hold; see `synapse_issues` for weights."""
    for layer in layered.layers:
        for what, values, limit, least, fix in (
            ("current decay du", layer.du, chip.decay, 0, "Choose a longer synaptic time constant."),
            ("decay dv", layer.dv, chip.decay, 0, "Use 4095, which leaves 1/4096 of v per step."),
            ("threshold mantissa", layer.vth, chip.vth, 1, "Scale weights and threshold of the layer down."),
            ("bias mantissa", layer.bias_mant, chip.bias_mant, None, "Use a larger bias exponent."),
            ("bias exponent", layer.bias_exp, chip.bias_exp, 0, "Scale weights and bias of the layer down."),
        ):
            low, high = int(np.min(values)), int(np.max(values))
            if limit.value is None:
                continue
            least = -limit.value if least is None else least
            if low < least or high > limit.value:
                yield Issue(
                    "error",
                    layer.name,
                    f"The {what} is {high if high > limit.value else low}; {chip.title} holds {least} to "
                    f"{limit.value}.",
                    fix,
                )
        yield from _payload_issues(layered, layer, chip)


def _payload_issues(layered: LayeredProgram, layer: Layer, chip: Chip) -> Iterator[Issue]:
    for connection in layer.connections:
        source, held = layered.sources.get(connection.source), chip.payload_bits.value
        if not connection.graded or held is None or source is None:
            continue
        if held == 0:
            yield Issue(
                "error",
                source.name,
                f"Input '{source.name}' sends values up to {source.maximum} to '{layer.name}'; spikes of "
                f"{chip.title} carry none (0 bits).",
                "Feed spikes, compute this layer off the chip, or use Loihi 2.",
            )
        elif source.maximum.bit_length() + 1 > held:
            yield Issue(
                "error",
                source.name,
                f"Payloads of input '{source.name}' take {source.maximum.bit_length() + 1} bits with sign; "
                f"{chip.title} carries {held}.",
                "Scale the input down.",
            )


def synapse_issues(
    layered: LayeredProgram, layer: Layer, connection: Connection, bits: int, exponent: int, chip: Chip
) -> Iterator[Issue]:
    """Weights and waits of one connection that the chip cannot hold.

    Args:
        bits, exponent: of the weights, see `weight_bits`.
    """
    where = f"the synapses from {f'{connection.source!r}' if connection.source else 'the constant'}"
    if chip.weight_bits.value is not None and bits > chip.weight_bits.value:
        yield Issue(
            "error",
            layer.name,
            f"Weights of {where} need {bits} bits; {chip.title} holds {chip.weight_bits.value}, with sign.",
            "Quantise them to -256..254 in steps of 2, times a power of two.",
        )
    elif chip.weight_exp.value is not None and chip.weight_bits.value is not None:
        most, limit = exponent + connection.weight_exp, chip.weight_exp.value
        least = most - (chip.weight_bits.value - bits)
        if most < -limit or least > limit:
            yield Issue(
                "error",
                layer.name,
                f"Weights of {where} need exponent {most if most < -limit else least}; {chip.title} holds "
                f"{-limit} to {limit}.",
                "Scale the weights of the layer.",
            )
    try:
        wait = longest_wait(layered, layer, connection)
    except UnsupportedNode:
        return  # told once, by `place`
    if chip.delay.value is not None and wait > chip.delay.value:
        yield Issue(
            "error",
            layer.name,
            f"Spikes of {where} wait {wait} steps; a synapse of {chip.title} can wait {chip.delay.value}.",
            "Shorten the delay, or send the spikes through a relay layer.",
        )
    elif chip.delay_guaranteed.value is not None and wait + 1 > chip.delay_guaranteed.value:
        yield Issue(
            "warning",
            layer.name,
            f"Spikes of {where} take {wait + 1} steps; {chip.title} guarantees "
            f"{chip.delay_guaranteed.value}, more only with fewer neurons on the core (how many fewer is not "
            "public and not counted here).",
            "Shorten the delay, or leave room on these cores.",
        )


def longest_wait(layered: LayeredProgram, layer: Layer, connection: Connection) -> int:
    """Steps beyond the first that the slowest synapse with a weight waits.

    Raises:
        UnsupportedNode: a loop is faster in the program than on Loihi.
    """
    waits = layered.waits(layer, connection)
    if waits.ndim:
        waits = waits[connection.weight != 0]
    return int(waits.max(initial=0))
