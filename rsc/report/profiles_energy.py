"""Cost profiles as tables: all of them, or one in full."""

from __future__ import annotations

from collections.abc import Iterable

from rsc.energy.profile import Profile
from rsc.report import numbers
from rsc.report.table import Table, number, table, text


def listing(profiles: Iterable[Profile]) -> Table:
    """One line per profile."""
    columns = [
        *text("Profile"),
        *number("pJ per SOP", "pJ per MAC"),
        *text("Evidence", "Scope", "Static", "Not priced", "Source"),
    ]
    note = "Brackets: low and high. What is not priced is never zero in truth: totals are then lower bounds."
    return table("profiles", "Cost profiles", columns, map(_line, profiles), note)


def _line(p: Profile) -> list[object]:
    costs = p.costs()
    kinds = [*(c.evidence for c in costs.values()), *([p.static.evidence] if p.static else [])]
    scopes = ["op+mem"] if p.memory else [c.scope for k, c in costs.items() if k in ("sop", "mac")]
    static = p.static
    power = f"{static.nominal:g} mW" if static else numbers.NONE
    missing = [k for k in ("sop", "mac", "rng") if k not in costs]
    neurons = {"neuron_active", "add"} & set(costs) or (p.cost.sop and p.cost.sop.includes_neurons)
    missing += [] if neurons or "all-in" in scopes else ["neurons"]
    return [
        p.id,
        _cost(p, "sop"),
        _cost(p, "mac"),
        ", ".join(dict.fromkeys(kinds)),
        ", ".join(dict.fromkeys(scopes)),
        power,
        ", ".join(missing),
        f"{p.source}, doi {p.doi}" if p.doi else p.source,
    ]


def _cost(p: Profile, name: str) -> str:
    cost = getattr(p.cost, name)
    if cost is None:
        return numbers.NONE
    return f"{cost.nominal:g}" + ("" if cost.low == cost.high else f" [{cost.low:g}, {cost.high:g}]")


def one(p: Profile) -> tuple[Table, ...]:
    """Everything that a profile says."""
    head = {
        "title": p.title,
        "source": p.source,
        "DOI": p.doi,
        "process": f"{p.process_nm:g} nm" if p.process_nm else "",
        "voltage": f"{p.voltage_v:g} V" if p.voltage_v else "",
        "zero weights": "paid for" if p.synapse_format == "dense" else "free",
        "execution": p.execution,
        "ANN beside it": ", ".join(p.ann_baselines),
        "memory": f"{p.memory.note} ({p.memory.evidence})" if p.memory else "",
        "static power": f"{p.static.nominal:g} mW, {p.static.evidence}: {p.static.note}" if p.static else "",
        "note": p.note,
    }
    facts = [[k, v] for k, v in head.items() if v]
    rows = [[k, _cost(p, k), c.evidence, c.scope, c.note] for k, c in p.costs().items()]
    columns = [*text("Cost"), *number("pJ"), *text("Evidence", "Scope", "Note")]
    return (
        table("profile", p.id, text("What", "Value"), facts),
        *([table("costs", "Costs in pJ, nominal [low, high]", columns, rows)] if rows else []),
    )
