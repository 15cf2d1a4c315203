"""The command line: one function per verb. Results go to stdout, progress and errors to stderr.

Exit codes: 0 ok, 1 a gate failed, 2 usage, 3 target unavailable, 4 input refused, 5 fault,
130/143 interrupted. Everything heavy is imported inside the verbs, so help needs no torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, UseAppendAction, arg

from rsc.allocator import keep_freed_memory
from rsc.cli_certify import certify
from rsc.cli_chip import lava, place
from rsc.cli_energy import energy, profiles
from rsc.cli_robustness import attack
from rsc.cli_train import train
from rsc.cli_verify import verify
from rsc.console import (
    calibration_lines,
    complain,
    emit,
    finding_lines,
    progress,
    run_line,
    show,
    show_part,
    unforeseen,
    warn_plainly,
)
from rsc.errors import GateFailed, RscError
from rsc.feeding import Feed, Flat, Reading, repeated
from rsc.interrupt import stop_cleanly

Program = Annotated[Positional[Path], arg(metavar="PROGRAM", help="bundle folder or .nir file")]
Targets = Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="TARGET", help="target, one or several")]
Texts = UseAppendAction[tuple[str, ...]]


def demo(out: Path = Path("runs/demo"), seed: int = 0, json: bool = False) -> None:
    """Train, deploy on every target, price and attack one real network; write a report.

    Args:
        out: folder of the report and the bundle.
        seed: of training, noise and attacks.
        json: print the report as JSON.
    """
    from rsc.demo import run_demo
    from rsc.report import terminal_tables

    with progress() as listener:
        report = run_demo(out, seed, listener)
    if json:
        emit(report)
        return
    show(*terminal_tables(report), *(f"• {sentence}" for sentence in report.conclusions))
    show(f"\nReport: {out / 'report.html'} (also .md and .json), bundle: {out / 'bundle'}")


def export(
    program: Program,
    to: Literal["nir", "loihi", "netx", "onnx"] = "nir",
    out: Path | None = None,
    calibrate: Literal["max", "percentile", "mse", "agreement"] | None = None,
    bits: int = 8,
    grid: int | None = None,
    noise: Literal["frames", "input", "graph"] | None = None,
    arithmetic: Literal["float32", "float64", "float16", "bfloat16", "integer"] = "float32",
    votes: int | None = None,
    counts: bool = False,
    stateful: bool = False,
    feed: Flat[Feed] = Feed(most=64),
    reading: Flat[Reading] = Reading(),
    json: bool = False,
) -> None:
    """Write a program in another form.

    Args:
        to: "nir", readable by every NIR tool; "loihi", integer layers as .npz; "netx", chains for lava-dl;
            "onnx", the network, all steps and the encoder for ONNX Runtime, proven before it is written.
        out: file to write; PROGRAM.nir, .loihi.npz, .net or .onnx in the current folder by default.
        calibrate: choose the scales of Loihi's integers on the images or frames, and which large weights
            they clip: none (max), the largest 0.1 % (percentile), by mean square error, or by spikes.
        bits: of Loihi's weights, 2 to 9.
        grid: put the encoder's image and noise on so many levels per unit, so that chips can draw it.
        noise: what an ONNX model is fed: image and noise (input; the default of programs with an encoder),
            the image alone (graph: it draws the noise itself) or frames that are encoded already.
        arithmetic: of an ONNX model; integer is the Loihi form.
        votes: runs for each image whose majority an ONNX model takes.
        counts: let an ONNX model give spike counts.
        stateful: let an ONNX model of frames take and give the states, so that a stream can be cut.
        json: print what calibration, or the proof of an ONNX model, found as JSON.
    """
    from rsc.commands import on_grid, quantised, write_for_netx
    from rsc.export.loihi import lower
    from rsc.export.writer import write_program
    from rsc.files import write_atomic

    loaded, rows = on_grid(reading.program(program), grid), ()
    if calibrate is not None or bits != 8:
        material = None if calibrate is None else feed.material(program)
        loaded, rows = quantised(loaded, material, calibrate or "max", bits, feed.seed)
    endings = {"nir": ".nir", "loihi": ".loihi.npz", "netx": ".net", "onnx": ".onnx"}
    path = out or Path(program.resolve().stem + endings[to])
    if to == "onnx":
        from rsc.commands_onnx import onnx_form, proof_line, write_for_onnx

        form = onnx_form(loaded, noise, arithmetic, votes, counts, stateful)
        proof = write_for_onnx(loaded, form, path, program, feed)
        emit(proof) if json else show(proof_line(proof), f"{path}: program {loaded.digest[:12]}")
        return
    if to == "nir":
        write_program(loaded, path)
    elif to == "netx":
        write_for_netx(loaded, path)
    else:
        write_atomic(path, lower(loaded, "integer").to_bytes())
    if json:
        emit(rows)
    else:
        show(*calibration_lines(rows), f"{path}: program {loaded.digest[:12]}")


def run(
    program: Annotated[
        Positional[Path], arg(metavar="PROGRAM", help="bundle folder, .nir file or exported .onnx model")
    ],
    on: str = "reference",
    feed: Flat[Feed] = Feed(),
    reading: Flat[Reading] = Reading(),
    probe: Texts = (),
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Run a program, or an exported .onnx model as it stands, on a target.

    Args:
        on: target spec, see `rsc targets`.
        probe: neuron whose spikes and states are kept in --out; one or several.
        out: .npz to write: output, counts, spikes/NODE, v/NODE; of an .onnx model all that it gives.
        json: print the result as JSON.
    """
    if program.suffix == ".onnx":
        from rsc.commands_onnx import run_file

        row = run_file(program, on, feed, probe, out)
        emit(row) if json else show(run_line(row))
        return
    from rsc.commands import announce, run_program, save_result

    loaded = reading.program(program)
    announce(loaded, on)
    result, row = run_program(loaded, on, feed.material(program), feed.seed, probe)
    if out is not None:
        save_result(result, loaded, out)
    emit(row) if json else show(run_line(row))


def parity(
    program: Program,
    on: Targets,
    feed: Flat[Feed] = Feed(most=64),
    reading: Flat[Reading] = Reading(),
    max_mismatch: float = 0.0,
    json: bool = False,
) -> None:
    """Compare targets spike by spike and state by state; exit 1 where they differ.

    Args:
        on: two targets or more; each is compared with the first.
        max_mismatch: share of differing spikes that passes the gate; 0 asks for exactness.
        json: print the comparison as JSON.
    """
    from rsc.commands import announce, parity_rows
    from rsc.parity import spike_mismatch

    loaded, material = reading.program(program), feed.material(program)
    announce(loaded, *on)
    with progress() as listener:
        rows = parity_rows(loaded, on, material, feed.seed, program.resolve().stem, listener)
    exact = all(row.exact for row in rows)
    if json:
        emit({"exact": exact, "pairs": rows})
    else:
        show_part(parity=tuple(rows))
    worst = max(spike_mismatch(row) for row in rows)
    if not (exact or 0 < max_mismatch >= worst):
        raise GateFailed(
            "The targets differ.",
            f"{worst:.3%} of the spikes at worst; allowed {max_mismatch:.3%}.",
            "See the first difference per node, or allow it with --max-mismatch.",
        )


def lint(
    program: Program,
    target: Annotated[UseAppendAction[tuple[str, ...]], arg(name="for", metavar="TARGET")] = (),
    input: Path | None = None,
    reading: Flat[Reading] = Reading(),
    json: bool = False,
) -> None:
    """Say what each target would refuse or change in a program; exit 1 on errors.

    Args:
        target: our targets, loihi1 and loihi2 (the chips), or norse-file, snntorch, sinabs, spikingjelly,
            rockpool, spyx, nengo, lava-dl; one or several; all of our targets by default.
        input: frames [T, B, ...] as .npy: also finds layers that never or always fire.
    """
    from rsc.commands import lint_findings
    from rsc.export.lint import blocking

    findings = lint_findings(program, reading, target, input)
    if json:
        emit({"findings": findings})
    else:
        show(*finding_lines(findings))
    errors = blocking(findings)
    if errors:
        raise GateFailed(f"{len(errors)} errors for the targets asked for.", errors[0].what, errors[0].fix)


def report(folder: Annotated[Positional[Path], arg(metavar="DIR")], json: bool = False) -> None:
    """Render report.json of a run folder again as HTML and Markdown."""
    from rsc.report import read_report, terminal_tables, write_report

    value = read_report(folder)
    write_report(value, folder if folder.is_dir() else folder.parent)
    emit(value) if json else show(*terminal_tables(value))


def targets(json: bool = False) -> None:
    """List the targets: what can run here, and how to get the rest."""
    from rsc.commands import target_list

    rows = target_list()
    emit(rows) if json else show_part(targets=tuple(rows))


# options that take one value or several
REPEATED = ("--on", "--attacks", "--surrogates", "--for", "--probe", "--profile", "--delay")

VERBS = {
    "demo": demo,
    "train": train,
    "export": export,
    "run": run,
    "parity": parity,
    "energy": energy,
    "profiles": profiles,
    "attack": attack,
    "certify": certify,
    "verify": verify,
    "lint": lint,
    "report": report,
    "targets": targets,
    "place": place,
    "lava": lava,
}


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `rsc`; always ends in SystemExit with a documented code."""
    stop_cleanly()
    warn_plainly()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads stall a shared machine
    if arguments is None:  # the process is ours
        keep_freed_memory()
    try:
        words = sys.argv[1:] if arguments is None else arguments
        if words and words[0] in VERBS:
            given = repeated(words[1:], REPEATED)
            tyro.cli(VERBS[words[0]], prog=f"rsc {words[0]}", args=given, use_underscores=False)
        else:
            summary = "Train, export, deploy, measure and attack spiking networks."
            listed = {name: _title(verb) for name, verb in VERBS.items()}
            tyro.extras.subcommand_cli_from_dict(listed, prog="rsc", description=summary, args=words)
    except RscError as error:
        complain(error)
        sys.exit(error.exit_code)
    except Exception as error:
        if os.environ.get("RSC_TRACEBACK"):
            raise
        complain(unforeseen(error))
        sys.exit(5)
    sys.exit(0)


def _title(verb: Callable[..., None]) -> Callable[[], None]:
    """A verb without its arguments: enough for the list of verbs, and much quicker to parse."""

    def title() -> None:
        pass

    title.__doc__ = verb.__doc__
    return title


if __name__ == "__main__":
    main()
