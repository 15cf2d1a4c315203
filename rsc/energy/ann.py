"""The ANN beside the spiking network: same topology with ReLU, one pass, border-exact dense MACs."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np

from rsc.energy.edges import WEIGHTED, open_net
from rsc.energy.fanout import fan_out
from rsc.energy.intervals import widest_first
from rsc.energy.profile import Cost, Profile, load_profile
from rsc.energy.results import AnnComparison, Energy, Ratio, Swing
from rsc.energy.terms import Pricing, Term
from rsc.errors import UsageError
from rsc.program import Program

# what each ratio adds to the one before
RATIOS = {
    "ops": {"synapses", "mac"},
    "ops+neurons": {"neurons"},
    "memory": {"weights", "accumulators", "states", "activations"},
    "all": {"queue", "resets", "spikes", "hops", "encoder"},
}


def ann_macs(program: Program) -> dict[str, int]:
    """Weighted node -> multiply-accumulates of one dense pass, in-bounds pairs only.

    Raises:
        UnsupportedNode, InputRefused: the graph cannot be counted.
    """
    net = open_net(program)
    return {
        name: int(fan_out(net, net.arrivals[name][0], fold=False).structural.sum())
        for name, node in net.nodes.items()
        if isinstance(node, WEIGHTED)
    }


def compare_ann(pricing: Pricing, terms: Sequence[Term]) -> tuple[AnnComparison, ...]:
    """The spiking network's terms against every ANN baseline of its profile; none without weighted nodes."""
    if not any(n.params and n.synapses for n in pricing.counts.nodes):
        return ()
    found = []
    last: Profile | None = None
    for name in pricing.profile.ann_baselines:
        if name == "matched":
            profile = matched(last or pricing.profile, math.ceil(math.log2(pricing.counts.steps + 1)))
        else:
            own = name == pricing.profile.id
            profile = last = _same_buffers(pricing.profile if own else load_profile(name), pricing.profile)
        found.append(_compare(dataclasses.replace(pricing, profile=profile), pricing.profile.id, terms))
    return tuple(found)


def matched(profile: Profile, bits: int) -> Profile:
    """An integer profile at another width: multipliers scale with the square of it, adders stay wide.

    Raises:
        UsageError: the profile does not price an 8-bit multiplication and an addition.
    """
    mul8, add = profile.cost.mul8, profile.cost.sop
    if mul8 is None or add is None:
        raise UsageError(
            f"Profile {profile.id} cannot be scaled to {bits} bits.",
            "It has no cost of an 8-bit multiplication.",
            "Put an integer profile before 'matched' in ann_baselines.",
        )
    factor = (bits / 8) ** 2
    ends = [getattr(mul8, e) * factor + getattr(add, e) for e in ("low", "nominal", "high")]
    memory = profile.memory
    if memory is not None:
        memory = msgspec.structs.replace(memory, weight_bits=bits, activation_bits=bits)
    return msgspec.structs.replace(
        profile,
        id=f"{bits}-bit matched",
        cost=msgspec.structs.replace(profile.cost, mac=Cost(*ends, evidence="derived")),
        memory=memory,
        bits=bits,
    )


def _same_buffers(profile: Profile, like: Profile) -> Profile:
    """Both networks live in buffers of the same size rule."""
    if profile.memory is None or like.memory is None:
        return profile
    memory = msgspec.structs.replace(
        profile.memory,
        buffer_bytes=like.memory.buffer_bytes,
        dram=like.memory.dram,
        on_chip_bytes=like.memory.on_chip_bytes,
    )
    return msgspec.structs.replace(profile, memory=memory)


def ann_terms(pricing: Pricing) -> Iterator[Term]:
    """Linear form of the ANN's energy; low counts: every weight read once, high: read for every MAC."""
    counts, memory = pricing.counts, pricing.profile.memory
    for node in counts.nodes:
        if not node.params:
            continue
        yield pricing.term("mac", node.node, "mac", node.synapses)
        if memory is not None:
            bits = memory.weight_bits
            low, high = node.params * bits, node.synapses * bits
            yield pricing.memory_term("weights", node.node, high, low, low, high)
    if memory is not None:
        for sites, times in counts.activations:
            content = sites * memory.activation_bits
            yield pricing.memory_term("activations", "", content * times, content)


def _compare(pricing: Pricing, snn_id: str, snn: Sequence[Term]) -> AnnComparison:
    ann = list(ann_terms(pricing))
    counts, memory = pricing.counts, pricing.profile.memory
    ops = [t for t in ann if t.group == "mac"]
    return AnnComparison(
        profile=snn_id,
        baseline=pricing.profile.id,
        bits=pricing.profile.bits,
        mac=sum(n.synapses for n in counts.nodes if n.params),
        params=sum(n.params for n in counts.nodes),
        activations=sum(sites * times for sites, times in counts.activations),
        ops=_energy(ops, "nominal"),
        total_reuse=_energy(ann, "low") if memory is not None else None,
        total_no_reuse=_energy(ann, "high") if memory is not None else None,
        ratios=tuple(_ratios(snn, ann, memory is not None)),
        tornado=_tornado(snn, ann),
    )


def _tornado(snn: Sequence[Term], ann: Sequence[Term]) -> tuple[Swing, ...]:
    """What moves the ratio of the whole: shared costs move both networks at once."""
    below = {id(t) for t in ann}

    def value(costs: Callable[[Term], float], counts: Callable[[Term], str]) -> float:
        sums = [0.0, 0.0]
        for t in (*snn, *ann):
            sums[id(t) in below] += float(getattr(t, counts(t)).mean()) * costs(t)
        return sums[0] / sums[1]

    return widest_first((*snn, *ann), value)


def _energy(terms: Sequence[Term], counts: str) -> Energy:
    """nJ per pass at one choice of counts, over the interval of the costs."""
    ends = [
        sum(float(getattr(t, counts).mean()) * getattr(t.cost, e) for t in terms) / 1e3
        for e in ("low", "nominal", "high")
    ]
    return Energy(*ends)


def _ratios(snn: Sequence[Term], ann: Sequence[Term], with_memory: bool) -> Iterator[Ratio]:
    groups: set[str] = set()
    for name, added in RATIOS.items():
        groups |= added
        if name == "memory" and not with_memory:
            continue
        yield ratio(name, [t for t in snn if t.group in groups], [t for t in ann if t.group in groups])


def ratio(name: str, above: Sequence[Term], below: Sequence[Term]) -> Ratio:
    """Extremes of a quotient of two linear forms over the box of their costs.

    The quotient is monotone in each cost while the others are fixed, so its extremes lie at corners of the
    box; a cost that both sides share moves on both sides at once.

    Raises:
        UsageError: nothing below the line, or more than 16 uncertain costs.
    """
    costs = {t.key: t.cost for t in (*above, *below)}
    open_keys = sorted(k for k, c in costs.items() if c.low < c.high)
    if len(open_keys) > 16:
        raise UsageError(
            f"{len(open_keys)} costs are uncertain.", "Only 2^16 corners are tried.", "Fix some of the costs."
        )
    nominal = {k: c.nominal for k, c in costs.items()}
    middle = _quotient(above, below, "nominal", "nominal", nominal)
    model = [_quotient(above, below, a, b, nominal) for a, b in (("low", "high"), ("high", "low"))]
    low, high = model
    for corner in itertools.product(("low", "high"), repeat=len(open_keys)):
        at = nominal | {k: getattr(costs[k], end) for k, end in zip(open_keys, corner, strict=True)}
        low = min(low, _quotient(above, below, "low", "high", at))
        high = max(high, _quotient(above, below, "high", "low", at))
    return Ratio(name, middle if model[0] == model[1] else None, model[0], model[1], low, high)


def _quotient(
    above: Sequence[Term], below: Sequence[Term], counts: str, counts_below: str, costs: dict[str, float]
) -> float:
    divisor = _form(below, counts_below, costs)
    if not divisor > 0:
        raise UsageError("The ANN costs nothing.", "Its profile prices no MAC.", "Choose another baseline.")
    return _form(above, counts, costs) / divisor


def _form(terms: Sequence[Term], counts: str, costs: dict[str, float]) -> float:
    return float(np.sum([getattr(t, counts).mean() * costs[t.key] for t in terms]))
