"""Tables of targets: what runs where, whether it is the same, and what quantisation did."""

from __future__ import annotations

from rsc.parity_results import NodeParity, ParityRow
from rsc.report import numbers
from rsc.report.table import Table, number, status, table, text
from rsc.report.value import QuantisedLayer, Report, TargetRow

_SIGNALS = {"s": "spikes", "u": "current u", "v": "membrane v", "output": "output"}


def targets(report: Report) -> Table:
    """Where the models ran, and why elsewhere they did not."""
    columns = [
        *text("Target"),
        *status("Available"),
        *text("Model", "Arithmetic", "Version"),
        *number("Accuracy", "n", "Seed", "Time per image", "Total time", "Saturations"),
        *text("Why not, and what to do"),
    ]
    note = "Time is spent in the target, compilation excluded; it includes nothing of a real chip."
    return table("targets", "Targets", columns, map(_target_row, report.targets), note)


def _target_row(row: TargetRow) -> list[object]:
    return [
        row.spec,
        numbers.yes_no(row.available),
        row.model,
        row.arithmetic,
        row.version,
        numbers.accuracy(row.accuracy),
        row.n or numbers.NONE,
        numbers.seed(row.seed),
        numbers.milliseconds(row.ms_per_image),
        numbers.seconds(row.wall_s),
        numbers.count(row.saturated) if row.n else numbers.NONE,
        " ".join(part for part in (row.reason, row.fix) if part),
    ]


def parity(report: Report) -> Table:
    """Pairs of targets on the same frames."""
    columns = [
        *text("Targets", "Model"),
        *status("Same frames"),
        *text("Exact"),
        *number("Different values", "Same class", "Largest logit difference", "n × T", "Seed"),
        *text("Note"),
    ]
    return table("parity", "Parity between targets", columns, map(_parity_row, report.parity))


def _parity_row(row: ParityRow) -> list[object]:
    different, compared = (sum(getattr(n, f) for n in row.nodes) for f in ("different", "compared"))
    same = row.prediction_agreement
    return [
        f"{row.target_a} {row.version_a} ↔ {row.target_b} {row.version_b}".replace("  ", " ").strip(),
        row.model,
        numbers.yes_no(row.same_frames),
        numbers.yes_no(row.exact),
        f"{numbers.count(different)} of {numbers.count(compared)}" if row.nodes else numbers.NONE,
        f"{numbers.percent(same.value)} {numbers.percent_range(same.low, same.high)}"
        if same
        else numbers.NONE,
        numbers.small(row.max_logit_diff),
        f"{row.n} × {row.steps}",
        numbers.seed(row.seed),
        row.note,
    ]


def parity_nodes(report: Report) -> Table:
    """Every compared signal of every node."""
    columns = [
        *text("Targets", "Node", "Signal"),
        *number("Different", "Compared", "Largest difference"),
        *text("First difference"),
    ]
    body = [_node_row(row, node) for row in report.parity for node in row.nodes]
    return table("parity-nodes", "Parity by node", columns, body, detail=True)


def _node_row(row: ParityRow, node: NodeParity) -> list[object]:
    first = node.first_difference
    return [
        f"{row.target_a} ↔ {row.target_b}",
        node.node,
        _SIGNALS.get(node.signal, node.signal),
        numbers.count(node.different),
        numbers.count(node.compared),
        numbers.small(node.max_abs_diff),
        f"image {first.sample}, step {first.step}" if first else numbers.NONE,
    ]


def quantisation(report: Report) -> Table:
    """Errors that quantisation made, per layer."""
    columns = [
        *text("Layer", "Model", "Target"),
        *number("Scale", "Weight bits", "Largest weight error", "Mean weight error", "Bias error"),
        *number("Saturated"),
    ]
    note = "Scale: integer weight units per unit of the float program. Errors in units of the float program."
    return table("quantisation", "Quantisation", columns, map(_quantised_row, report.quantisation), note)


def _quantised_row(row: QuantisedLayer) -> list[object]:
    return [
        row.layer,
        row.model,
        row.target,
        numbers.small(row.scale),
        row.weight_bits,
        numbers.small(row.max_weight_error),
        numbers.small(row.mean_weight_error),
        numbers.small(row.bias_error),
        numbers.count(row.saturations),
    ]
