"""Energy as a linear form: how often each priced thing happened, with the cost it is priced at.

E = sum over terms of count * cost. All counts and costs are non-negative, so the interval of E is the pair of
its values at the lows and at the highs, exactly.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from rsc.energy.counts import Counts, NodeCounts
from rsc.energy.profile import Cost, Memory, Profile
from rsc.energy.results import Conventions, EncoderCounts
from rsc.errors import UsageError

CLASSES = (
    "synapses",
    "mac",
    "neurons",
    "weights",
    "accumulators",
    "states",
    "queue",
    "resets",
    "spikes",
    "hops",
    "encoder",
)

# kind -> multiplications, additions and comparisons per update, state words; input gains are folded
# into the weights and a constant leak current into the bias
NEURON_OPS = {
    "I": (0, 1, 1),
    "IF": (0, 2, 1),
    "LI": (1, 1, 1),
    "LIF": (1, 2, 1),
    "CubaLI": (2, 2, 2),
    "CubaLIF": (2, 3, 2),
    "Threshold": (0, 1, 0),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Term:
    """count * cost of one class at one node.

    Fields:
        key: identity of the cost; terms of one key move together between its low and its high.
        low, nominal, high: counts per pass, float64 [B]; they differ where the model leaves a choice.
        bits: mean bits moved per pass (low, nominal, high), of memory terms.
    """

    group: str
    node: str
    key: str
    cost: Cost
    low: np.ndarray
    nominal: np.ndarray
    high: np.ndarray
    bits: tuple[float, float, float] | None = None

    def energy(self, end: str) -> np.ndarray:
        """pJ [B] at "low", "nominal" or "high"."""
        return getattr(self, end) * getattr(self.cost, end)


@dataclasses.dataclass(frozen=True, eq=False)
class Pricing:
    """What is needed to turn counts into terms."""

    counts: Counts
    profile: Profile
    conventions: Conventions
    encoder: EncoderCounts

    def term(
        self, group: str, node: str, name: str, nominal: object, low: object = None, high: object = None
    ) -> Term:
        """A term at the cost `name` of the profile."""
        return self._term(
            group, node, f"{self.profile.id}:{name}", self.profile.costs()[name], nominal, low, high
        )

    def memory_term(
        self, group: str, node: str, bits: object, content: float, low: object = None, high: object = None
    ) -> Term:
        """A term for `bits` moved per pass to or from a buffer that holds `content` bits."""
        memory = self.memory
        outside = memory.off_chip(content)
        law = outside or Cost(memory.low_factor, 1.0, memory.high_factor, memory.evidence)
        scale = 1.0 if outside else memory.pj_per_bit(content)
        low, high = bits if low is None else low, bits if high is None else high
        scaled = [np.asarray(v, dtype=np.float64) * scale for v in (bits, low, high)]
        few, usual, most = (float(np.mean(np.asarray(v, dtype=np.float64))) for v in (low, bits, high))
        made = self._term(group, node, "dram" if outside else "sram", law, *scaled)
        return dataclasses.replace(made, bits=(few, usual, most))

    @property
    def memory(self) -> Memory:
        """The memory costs; raises UsageError if the profile has none."""
        if self.profile.memory is None:
            raise UsageError(
                f"Profile {self.profile.id} has no memory costs.",
                "It prices operations only.",
                "Use another.",
            )
        return self.profile.memory

    def has(self, *names: str) -> bool:
        """Whether the profile knows all these costs."""
        return all(getattr(self.profile.cost, name) is not None for name in names)

    def _term(
        self, group: str, node: str, key: str, cost: Cost, nominal: object, low: object, high: object
    ) -> Term:
        ends = [nominal if low is None else low, nominal, nominal if high is None else high]
        batch = (self.counts.batch,)
        few, usual, most = (np.broadcast_to(np.asarray(v, dtype=np.float64), batch) for v in ends)
        return Term(group, node, key, cost, few, usual, most)


def snn_terms(pricing: Pricing) -> list[Term]:
    """All terms of the spiking network that the profile can price."""
    if pricing.profile.execution == "dense":
        return list(_dense_terms(pricing))
    terms: list[Term] = []
    for node in pricing.counts.nodes:
        terms += _synapse_terms(pricing, node)
        terms += _neuron_terms(pricing, node)
        terms += _event_terms(pricing, node)
        if pricing.profile.memory is not None:
            terms += _memory_terms(pricing, node)
    return terms + list(_input_terms(pricing)) + list(_encoder_terms(pricing))


def executed_mac(pricing: Pricing, node: NodeCounts) -> np.ndarray:
    """Multiply-accumulates per pass under the convention for a constant first layer."""
    hoisted = pricing.conventions.first_layer == "hoisted" and node.mac_hoisted is not None
    return node.per_pass("mac_hoisted" if hoisted else "mac")


def synaptic_ops(pricing: Pricing, node: NodeCounts) -> tuple[np.ndarray, np.ndarray]:
    """Priced synaptic operations, (nominal, low)."""
    fields = {"dense": "sop", "sparse": "sop_nz"}
    profile = pricing.profile
    return (
        node.per_pass(fields[profile.synapse_format]),
        node.per_pass(fields[profile.low_synapse_format or profile.synapse_format]),
    )


def _dense_terms(pricing: Pricing) -> Iterator[Term]:
    for node in pricing.counts.nodes:
        if node.params:
            yield pricing.term("mac", node.node, "mac", node.synapses * pricing.counts.steps)


def _synapse_terms(pricing: Pricing, node: NodeCounts) -> Iterator[Term]:
    if node.binary and pricing.has("sop"):
        name = "sop_conv" if node.kind.startswith("Conv") and pricing.has("sop_conv") else "sop"
        nominal, low = synaptic_ops(pricing, node)
        yield pricing.term("synapses", node.node, name, nominal, low)
    if node.params and not node.binary and pricing.has("mac"):
        yield pricing.term("mac", node.node, "mac", executed_mac(pricing, node))
    if node.kind.endswith("Pool2d") and pricing.has("add"):
        yield pricing.term("mac", node.node, "add", node.per_pass("adds"))


def _neuron_terms(pricing: Pricing, node: NodeCounts) -> Iterator[Term]:
    if not node.neurons:
        return
    updates = node.per_pass("updates")
    if pricing.has("neuron_active", "neuron_inactive"):
        known = node.updates_active is not None
        active = node.per_pass("updates_active") if known else updates
        fewest = active if known else np.zeros_like(updates)
        yield pricing.term("neurons", node.node, "neuron_active", active, fewest)
        yield pricing.term(
            "neurons", node.node, "neuron_inactive", updates - active, updates - fewest, updates - active
        )
        return
    multiplies, adds, _ = NEURON_OPS[node.kind]
    if pricing.conventions.leak == "shift":
        multiplies, adds = 0, adds + multiplies
    if multiplies and pricing.has("mul"):
        yield pricing.term("neurons", node.node, "mul", multiplies * updates)
    if pricing.has("add"):
        yield pricing.term("neurons", node.node, "add", adds * updates)
        yield pricing.term("resets", node.node, "add", node.per_pass("resets"))


def _event_terms(pricing: Pricing, node: NodeCounts) -> Iterator[Term]:
    spikes = node.per_pass("spikes_out")
    if pricing.has("spike_out") and spikes.any():
        yield pricing.term("spikes", node.node, "spike_out", spikes)
    yield from _transport(pricing, node.node, spikes, node.neurons)


def _input_terms(pricing: Pricing) -> Iterator[Term]:
    events, name = pricing.counts.input_events, pricing.counts.program.inputs[0]
    sites = sum(n for n, _ in pricing.counts.activations[: len(pricing.counts.program.inputs)])
    yield from _transport(pricing, name, events, sites)
    if pricing.profile.memory is not None and events.any():
        yield _queue(pricing, name, events, sites)


def _transport(pricing: Pricing, node: str, events: np.ndarray, sites: int) -> Iterator[Term]:
    if not events.any():
        return
    if pricing.has("spike"):
        yield pricing.term("spikes", node, "spike", events)
    hops = pricing.profile.hops
    for name, size in (("hop", 1), ("hop_bit", address_bits(sites))):
        if hops.high and pricing.has(name):
            words = events * size
            yield pricing.term("hops", node, name, words * hops.nominal, words * hops.low, words * hops.high)


def address_bits(sites: int) -> int:
    """Bits that tell one site from another."""
    return max(1, math.ceil(math.log2(sites))) if sites > 1 else 1


def _queue(pricing: Pricing, node: str, events: np.ndarray, sites: int) -> Term:
    width = address_bits(sites)
    return pricing.memory_term("queue", node, 2 * events * width, sites * width)


def _memory_terms(pricing: Pricing, node: NodeCounts) -> Iterator[Term]:
    memory, name = pricing.memory, node.node
    if node.neurons:
        content = NEURON_OPS[node.kind][2] * node.neurons * memory.state_bits
        if content:
            yield pricing.memory_term("states", name, 2 * content * pricing.counts.steps, content)
        spikes = node.per_pass("spikes_out")
        if spikes.any():
            yield _queue(pricing, name, spikes, node.neurons)
    if node.params and node.binary:
        yield from _event_driven_memory(pricing, node)
    elif node.params:
        yield from _graded_memory(pricing, node)


def _event_driven_memory(pricing: Pricing, node: NodeCounts) -> Iterator[Term]:
    """Each synaptic operation reads its weight; a scattered one reads and writes its accumulator."""
    memory = pricing.memory
    nominal, low = synaptic_ops(pricing, node)
    width = memory.weight_bits + (memory.index_bits if pricing.profile.synapse_format == "sparse" else 0)
    yield pricing.memory_term("weights", node.node, nominal * width, node.params * width, low * width)
    moved = 2 * nominal * memory.accumulator_bits
    usual = moved if pricing.conventions.accumulator == "scatter" else np.zeros_like(moved)
    content = math.prod(node.shape) * memory.accumulator_bits
    yield pricing.memory_term("accumulators", node.node, usual, content, np.zeros_like(moved), moved)


def _graded_memory(pricing: Pricing, node: NodeCounts) -> Iterator[Term]:
    """A graded layer works like a layer of an ANN: between full reuse of its weights and none."""
    memory = pricing.memory
    mac = executed_mac(pricing, node)
    passes = mac // node.synapses if node.synapses else mac
    weights = memory.weight_bits
    yield pricing.memory_term(
        "weights", node.node, mac * weights, node.params * weights, node.params * passes * weights
    )
    values = node.inputs * memory.activation_bits
    yield pricing.memory_term("queue", node.node, values * passes, values)


def _encoder_terms(pricing: Pricing) -> Iterator[Term]:
    encoder = pricing.encoder
    for name, number in (
        ("rng", encoder.draws),
        ("mul", encoder.multiplies),
        ("add", encoder.adds + encoder.comparisons),
    ):
        if number and pricing.has(name):
            yield pricing.term("encoder", "encoder", name, number)
    if encoder.pixel_reads and pricing.profile.memory is not None:
        bits = pricing.memory.activation_bits
        image = math.prod(pricing.counts.program.input_shape)
        yield pricing.memory_term("encoder", "encoder", encoder.pixel_reads * bits, image * bits)
