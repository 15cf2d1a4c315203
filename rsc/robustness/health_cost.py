"""What the health checks of one study take, before they start."""

from __future__ import annotations

from collections.abc import Collection

from rsc.robustness.eot import Eot
from rsc.robustness.study import Study

_CERTIFIED_ATTACKS = 3  # of R17, each scored with `certify_n` draws
_SELECT = 100  # draws of R17 that select


def health_cost(study: Study, checks: Collection[str]) -> tuple[int, int]:
    """Runs of the model to make images, and of the scored model; about.

    The count follows `Study`. The main attack is needed in any case; R3 and R4 run it at every strength and
    in the whole box, R6, R7 and R11 with twice the steps, draws and restarts, R10 through every gradient, R12
    on the control and beside its rivals; R17 certifies and attacks inside the radii.
    """
    n, draws, attack = len(study.x), study.scoring.draws, study.attack
    model = Eot(study.model, study.eot)
    main = attack.cost(model)
    more = {
        "R1": (0, 2),
        "R3": (main * len(study.strengths), len(study.strengths)),
        "R4": (main, 1),
        "R5": (study.fgsm.cost(model), 1),
        "R6": (study.longer.cost(model), 1),
        "R7": (attack.cost(Eot(study.model, 2 * study.eot)), 1),
        "R10": (main * len(study.surrogates), len(study.surrogates)),
        "R11": (study.restarted.cost(model), 1),
        "R12": (main + sum(rival.cost(model) for rival in study.rivals), 1 + len(study.rivals)),
        "R13": (main, 0),
        "R14": (main, 1),
        "R18": (main, 0),
        "R20": (0, 2),
    }
    made = main + sum(more[check][0] for check in checks if check in more)
    scored = draws * (1 + sum(more[check][1] for check in checks if check in more))
    certified = _SELECT + (1 + _CERTIFIED_ATTACKS) * study.certify_n if "R17" in checks else 0
    return n * made, n * scored + min(n, study.certify_images) * certified
