"""Our counts under the metric names of NeuroBench (Yik et al., Nature Communications 16, 2025, Table 1)."""

from __future__ import annotations

from rsc.energy.results import EnergyReport


def neurobench_metrics(report: EnergyReport) -> dict[str, float | None]:
    """Metric -> value per pass (a sample in NeuroBench); None where the run did not show it.

    Effective ACs are accumulates of binary events through non-zero weights (`sop_nz`), effective MACs the
    same for graded values; "Dense" skips nothing, at every step. Biases are in none of them.
    """
    graded = [x for x in report.layers if x.mac]
    known = all(x.mac_nonzero is not None for x in graded)
    macs = sum(x.mac_nonzero or 0 for x in graded) / report.n if known else None
    return {
        "Effective_ACs": report.totals.sop_nz,
        "Effective_MACs": macs,
        "Dense": sum(x.dense for x in report.layers if x.params) / report.n,
        "ConnectionSparsity": report.totals.connection_sparsity,
        "ActivationSparsity": None if report.totals.rate is None else 1 - report.totals.rate,
    }
