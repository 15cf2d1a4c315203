"""A file that does not say its time step."""

from __future__ import annotations

from collections.abc import Iterator

from rsc.export.lint.finding import Finding, Subject

RULE = "no-dt"


def check(subject: Subject) -> Iterator[Finding]:
    """A warning if neither the file nor the user stated dt."""
    if not subject.declared and subject.neurons:
        yield Finding(
            RULE,
            "warning",
            "",
            "",
            f"Nothing says the time step; {subject.dt:g} s was assumed for the rules that need one.",
            "NIR has no field for dt, reset rule, integrator or encoder, and results depend on them.",
            "Give --dt, or write the file with rsc, which keeps them in the metadata of the Input node.",
        )
