"""Reset to a value or by subtraction: NIR has no field for it, and exporters write v_reset = 0 for both."""

from __future__ import annotations

from collections.abc import Iterator

from rsc.discretise import RESETTING
from rsc.export.lint.finding import Finding, Subject

RULE = "reset-rule"


def check(subject: Subject) -> Iterator[Finding]:
    """A note if the program subtracts; a warning per tool that resets otherwise than the program."""
    if not any(isinstance(node, RESETTING) for _, node in subject.nodes):
        return
    subtracts = subject.program.semantics.reset == "subtract"
    if subtracts:
        what = "Neurons reset by subtraction, which the file can only show as v_reset."
        why = "NIR has no reset rule; tools that see v_reset = 0 reset to 0."
        fix = "Tell the rule to whoever runs the file, or train with reset 'value'."
        yield Finding(RULE, "info", "", "", what, why, fix)
    for tool in subject.tools:
        fires = any(isinstance(node, RESETTING) for _, node in subject.read_by(tool))
        if fires and subtracts != (tool.reset == "subtract"):
            own = "subtract v_threshold" if subtracts else "reset to v_reset"
            theirs = "resets to 0 or v_reset" if subtracts else "subtracts v_threshold"
            why = f"{tool.title} {theirs}. {tool.reset_note}".strip()
            fix = "Train with the tool's rule, or set its reset by hand after the import."
            yield Finding(RULE, "warning", tool.name, "", f"The program's neurons {own}.", why, fix)
