"""What targets, ours and others', make of the conformance suite, as docs/conformance.md.

python tests/conformance/matrix.py [SPEC ...] [--out docs/conformance.md]

Without SPEC: our targets and the tools of the `peers` extra. A SPEC is what `pytest --target` takes.
Every cell is run here and now; a tool that does not answer in ten seconds is stopped.
"""

from __future__ import annotations

import dataclasses
import functools
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import tyro

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from loihi_lava import Verdict, beyond, lava_missing, missing_page, rows
from peers import PEERS
from table import CASES, GROUPS, Outcome, outcome
from third_party import target_of

from rsc.files import write_atomic

OURS = ("reference", "torch", "norse", "onnxruntime")
INTEGERS = "`loihi` = `lava`"  # head of the column that holds the two against each other
SECONDS = 10
FILE = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"
SIGNS = {"exact": "exact", "deviates": "deviates", "refused": "no", "hangs": "hangs"}

HEAD = """# Which target does what NIR says

Every row is a primitive of NIR 1.0.8, a parameter, or a shape of graphs; every cell was found by running
the cases of `tests/conformance`, whose expected outputs come from closed forms, from sums and loops
written out, or from scipy. `python tests/conformance/matrix.py` writes this page.

- **exact**: every output of every case within its tolerance: 0 for most, as inputs and weights are
  dyadic; up to 1e-5 of the largest output in float32 where the expected numbers are not.
- **no**: refused, with an error that says why (of the other tools: any exception).
- **deviates**: it runs and gives other numbers. **hangs**: no answer in ten seconds.
- **partly**: some cases exact; the rest as said.

`reference`, `torch`, `norse` and `onnxruntime` are targets of this package; `norse` rewrites a graph into
what Norse runs exactly, `onnxruntime` runs it as one ONNX model. The other columns are the tools' own
importers, given the graph from a file that nir.write wrote, their time step where they take one, and time
constants in their unit; rules that they cannot be told count as refused. Each row isolates what it names:
where it is about structure, the neurons are of the kind
that every tool reads.

`loihi` and `lava` quantise, so they cannot give the numbers of the cases to the last bit. What must hold is
that they agree: in their column, **exact** says that every spike, u and v of every step and neuron is the
same integer in our model and in Lava's own fixed-point processes, on the frames of the case. The same is
tested with random programs (below) and with recordings of Lava and of a Loihi chip.
"""

INTEGER_HEAD = """
## `loihi` and `lava`

What their column refuses is refused by both, with the node, the reason and a remedy:

"""


@dataclasses.dataclass
class Options:
    """What is run and where the page goes."""

    spec: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="SPEC")] = ()
    out: Path = FILE


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """TimeoutError after so many seconds."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@functools.cache
def _imported(spec: str) -> None:
    """Run a neuron once without a limit, as importing what a tool needs may take longer than any case."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome(CASES["LIF, r = 1"], spec)


def verdict(name: str, spec: str) -> Outcome | None:
    """Of one case; None where the target hangs."""
    _imported(spec)
    try:
        with limited(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = outcome(CASES[name], spec)
    except TimeoutError:
        return None
    return None if "TimeoutError" in found.detail else found


def cell(group: str, spec: str) -> str:
    """Of one row and target."""
    verdicts = [verdict(name, spec) for name in GROUPS[group]]
    return summed(["hangs" if found is None else found.verdict for found in verdicts])


def summed(kinds: list[str]) -> str:
    """A cell from the verdicts of its cases."""
    if len(set(kinds)) == 1:
        return SIGNS[kinds[0]]
    rest = " and ".join(SIGNS[kind] for kind in SIGNS if kind in kinds and kind != "exact")
    return f"partly, {rest}" if "exact" in kinds else rest


def title(spec: str) -> str:
    """Head of a column."""
    return getattr(target_of(spec), "title", f"`{spec}`")


def integer_cells(found: Mapping[str, Verdict]) -> dict[str, str]:
    """The column of `loihi` and `lava`, from the verdicts of all cases: row -> cell."""
    return {group: summed([found[name] for name in names]) for group, names in GROUPS.items()}


def page(specs: tuple[str, ...], integers: bool) -> str:
    """The page as Markdown.

    Args:
        integers: with the column of `loihi` and `lava`, behind those of our other targets, and what is below.
    """
    columns = {title(spec): {group: cell(group, spec) for group in GROUPS} for spec in specs}
    below = ""
    if integers:
        ours = [title(spec) for spec in OURS]
        others = {head: columns[head] for head in columns if head not in ours}
        columns = {head: columns[head] for head in ours} | {INTEGERS: integer_cells(rows())} | others
        below = INTEGER_HEAD + "\n".join([*missing_page(), "", *beyond()]) + "\n"
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    lines += [f"| {group} | {' | '.join(cells[group] for cells in columns.values())} |" for group in GROUPS]
    return HEAD + "\n" + "\n".join(lines) + "\n" + below + TAIL


def written() -> dict[str, dict[str, str]]:
    """The table of the page as it stands: head of a column -> row -> cell."""
    table = FILE.read_text().split("\n| |", 1)[1].split("\n\n", 1)[0]
    heads, _, *cells = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return {head: {row[0]: row[i + 1] for row in cells} for i, head in enumerate(heads)}


TAIL = """
## Your own target

    pytest tests/conformance --target mypackage.mymodule:MyTarget

in a clone of this repository runs every case and random graphs against a class that follows
`rsc.hw_targets.Target` (`name`, `available()`, `check(program)`, `compile(program)`; a model that writes
one hook, `_steps`). What it refuses is skipped with its reason; what it runs must be exact, and something
must run. If the model offers `run_state(frames, state)`, runs in chunks must equal whole ones. The
recordings of other simulators (folder `paper` of the repository neuromorphs/NIR) are run where they lie in
`../shared/conformance`. The same SPEC given to `tests/conformance/matrix.py` makes a page with its column.
"""


def main(options: Options) -> None:
    """Run all and write."""
    specs, integers = options.spec or (*OURS, *PEERS), not options.spec
    missing = [spec for spec in specs if target_of(spec).available() is not None]
    if missing:
        sys.exit(f"Not installed: {', '.join(missing)}. pip install -e '.[peers]'")
    if integers and lava_missing():
        sys.exit(lava_missing())
    text = page(tuple(specs), integers)
    write_atomic(options.out, text.encode())
    print(f"{options.out}: {len(GROUPS)} rows, {len(specs) + integers} columns")


if __name__ == "__main__":
    main(tyro.cli(Options))
