"""Sentences computed from the numbers: what they show, and plainly what they do not."""

from __future__ import annotations

import msgspec

from rsc.energy.results import AnnComparison, EnergyReport
from rsc.parity_results import ParityRow
from rsc.report import numbers, select
from rsc.report.value import Report, TargetRow
from rsc.robustness.results import Accuracy, AttackRow, CertifyRow, PairedDifference
from rsc.robustness.verify_results import VerifyReport


def conclude(report: Report) -> Report:
    """The report with `conclusions` computed anew from its other sections.

    Models of role "rsc" are compared with "direct" and "smoothed-ann" ("ann" if there is none).
    Two numbers count as different only if their intervals are disjoint; of paired differences the
    interval of the difference decides.
    """
    smoothed = select.with_role(report, "smoothed-ann") or select.with_role(report, "ann")
    others = (*select.with_role(report, "direct"), *smoothed)
    rivals = [(ours, other) for other in others for ours in select.with_role(report, "rsc")]
    sentences = [
        *(_robust_sentence(report, ours, other) for ours, other in rivals),
        *(_clean_sentence(report, ours, other) for ours, other in rivals),
        *(_certified_sentence(report, ours, other) for ours, other in rivals),
        *(_verified_sentence(v) for v in report.verification),
        *_deployment_sentences(report),
        *_agreements(report.parity),
        *(_parity_sentence(row) for row in report.parity),
        *_deployed_robustness(report),
        *(_paired_sentence(r.differences) for r in report.robustness if r.differences),
        *(_energy_sentence(report, energy) for energy in report.energy),
        *_health_sentences(report),
        *_unavailable_sentences(report),
    ]
    return msgspec.structs.replace(report, conclusions=tuple(s for s in dict.fromkeys(sentences) if s))


def _clean_sentence(report: Report, ours: str, other: str) -> str:
    first, second = (_clean(report, name) for name in (ours, other))
    if first is None or second is None:
        return ""
    return (
        f"Without attack {ours} {_verb(first, second)} {other}: {_two(first, second)}"
        f" ({_per(first)}, n = {_n(first, second)})."
    )


def _clean(report: Report, name: str) -> Accuracy | None:
    section = select.model(report, name)
    return None if section is None else section.per_run or section.vote


def _robust_sentence(report: Report, ours: str, other: str) -> str:
    """One sentence over all balls that both models were attacked in."""
    rows = select.attack_rows(report)
    pairs = []
    for budget in select.budgets(rows):
        mine = select.strongest(rows, budget, ours, select.home(report, ours))
        theirs = select.strongest(rows, budget, other, select.home(report, other))
        if mine and theirs:
            pairs.append((select.budget_text(budget, rows), mine, theirs))
    if not pairs:
        return ""
    won = [text for text, a, b in pairs if _order(a.per_run, b.per_run) > 0]
    lost = [text for text, a, b in pairs if _order(a.per_run, b.per_run) < 0]
    text, mine, theirs = max(pairs, key=lambda p: abs(p[1].per_run.value - p[2].per_run.value))
    return f"{_verdict(ours, other, won, lost, len(pairs))} {_evidence(text, mine, theirs)}"


def _verdict(ours: str, other: str, won: list[str], lost: list[str], tried: int) -> str:
    """Who is ahead by disjoint intervals, and where; never silent about the rest."""
    if not won and not lost:
        return (
            f"Under attack {ours} and {other} stay within each other's intervals at {_tried(tried, 'all')}."
        )
    text = f"Under attack {ours} {'beats' if won else 'does not beat'} {other}"
    text += f" by more than their intervals at {_list(won)}" if won else f" at {_tried(tried, 'any of')}"
    if lost:
        text += f" and is worse by more than their intervals at {_list(lost)}"
    undecided = tried - len(won) - len(lost)
    elsewhere = "; at the other strength" if undecided == 1 else f"; at the other {undecided} strengths"
    return text + (f"{elsewhere} the intervals meet." if undecided else ".")


def _tried(strengths: int, word: str) -> str:
    return "the one strength tried" if strengths == 1 else f"{word} {strengths} strengths"


def _evidence(text: str, mine: AttackRow, theirs: AttackRow) -> str:
    where = mine.target if mine.target == theirs.target else f"{mine.target} and {theirs.target}"
    return (
        f"Largest gap at {text}: {_two(mine.per_run, theirs.per_run)} (per run, strongest attack on each:"
        f" {mine.attack} and {theirs.attack}; n = {_n(mine.per_run, theirs.per_run)}, on {where})."
    )


def _certified_sentence(report: Report, ours: str, other: str) -> str:
    norms = _norms(report, ours), _norms(report, other)
    both = [norm for norm in norms[0] if norm in norms[1]]
    if not both:
        return _unlike(ours, other, *norms) if all(norms) else ""
    first = {name: select.certificate_of(report, name, both[0]) for name in (ours, other)}
    found = {name: {row.radius: row for row in c.rows} if c else {} for name, c in first.items()}
    shared = sorted(r for r in found[ours].keys() & found[other].keys() if r > 0)
    if not shared:
        return ""
    decided = [r for r in shared if _apart(found[ours][r], found[other][r])]
    radius = (decided or shared)[0]
    mine, theirs = found[ours][radius], found[other][radius]
    side = _apart(mine, theirs)
    word = {1: f"{ours} certifies more", -1: f"{ours} certifies less", 0: "the intervals meet"}[side]
    return (
        f"Certified at {select.NORMS[both[0]]} radius {radius:g}: {ours} {_certified(mine)}, {other}"
        f" {_certified(theirs)}"
        f" (n = {mine.n} and {theirs.n}): {word}."
    )


def _norms(report: Report, name: str) -> tuple[str, ...]:
    return select.certified_norms(c for c in select.certificates(report) if c.name == name)


def _unlike(ours: str, other: str, mine: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    names = [_list([select.NORMS[norm] for norm in norms]) for norms in (mine, theirs)]
    return f"{ours} is certified in {names[0]} and {other} in {names[1]}: their radii do not compare."


def _verified_sentence(v: VerifyReport) -> str:
    """The largest ball on which a vote is certified."""
    subject = f"the {v.arithmetic} program of {v.model} on {v.target}"
    rows = [row for row in v.rows if row.certified > 0]
    if not v.rows:
        return ""
    if not rows:
        smallest = min(v.rows, key=lambda row: row.eps)
        return f"Nothing is proved for {subject}, not even at L∞ {smallest.eps_text} (n = {smallest.n})."
    row = max(rows, key=lambda row: row.eps)
    shares = [
        f"{numbers.percent(getattr(row, name))} {numbers.percent_range(ends.low, ends.high)}"
        for name in ("per_run", "certified")
        if (ends := row.intervals.get(name))
    ]
    bound = f"one run keeps at least {shares[0]}, the vote is certified for {shares[-1]}" if shares else ""
    what = bound if v.alpha else f"{shares[-1] if shares else numbers.percent(row.certified)} is proved right"
    return f"Under every attack within L∞ {row.eps_text} on {subject} {what} (n = {row.n}, draws {v.draws})."


def _certified(row: CertifyRow) -> str:
    ends = numbers.percent_range(row.interval.low, row.interval.high)
    return f"{numbers.percent(row.certified_accuracy)} {ends}"


def _apart(a: CertifyRow, b: CertifyRow) -> int:
    return (a.interval.low > b.interval.high) - (a.interval.high < b.interval.low)


def _deployment_sentences(report: Report) -> list[str]:
    """Each integer target against the first floating-point target that ran the same model."""
    sentences = []
    for row in report.targets:
        base = next((t for t in report.targets if _is_float(t) and t.model == row.model), None)
        if row.arithmetic == "integer" and row.accuracy and base and base.accuracy:
            loss = row.accuracy.value - base.accuracy.value
            overlap = "outside" if _order(row.accuracy, base.accuracy) else "inside"
            sentences.append(
                f"Deployed on {row.spec} (integer) {row.model or 'the model'} reaches"
                f" {numbers.accuracy(row.accuracy)} against {numbers.accuracy(base.accuracy)} on"
                f" {base.spec} ({base.arithmetic}): {numbers.points(loss)} points, {overlap} the intervals"
                f" (n = {_n(row.accuracy, base.accuracy)})."
            )
    return sentences


def _is_float(row: TargetRow) -> bool:
    return row.arithmetic.startswith("float") and row.accuracy is not None


def _agreements(rows: tuple[ParityRow, ...]) -> list[str]:
    """The pairs that agree, bit for bit or up to rounding, one sentence each kind."""
    exact = [row for row in rows if row.exact and row.same_frames]
    equal = [row for row in exact if not any(node.different for node in row.nodes)]
    rounded = [row for row in exact if row not in equal]
    sentences = []
    if equal:
        sentences.append(f"Equal in every compared value, bit for bit: {_pairs(equal)}.")
    if rounded:
        most = max(node.max_abs_diff for row in rounded for node in row.nodes)
        sentences.append(
            f"Equal in every spike, with states that differ by rounding only (at most {most:.1e}):"
            f" {_pairs(rounded)}."
        )
    return sentences


def _pairs(rows: list[ParityRow]) -> str:
    return "; ".join(
        f"{row.target_a} and {row.target_b} (n = {row.n}, T = {row.steps},"
        f" {numbers.count(sum(node.compared for node in row.nodes))} values compared)"
        for row in rows
    )


def _parity_sentence(row: ParityRow) -> str:
    pair = f"{row.target_a} and {row.target_b}"
    if not row.same_frames:
        return f"{pair} received different frames, so nothing follows from comparing them."
    compared = sum(node.compared for node in row.nodes)
    extent = f"n = {row.n}, T = {row.steps}, {numbers.count(compared)} values compared"
    if row.exact:
        return ""  # gathered by `_agreements`
    different = sum(node.different for node in row.nodes)
    agreement = row.prediction_agreement
    same_class = (
        f" They name the same class for {numbers.percent(agreement.value)}"
        f" {numbers.percent_range(agreement.low, agreement.high)} of {agreement.n} images."
        if agreement
        else ""
    )
    return f"{pair} differ in {numbers.count(different)} values ({extent}).{same_class}"


def _deployed_robustness(report: Report) -> list[str]:
    """For every model scored on a second target: the ball where it loses most there."""
    rows, sentences = select.attack_rows(report), []
    for place in select.places(report):
        base = select.home(report, place.model)
        if base in (None, place.target):
            continue
        pairs = [
            (budget, here, there)
            for budget in select.budgets(rows)
            if (here := select.strongest(rows, budget, place.model, place.target))
            and (there := select.strongest(rows, budget, place.model, base))
            and here.per_run.n == there.per_run.n  # else images differ; the paired sentence compares fairly
        ]
        if pairs:
            budget, here, there = min(pairs, key=lambda p: p[1].per_run.value - p[2].per_run.value)
            difference = numbers.points(here.per_run.value - there.per_run.value)
            made = f"; images made on {here.crafted_on}, not on {place.target}" if here.crafted_on else ""
            sentences.append(
                f"After deployment on {place.target} {place.model} keeps {numbers.accuracy(here.per_run)} at"
                f" {select.budget_text(budget, rows)} against {numbers.accuracy(there.per_run)} on {base}:"
                f" {difference} points, the worst of {len(pairs)} strength{'s' if len(pairs) > 1 else ''}"
                f" (per run, n = {_n(here.per_run, there.per_run)}{made})."
            )
    return sentences


def _paired_sentence(differences: tuple[PairedDifference, ...]) -> str:
    """The largest of the paired differences of one target, and how many intervals leave out zero."""
    d = max(differences, key=lambda one: abs(one.per_run))
    ends = f"[{numbers.points(d.interval.low)}, {numbers.points(d.interval.high)}]"
    apart = sum(one.interval.low > 0 or one.interval.high < 0 for one in differences)
    which = f"the largest of {len(differences)} comparisons; " if len(differences) > 1 else ""
    verdict = (
        f"{apart} of {len(differences)} intervals leave out zero" if apart else "no interval leaves out zero"
    )
    return (
        f"On the same {d.n} images under the same noise {d.second} differs from {d.first} by"
        f" {numbers.points(d.per_run)} points {ends} per run ({which}{verdict});"
        f" {d.flipped_runs} of {d.runs} runs changed their answer."
    )


def _energy_sentence(report: Report, energy: EnergyReport) -> str:
    """Operations alone beside everything that is priced, of the first comparison with an ANN."""
    if not energy.ann or not energy.ann[0].ratios:
        return ""
    ann = energy.ann[0]
    name, first, last = select.energy_name(report, energy), ann.ratios[0], ann.ratios[-1]
    operations = numbers.times(first.low, first.high)
    text = f"Counting operations alone {name} needs {operations} the energy of the same network as ANN"
    if last.name != first.name:
        text += f"; with {_ratio_scope(last.name)} {numbers.times(last.low, last.high)}"
    partly = select.priced_in_part(energy, ann.profile)
    less = last.high < 1 and not partly
    verdict = "needs more" if last.low > 1 else "needs less" if less else "may need more or less"
    bound = "lower bounds, " if partly else ""
    return f"{text} ({bound}{_baseline(ann)}, n = {energy.n}): by these costs it {verdict} than the ANN."


def _ratio_scope(name: str) -> str:
    return {
        "ops+neurons": "neuron updates",
        "memory": "neuron updates and memory accesses",
        "all": "everything that is priced, memory and encoder included,",
    }.get(name, name)


def _baseline(ann: AnnComparison) -> str:
    against = "" if ann.baseline == ann.profile else f" against {ann.baseline}"
    return f"costs {ann.profile}{against}"


def _health_sentences(report: Report) -> list[str]:
    failed, warned = select.health(report, "FAIL"), select.health(report, "WARN")
    total = sum(len(r.checks) for r in report.robustness)
    if not total:
        return ["The attacks were not checked for health."] if select.attack_rows(report) else []
    if not failed and not warned:
        return [f"All {total} health checks of the robustness evaluation passed."]
    named = _list([f"{title} ({r.model} on {r.target})" for r, title in (failed or warned)])
    doubt = " The robust accuracies may be overstated." if failed else ""
    return [f"Of {total} health checks {len(failed)} failed and {len(warned)} warned: {named}.{doubt}"]


def _unavailable_sentences(report: Report) -> list[str]:
    return [f"{row.spec} was not run: {row.reason}" for row in report.targets if not row.available]


def _order(a: Accuracy, b: Accuracy) -> int:
    """1 if a is above b by more than their intervals, -1 below, 0 if the intervals meet."""
    return (a.interval.low > b.interval.high) - (a.interval.high < b.interval.low)


def _verb(a: Accuracy, b: Accuracy) -> str:
    return {1: "is better than", -1: "is worse than", 0: "is within the intervals of"}[_order(a, b)]


def _two(a: Accuracy, b: Accuracy) -> str:
    return f"{numbers.accuracy(a)} against {numbers.accuracy(b)}"


def _per(value: Accuracy) -> str:
    return {"per_run": "per run", "vote": f"vote of {value.draws}"}.get(
        value.kind, f"right in all of {value.draws} runs"
    )


def _n(a: Accuracy, b: Accuracy) -> str:
    return str(a.n) if a.n == b.n else f"{a.n} and {b.n}"


def _list(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
