"""How short a step can be on a chip whose operations take known times, by its busiest core.

    t_step >= t_sync + max over cores of (updates_core * t_update + sop_core * t_sop)

Which core holds what is a placement. Without one the busiest core has at least an even share of the work, and
at most all of it.
"""

from __future__ import annotations

from rsc.energy.counts import Counts
from rsc.energy.profile import Timing
from rsc.energy.values import StepTime


def step_time(counts: Counts, timing: Timing, chips: float = 1.0) -> StepTime:
    """Bounds of the mean step of the run, from its mean operations per pass and step.

    Args:
        chips: chips the network is spread over (a share of one: of its cores).
    """
    passes = counts.batch * counts.steps
    updates, sop = (
        sum(int(n.per_pass(field).sum()) for n in counts.nodes) / passes for field in ("updates", "sop")
    )
    cores = max(1.0, timing.cores * chips)
    spread = timing.sync.low + (updates * timing.update.low + sop * timing.sop.low) / cores
    alone = timing.sync.high + updates * timing.update.high + sop * timing.sop.high
    return StepTime(spread * 1e-9, alone * 1e-9, timing.cores)
