"""The verbs of the command line that speak of energy."""

# pyright: reportInvalidTypeForm=false
# (verbs have parameters called `json`, as their options are)

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from rsc.console import emit, show, show_part
from rsc.feeding import Feed, Flat, Reading

DEFAULT = ("h45-int8", "loihi1-davies2018")


def energy(
    program: Annotated[Positional[Path], arg(metavar="PROGRAM", help="bundle folder or .nir file")],
    on: str = "torch",
    profile: UseAppendAction[tuple[str, ...]] = (),
    feed: Flat[Feed] = Feed(most=100),
    reading: Flat[Reading] = Reading(),
    input_as: Literal["auto", "events", "graded"] = "auto",
    seeds: int = 1,
    votes: int = 1,
    step_time: float | None = None,
    pooling: Literal["fold", "graded"] = "fold",
    first_layer: Literal["executed", "hoisted"] = "executed",
    leak: Literal["multiply", "shift"] = "multiply",
    accumulator: Literal["scatter", "gather"] = "scatter",
    curve: bool = False,
    touched: bool = True,
    measure: float = 0.0,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Count every synaptic operation of a run and price it.

    Args:
        on: target that produces the spikes.
        profile: cost profile (name or TOML path, see `rsc profiles`), one or several; h45-int8 and
            loihi1-davies2018 without it.
        input_as: what ready-made frames are: events of 0 and 1, which are accumulated, or graded values,
            which are multiplied; auto: events if nothing else is in them, and the report says so.
        seeds: runs of every image, with --seed and the numbers after it; the spread over seeds is told apart.
        votes: passes per decision; a smoothed classifier of n votes costs n passes.
        step_time: seconds per step of the hardware, for static power.
        pooling: spikes go one by one through pooling, or the pooled value is multiplied.
        first_layer: a constant input is multiplied at every step, or once.
        leak: of the neurons.
        accumulator: in memory, or in a register.
        curve: energy and accuracy after every step, from the one run.
        touched: count the neuron updates with synaptic input; without it their price is an interval.
        measure: seconds to repeat the run under the machine's own energy meters (RAPL, NVML).
        out: folder for energy.json, energy.md, CSV tables and plots.
        json: print the report as JSON.
    """
    from rsc.commands import announce, energy_of
    from rsc.energy.results import Conventions
    from rsc.metering import Metering

    loaded = reading.program(program)
    announce(loaded, on)
    rules = Conventions(pooling, first_layer, leak, accumulator)
    how = Metering(feed.seed, seeds, input_as, votes, step_time, curve, touched, measure, rules)
    report = energy_of(loaded, on, profile or DEFAULT, feed.material(program), feed.seed, how)
    if out is not None:
        from rsc.report.files_energy import write_energy

        write_energy(report, out)
    if json:
        emit(report)
        return
    from rsc.report.files_energy import extra_tables, facts, rich_table

    show_part(energy=(report,))
    show(*(rich_table(t) for t in extra_tables(report) if curve or measure), *facts(report))


def profiles(name: Annotated[Positional[str | None], arg(metavar="NAME")] = None, json: bool = False) -> None:
    """List the cost profiles with evidence and source, or show one in full.

    Args:
        name: profile, or path of a TOML file, whose costs are shown; all are listed without it.
        json: print as JSON.
    """
    from rsc.energy import list_profiles, load_profile
    from rsc.report.profiles_energy import listing, one

    found = [load_profile(n) for n in (list_profiles() if name is None else (name,))]
    if json:
        emit(found if name is None else found[0])
    else:
        from rsc.report.files_energy import rich_table

        show(*(rich_table(t) for t in ([listing(found)] if name is None else one(found[0]))))
