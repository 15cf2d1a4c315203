"""One `Report` value, and the files and tables that are functions of it.

Names load on first use: the value needs no plotting library, and the command line starts without one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "DatasetInfo": "rsc.report.value",
    "Environment": "rsc.report.value",
    "InferenceCost": "rsc.report.value",
    "ModelSection": "rsc.report.value",
    "QuantisedLayer": "rsc.report.value",
    "Report": "rsc.report.value",
    "TargetRow": "rsc.report.value",
    "TrainingSummary": "rsc.report.value",
    "conclude": "rsc.report.conclusions",
    "environment": "rsc.report.machine",
    "from_json": "rsc.report.schema",
    "read_report": "rsc.report.read",
    "report_schema": "rsc.report.schema",
    "terminal_tables": "rsc.report.terminal",
    "to_json": "rsc.report.schema",
    "utc_now": "rsc.report.machine",
    "write_report": "rsc.report.write",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'rsc.report' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from rsc.report.conclusions import conclude as conclude
    from rsc.report.machine import environment as environment
    from rsc.report.machine import utc_now as utc_now
    from rsc.report.read import read_report as read_report
    from rsc.report.schema import from_json as from_json
    from rsc.report.schema import report_schema as report_schema
    from rsc.report.schema import to_json as to_json
    from rsc.report.terminal import terminal_tables as terminal_tables
    from rsc.report.value import DatasetInfo as DatasetInfo
    from rsc.report.value import Environment as Environment
    from rsc.report.value import InferenceCost as InferenceCost
    from rsc.report.value import ModelSection as ModelSection
    from rsc.report.value import QuantisedLayer as QuantisedLayer
    from rsc.report.value import Report as Report
    from rsc.report.value import TargetRow as TargetRow
    from rsc.report.value import TrainingSummary as TrainingSummary
    from rsc.report.write import write_report as write_report
