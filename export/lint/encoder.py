"""The encoder, which no other tool sees."""

from __future__ import annotations

from collections.abc import Iterator

from rsc.export.lint.finding import Finding, Subject

RULE = "encoder"


def check(subject: Subject) -> Iterator[Finding]:
    """A note per foreign tool if images must be encoded before they are fed."""
    spec = subject.program.encoder
    if spec is None:
        return
    what = f"Images go through the encoder '{spec.kind}' ({spec.steps} steps, sigma {spec.sigma:g}) first."
    fix = "Feed the tool frames made by rsc.coding.encode, with the same keys as the run it is compared with."
    for tool in subject.tools:
        why = f"{tool.title} sees the graph only; NIR has no primitive for an encoder or noise."
        yield Finding(RULE, "info", tool.name, "", what, why, fix)
