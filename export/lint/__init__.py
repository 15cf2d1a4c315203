"""What each target would refuse or change in a program, and why: one rule per file, one line in `RULES`.

A rule is a function from a `Subject` to findings. Facts about other tools are data (`rsc.export.lint.tools`);
what our own targets say is handed in, so that nothing here runs a network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from rsc.errors import unknown_name
from rsc.export.lint import (
    activity,
    axes,
    bias,
    branches,
    comparison,
    encoder,
    exporter,
    flatten,
    gain,
    grouped,
    habits,
    input_weight,
    integrator,
    leak,
    metadata,
    names,
    own,
    per_layer,
    pooling,
    ports,
    quantisation,
    recurrence,
    recurrent_bias,
    reset_rule,
    resistance,
    scalars,
    start,
    time_step,
    time_unit,
    unsupported,
    v_reset,
    weight_type,
)
from rsc.export.lint.finding import Activity, Finding, Subject
from rsc.export.lint.source import from_source, read_source
from rsc.export.lint.tools import TOOLS
from rsc.program import Program
from rsc.results import Issue

__all__ = [
    "RULES",
    "TOOLS",
    "Activity",
    "Finding",
    "Subject",
    "blocking",
    "from_source",
    "lint",
    "read_source",
]

RULES: dict[str, Callable[[Subject], Iterable[Finding]]] = {
    unsupported.RULE: unsupported.check,
    own.RULE: own.check,
    ports.RULE: ports.check,
    names.RULE: names.check,
    scalars.RULE: scalars.check,
    metadata.RULE: metadata.check,
    time_unit.RULE: time_unit.check,
    time_step.RULE: time_step.check,
    integrator.RULE: integrator.check,
    gain.RULE: gain.check,
    resistance.RULE: resistance.check,
    input_weight.RULE: input_weight.check,
    per_layer.RULE: per_layer.check,
    axes.RULE: axes.check,
    leak.RULE: leak.check,
    start.RULE: start.check,
    v_reset.RULE: v_reset.check,
    reset_rule.RULE: reset_rule.check,
    habits.RULE: habits.check,
    exporter.RULE: exporter.check,
    comparison.RULE: comparison.check,
    recurrence.RULE: recurrence.check,
    recurrent_bias.RULE: recurrent_bias.check,
    branches.RULE: branches.check,
    flatten.RULE: flatten.check,
    pooling.RULE: pooling.check,
    grouped.RULE: grouped.check,
    bias.RULE: bias.check,
    weight_type.RULE: weight_type.check,
    quantisation.RULE: quantisation.check,
    activity.RULE: activity.check,
    encoder.RULE: encoder.check,
}

_SEVERITIES = ("error", "warning", "info")


def lint(
    program: Program,
    targets: Sequence[str] = (),
    *,
    issues: Mapping[str, Sequence[Issue]] | None = None,
    activity: Activity | None = None,
    declared: bool = True,
    told: bool = False,
) -> list[Finding]:
    """Everything that the targets would refuse or change, the worst first.

    Args:
        targets: names of foreign tools (`TOOLS`) and keys of `issues`; none gives what concerns every tool.
        issues: own target -> what its `check` found, an empty list if nothing.
        activity: spike counts of a run, for the layers that never or always fire.
        declared: False if the time step of `program` is an assumption.
        told: True if its rules were stated, by the file's own metadata or by a preset.

    Raises:
        UsageError: a target is neither a known tool nor in `issues`.
    """
    known = [*(issues or {}), *TOOLS]
    for name in targets:
        if name not in known:
            raise unknown_name(
                "target to lint for", name, known, "Own targets need the issues of their check."
            )
    subject = Subject(program, tuple(dict.fromkeys(targets)), issues or {}, activity, declared, told)
    found = [finding for rule in RULES.values() for finding in rule(subject)]
    return sorted(found, key=lambda f: (_SEVERITIES.index(f.severity), f.target, f.node, f.rule))


def blocking(findings: Iterable[Finding]) -> list[Finding]:
    """The errors: what makes `rsc lint` end with 1."""
    return [finding for finding in findings if finding.severity == "error"]
