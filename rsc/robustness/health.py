"""Sanity checks of a robustness evaluation: each compares numbers and says what to do next.

After the checklist of Carlini et al. (arXiv 1902.06705), the flags of AutoAttack and the indicators
of Pintor et al. (arXiv 2106.09947), extended to stochastic encoders. A check is a small function;
adding one is that function and a line in `CHECKS`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import torch

from rsc.encoder_spec import GAUSSIAN
from rsc.errors import UsageError
from rsc.robustness.attacks import Attack
from rsc.robustness.ball import norm_of
from rsc.robustness.results import HealthCheck, Status
from rsc.robustness.study import Study

POINT = 0.01  # one point of accuracy

Finding = tuple[Status, dict[str, float], str]


def clean_through_pipeline(s: Study) -> Finding:
    """R1: at eps = 0 the pipeline returns clean accuracy."""
    clean, zero = s.per_run(None), s.per_run(s.attack, 0.0)
    inside = clean.interval.low <= zero.value <= clean.interval.high
    return (
        "PASS" if inside else "FAIL",
        {"clean": clean.value, "eps0": zero.value},
        "The pipeline itself changes images or counts noise as attack; compare its output with the input.",
    )


def fresh_noise(s: Study) -> Finding:
    """R2: noise is fresh: scoring has its own, other draws give other runs, certificates share none."""
    clean, attacked = s.runs(None), s.runs(s.attack, s.eps)
    overlap = clean.stream == "attack" and clean.seed == s.scoring.attack_seed
    vary = max(float((r.classes != r.classes[0]).any(0).mean()) for r in (clean, attacked))
    noisy = s.model.encoder.stochastic
    fixed = noisy and s.scoring.draws > 1 and vary == 0
    numbers = {"streams_overlap": float(overlap), "images_that_vary_with_the_draw": vary}
    shared = False
    if noisy and s.model.encoder.kind in GAUSSIAN:
        claimed, shown = s.certificate_draws()
        shared = shown < claimed
        numbers |= {"certificate_draws_claimed": float(claimed), "certificate_draws_shown": float(shown)}
    return (
        "FAIL" if overlap or fixed or shared else "PASS",
        numbers,
        "A certificate selects and estimates on the same draws: draw anew for the estimate."
        if shared
        else "The scored model answers alike for every draw: it ignores the noise keys or its seed is fixed.",
    )


def monotone(s: Study) -> Finding:
    """R3: accuracy falls with eps."""
    strengths = sorted({0.0, *(s.strengths or (s.eps / 2, s.eps, 2 * s.eps))})
    scores = [s.per_run(s.attack, eps) for eps in strengths]
    rises = [b.value for a, b in itertools.pairwise(scores) if b.value > a.interval.high]
    numbers = {f"eps {eps:g}": a.value for eps, a in zip(strengths, scores, strict=True)}
    return "FAIL" if rises else "PASS", numbers, "A larger ball holds the smaller one: the attack gets stuck."


def whole_box(s: Study) -> Finding:
    """R4: with the whole input box to search, accuracy is at most chance."""
    chance, reached = 1 / s.classes, s.per_run(s.attack, s.whole_box)
    status: Status = (
        "PASS" if reached.value <= chance else "FAIL" if reached.interval.low > chance else "WARN"
    )
    return (
        status,
        {"eps": s.whole_box, "accuracy": reached.value, "chance": chance},
        "The attack finds no gradient: try another surrogate, more steps, or check the encoder's backward.",
    )


def iterative_beats_one_step(s: Study) -> Finding:
    """R5: the iterative attack is at least as strong as FGSM."""
    one, many = s.per_run(s.fgsm, s.eps), s.per_run(s.attack, s.eps).value
    weaker: Status = "FAIL" if many > one.interval.high else "WARN"  # few runs differ by chance
    return (
        weaker if many > one.value + POINT else "PASS",
        {"fgsm": one.value, s.attack.name: many},
        "Lower the step size or raise the steps; gradients may be masked.",
    )


def steps_suffice(s: Study) -> Finding:
    """R6: twice the steps change little."""
    once, twice = s.per_run(s.attack, s.eps).value, s.per_run(s.longer, s.eps).value
    return (
        "WARN" if once - twice > POINT else "PASS",
        {f"{s.attack.steps} steps": once, f"{s.longer.steps} steps": twice},
        "The attack has not converged: raise the steps.",
    )


def draws_suffice(s: Study) -> Finding:
    """R7: twice the EOT draws change little."""
    once, twice = (s.per_run(s.attack, s.eps, draws).value for draws in (s.eot, 2 * s.eot))
    return (
        "WARN" if once - twice > POINT else "PASS",
        {f"EOT {s.eot}": once, f"EOT {2 * s.eot}": twice},
        "The gradient is still noisy: raise the EOT draws.",
    )


def gradients_agree(s: Study) -> Finding:
    """R8: gradients from two independent halves of the noise draws point the same way."""
    first, second = s.half_gradients
    cosine = float(torch.nn.functional.cosine_similarity(first, second, dim=1).median())
    status: Status = "FAIL" if cosine < 0.2 else "WARN" if cosine < 0.5 else "PASS"
    return (
        status,
        {"median_cosine": cosine, "eot": float(s.eot)},
        "Steps are mostly noise: raise the EOT draws, or attack with a wider surrogate.",
    )


def gradients_exist(s: Study) -> Finding:
    """R9: few images have an all-zero gradient."""
    share = float((s.half_gradients[0].abs().amax(1) == 0).double().mean())
    status: Status = "FAIL" if share > 0.1 else "WARN" if share > 0.01 else "PASS"
    return status, {"share_of_zero_gradients": share}, "Attack with a wider surrogate, or with another loss."


def surrogates_agree(s: Study) -> Finding:
    """R10: no other surrogate gradient finds images that are worse by two points."""
    found = s.through()
    reached = s.per_run(s.attack, s.eps).value
    numbers = found | {f"{s.attack.name} as it is": reached}
    if not found:
        return "WARN", numbers, "No other gradient fits this network: report that only its own was tried."
    worst = min(found, key=lambda k: found[k])
    return (
        "WARN" if reached - found[worst] > 2 * POINT else "PASS",
        numbers,
        f"The attack is stronger through '{worst}': report the minimum over surrogates.",
    )


def white_box_is_strongest(s: Study) -> Finding:
    """R12: no attack without gradients of the network beats the main one."""
    main = s.runs(s.attack, s.eps)
    reached, resists = s.per_run(s.attack, s.eps).value, main.votes == main.y
    numbers, best = {s.attack.name: reached}, 1.0
    for rival in s.rivals:
        runs = s.runs(rival, s.eps)
        numbers[rival.name] = runs.scores().per_run.value
        numbers[f"broken only by {rival.name}"] = float((resists & (runs.votes != runs.y)).sum())
        best = min(best, numbers[rival.name])
    transfer = s.transferred()
    numbers["transfer from the control"] = transfer.scores().per_run.value
    numbers["broken only by transfer"] = float((resists & (transfer.votes != transfer.y)).sum())
    best = min(best, numbers["transfer from the control"])
    return (
        "FAIL" if best < reached - POINT else "PASS",
        numbers,
        "Gradients are masked: the reported robustness is too high. Report the minimum and fix the attack.",
    )


def images_are_legal(s: Study) -> Finding:
    """R14: saved images moved, within norm, bounds, type and grid; rounding happened before scoring."""
    found = s.found(s.attack, s.eps)
    low, high = s.model.bounds
    moved = found.x.double() - s.x.double()
    if s.scoring.levels:  # pixels are float32 next to their level, and so is a difference: count whole levels
        unit = (high - low) / s.scoring.levels
        moved = (moved / unit).round() * unit
    norm = float(norm_of(moved, s.attack.norm).max())
    numbers = {
        "eps": s.eps,
        "largest_norm": norm,
        "lowest": float(found.x.min()),
        "highest": float(found.x.max()),
    }
    legal = norm <= s.eps * (1 + 1e-9) and numbers["lowest"] >= low and numbers["highest"] <= high
    if s.scoring.levels:
        level = (found.x.double() - low) / (high - low) * s.scoring.levels
        numbers["off_grid"] = float((level - level.round()).abs().max())
        legal = legal and numbers["off_grid"] < 1e-3
        numbers |= s.rounding()
    if legal and norm == 0 < s.eps:
        return "FAIL", numbers, "No image was moved: the grid is coarser than eps, or no gradient flows."
    fits = legal and found.x.dtype == s.x.dtype
    return "PASS" if fits else "FAIL", numbers, "Project and round the images before they are scored."


def core_is_a_function(s: Study) -> Finding:
    """R15: the core answers alike for the same frames, alone or not, and gives logits with gradients."""
    repeat, alone, one_sum = s.core_changes()
    numbers = {"change_on_repeat": repeat, "change_when_alone": alone, "rows_summing_to_one": one_sum}
    numbers |= {"classes": float(s.classes), "classes_needed": float(_needed(s.attack))}
    numbers["differentiable"] = float(s.model.differentiable)
    if repeat > 1e-4 or alone > 1e-4:
        return "FAIL", numbers, "Use evaluation mode, reset states at every call, drop batch statistics."
    if s.classes < _needed(s.attack) or not s.model.differentiable:
        return "FAIL", numbers, "The loss does not fit the classes, or no gradient flows: use another attack."
    return "WARN" if one_sum == 1 else "PASS", numbers, "Outputs look like probabilities; attack the logits."


def _needed(attack: Attack) -> int:
    """Classes that the loss of an attack ranks."""
    return {"dlr": 3, "dlr_targeted": 4}.get(str(getattr(attack, "loss", "ce")), 2)


def restarts_suffice(s: Study) -> Finding:
    """R11: twice the restarts change little."""
    once, twice = s.per_run(s.attack, s.eps).value, s.per_run(s.restarted, s.eps).value
    return (
        "WARN" if once - twice > POINT else "PASS",
        {f"{s.attack.restarts} restarts": once, f"{s.restarted.restarts} restarts": twice},
        "The result depends on the start: raise the restarts.",
    )


def known_noise_is_worse(s: Study) -> Finding:
    """R13: an attack that knows the noise is at least as strong, on that noise, as one that does not."""
    fresh, known = s.known_noise_accuracy()
    return (
        "FAIL" if known > fresh + POINT else "PASS",
        {"fresh": fresh, "known": known},
        "Knowing more made the attack weaker: its gradients do not belong to the network that is scored.",
    )


def best_iterate_is_kept(s: Study) -> Finding:
    """R16: the kept image never has a lower mean loss than the clean one."""
    found = s.found(s.attack, s.eps)
    share = float((found.kept < found.start).double().mean())
    return "FAIL" if share else "PASS", {"share_below_start": share}, "Keep the best candidate, not the last."


def certificates_hold(s: Study) -> Finding:
    """R17: no attack inside a certified radius turns the vote on fresh noise."""
    certified, flipped = s.certified_flips()
    if_broken = (
        "The noise is not what the formula assumes: check order, rounding, sharing over steps, sqrt(T)."
    )
    if_none = "Nothing was certified, so nothing was tested: raise certify_n or certify_images."
    status, advice = _promises(certified, flipped, if_broken, if_none)
    return status, {"certified": float(certified), "flipped": float(flipped)}, advice


def _promises(made: int, broken: int, if_broken: str, if_none: str) -> tuple[Status, str]:
    """Whether promises were kept, and what to do; where none was made nothing was tested."""
    status: Status = "FAIL" if broken else "PASS" if made else "WARN"
    return status, if_broken if made else if_none


def control_breaks(s: Study) -> Finding:
    """R18: an undefended control breaks at the same strength."""
    clean, attacked = s.control_accuracy()
    status: Status = "FAIL" if clean - attacked < 0.1 else "WARN" if attacked > clean / 2 else "PASS"
    return (
        status,
        {"control_clean": clean, "control_attacked": attacked, "eps": s.eps},
        "The attack or eps is too weak to tell a defence from none: check the attack, then raise eps.",
    )


def proofs_hold(s: Study) -> Finding:
    """R19: no attack turns a run whose label was proved for the whole ball."""
    proved, broken = s.proved_and_broken()
    if_broken = "The bounds are not sound for the program that ran: check rounding, resets and saturation."
    if_none = "Nothing was proved, so nothing was tested: lower eps, or train with intervals."
    status, advice = _promises(proved, broken, if_broken, if_none)
    return status, {"proved": float(proved), "broken": float(broken), "eps": s.eps}, advice


def twin_is_the_target(s: Study) -> Finding:
    """R20: under the same noise the model that was attacked answers as the target that is scored."""
    clean, attacked = s.twin_mismatch()
    worst = max(clean, attacked)
    status: Status = "FAIL" if worst > 0.1 else "WARN" if worst else "PASS"
    return (
        status,
        {"clean_runs_that_differ": clean, "attacked_runs_that_differ": attacked},
        "This is no twin of the target: attack the target itself (integer twin, BPDA, black box)."
        if worst > 0.1
        else "Transfer is statistical, not exact: report the paired difference, and attack the integer twin.",
    )


CHECKS: dict[str, tuple[str, Callable[[Study], Finding]]] = {
    "R1": ("eps = 0 through the pipeline equals clean accuracy", clean_through_pipeline),
    "R2": ("scoring noise is fresh", fresh_noise),
    "R3": ("accuracy falls with eps", monotone),
    "R4": ("the whole input box reaches chance", whole_box),
    "R5": ("iterating is at least as strong as one step", iterative_beats_one_step),
    "R6": ("twice the steps change less than a point", steps_suffice),
    "R7": ("twice the EOT draws change less than a point", draws_suffice),
    "R8": ("gradients of two halves of the draws agree", gradients_agree),
    "R9": ("gradients are not zero", gradients_exist),
    "R10": ("other surrogate gradients find nothing worse", surrogates_agree),
    "R11": ("twice the restarts change less than a point", restarts_suffice),
    "R12": ("no black-box attack beats the white-box attack", white_box_is_strongest),
    "R13": ("known noise makes the attack stronger", known_noise_is_worse),
    "R14": ("adversarial images are legal inputs", images_are_legal),
    "R15": ("the core is a fixed function of one run", core_is_a_function),
    "R16": ("the best candidate is kept", best_iterate_is_kept),
    "R17": ("certificates survive attacks", certificates_hold),
    "R18": ("an undefended control breaks", control_breaks),
    "R19": ("interval proofs survive attacks", proofs_hold),
    "R20": ("the model attacked answers as the target scored", twin_is_the_target),
}
NEED_NOISE = frozenset({"R7", "R13", "R17"})


def applicable(study: Study) -> list[str]:
    """Ids of the checks that the study has all it takes for."""
    missing = set() if study.model.encoder.stochastic else set(NEED_NOISE)
    if study.verify is None or study.attack.norm != "linf":
        missing.add("R19")
    if study.predict is None:
        missing.add("R20")
    return [check for check in CHECKS if check not in missing]


def check_health(study: Study, ids: Iterable[str] | None = None) -> tuple[HealthCheck, ...]:
    """Run checks by id, by default all that apply.

    R7, R13 and R17 need an encoder with noise, R19 a verifier and the L_inf norm, R20 a target of its own.

    Raises:
        UsageError: an id is not known, or asks for what is not there.
    """
    fitting = applicable(study)
    wanted = fitting if ids is None else list(ids)
    unknown = [i for i in wanted if i not in fitting]
    if unknown:
        raise UsageError(
            f"Checks {', '.join(unknown)} cannot run.",
            f"Known: {', '.join(CHECKS)}; {', '.join(sorted(NEED_NOISE))} need an encoder with noise, "
            "R19 a verifier and L_inf, R20 a target to compare with.",
            "Leave them out.",
        )
    return tuple(_run(study, i) for i in wanted)


def _run(study: Study, check: str) -> HealthCheck:
    title, function = CHECKS[check]
    status, numbers, next_step = function(study)
    return HealthCheck(check, title, status, numbers, "" if status == "PASS" else next_step)
