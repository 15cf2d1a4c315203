"""What one command found, added to the report of a folder: attacks, certificates and proofs in one place."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from rsc.report.conclusions import conclude
from rsc.report.machine import environment, utc_now
from rsc.report.read import JSON, read_report
from rsc.report.value import Report
from rsc.report.write import write_report
from rsc.robustness.results import CertifyReport, RobustnessReport
from rsc.robustness.verify_results import VerifyReport

Found = RobustnessReport | CertifyReport | VerifyReport
_SECTIONS = {
    RobustnessReport: "robustness",
    CertifyReport: "certificates",
    VerifyReport: "verification",
}


def add_to_report(
    folder: Path, found: Sequence[Found], words: Sequence[str] = (), threads: int = 0
) -> Report:
    """Put results into FOLDER/report.json and write it, with HTML and Markdown, again.

    What was found before under the same question (model, target, and how it was attacked, certified or
    verified) is replaced; all else stays. The conclusions are drawn anew.

    Args:
        folder: made if there is none.
        words: of the command line, kept in the report.

    Raises:
        MalformedFile: the folder holds a report that cannot be read.
        StorageError: it cannot be written.
    """
    known = (folder / JSON).exists()
    report = read_report(folder) if known else Report(f"Robustness of {_models(found)}", utc_now())
    sections: dict[str, tuple[Found, ...]] = {}
    for one in found:
        name = _SECTIONS[type(one)]
        earlier: tuple[Found, ...] = sections[name] if name in sections else getattr(report, name)
        sections[name] = (*(b for b in earlier if _question(b) != _question(one)), one)
    commands = [text for text in report.command.split(" ; ") if text]
    commands += [shlex.join(["rsc", *words])] if words else []
    report = msgspec.structs.replace(
        report,
        created=utc_now(),
        environment=report.environment or environment(threads),
        command=" ; ".join(dict.fromkeys(commands)),
        **sections,
    )
    report = conclude(report)
    write_report(report, folder)
    return report


def _models(found: Iterable[Found]) -> str:
    return ", ".join(dict.fromkeys(one.model for one in found if one.model)) or "a program"


def _question(one: Found) -> tuple[Any, ...]:
    """What makes two results answers to the same question."""
    if isinstance(one, RobustnessReport):
        return one.model, one.target, tuple(dict.fromkeys(row.norm for row in one.attacks))
    if isinstance(one, CertifyReport):
        return one.model, one.target, one.rule, one.sigma, one.source, one.soundness
    return one.model, one.target, one.program
