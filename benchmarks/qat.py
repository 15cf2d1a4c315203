"""What Loihi's integers cost a trained network in clean and robust accuracy, with and without fine-tuning.

python benchmarks/qat.py --data-root data [--config examples/configs/fashion_rsc2.toml] [--bits 8 4] [--json]

Trains a network, calibrates it for `loihi` and fine-tunes it there, for each number of bits. "float, trained
on", the control, has the same further epochs in floating point. Accuracy is per run; robust
accuracy is that under PGD with EOT, made on the torch twin of the very program (the float program of the same
weights) and replayed on `loihi` with fresh noise. Differences are integers minus twin on the same images and
noise, with 95 % intervals by bootstrap over images.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch
import tyro

from rsc.data import Dataset, load
from rsc.evaluation import AttackPlan, Deployed, evaluate
from rsc.hw_targets import deploy
from rsc.program import Program
from rsc.robustness.evaluate import compare, measure
from rsc.robustness.model import from_module
from rsc.robustness.results import PairedDifference
from rsc.training import TrainConfig, Trained, fit, read_config
from rsc.training.qat import fine_tune, schedule_of


@dataclasses.dataclass
class Options:
    """What is measured; `images` train, `test` are scored, `attacked` of these are attacked.

    Of the fine-tuned networks those with `attacked_bits` are attacked.
    """

    data_root: Path
    config: Path = Path("examples/configs/fashion_rsc2.toml")
    epochs: int = 2
    images: int = 15_000
    test: int = 2_000
    attacked: int = 256
    bits: tuple[int, ...] = (8, 4)
    attacked_bits: tuple[int, ...] = (8,)
    mode: str = "mse"
    tune_epochs: int = 1
    eps: tuple[str, ...] = ("4/255", "8/255")
    steps: int = 10
    eot: int = 4
    draws: int = 4
    threads: int = 2
    json: bool = False


@dataclasses.dataclass
class Bench:
    """Rows are collected here: one for each program and arithmetic."""

    options: Options
    test: Dataset
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def add(
        self,
        name: str,
        trained: Trained,
        integer: dict[str, tuple[Program, dict[str, float]]],
        attack: bool = True,
    ) -> None:
        """Score a network in floating point, and integer programs of it.

        Args:
            integer: name -> (program, layer -> share of spikes that differ).
            attack: whether not only clean.
        """
        options, test = self.options, self.test
        twin = from_module(trained.network, trained.encoder, test.bounds, name=name)
        deployed = {key: deploy(program, "loihi") for key, (program, _) in integer.items()}
        few = test.head(options.attacked)
        plan = AttackPlan(
            options.eps if attack else (), steps=options.steps, eot=options.eot, draws=options.draws
        )
        sites = [Deployed(key, model) for key, model in deployed.items()]
        attacked = evaluate(twin, few.images, few.targets, plan, sites)
        clean = measure(twin, test.images, test.targets, options.draws)
        for (key, model), report in zip({name: twin, **deployed}.items(), attacked, strict=True):
            found = clean if model is twin else measure(model, test.images, test.targets, options.draws)
            pgd = [row for row in report.attacks if row.attack.startswith("pgd")]
            gaps = [found for found in report.differences if "pgd" in found.second]
            row: dict[str, Any] = {"name": key, "clean": found.scores().per_run.value}
            row |= {r.eps_text: r.scores.per_run.value for r in pgd}
            if model is not twin:
                row["gaps"] = [_gap(compare(clean, found)), *map(_gap, gaps)]
                row["spikes"] = integer[key][1]
            self.rows.append(row)
            _say(f"{key}: {row}")


def _gap(found: PairedDifference) -> tuple[float, float, float]:
    return found.per_run, found.interval.low, found.interval.high


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _timed(what: str, run: Callable[[], Any]) -> Any:
    began = time.perf_counter()
    found = run()
    _say(f"{what}: {time.perf_counter() - began:.0f} s")
    return found


def _bench(options: Options, config: TrainConfig) -> list[dict[str, Any]]:
    train = load(config.dataset, "train", options.data_root).head(options.images)
    bench = Bench(options, load(config.dataset, "test", options.data_root).head(options.test))
    trained = _timed("train", lambda: fit(config, train))
    tuned = {}
    for bits in options.bits:
        tune: dict[str, Any] = {"bits": bits, "mode": options.mode, "epochs": options.tune_epochs}
        tuned[bits] = _timed(f"fine-tune, {bits} bits", lambda t=tune: fine_tune(trained, config, train, **t))
    calibrated = {
        f"loihi, {bits} bits, calibrated": (
            found.calibrated.program,
            {r.layer: r.disagreement for r in found.calibrated.rows if r.disagreement is not None},
        )
        for bits, found in tuned.items()
    }
    bench.add("float", trained, calibrated)
    schedule = schedule_of(config, options.tune_epochs)
    further = _timed("train on", lambda: fit(schedule, train, start=copy.deepcopy(trained.network)))
    bench.add("float, trained on", further, {}, attack=False)
    for bits, found in tuned.items():
        spikes = {r.layer: r.disagreement for r in found.rows if r.disagreement is not None}
        name, attack = f"loihi, {bits} bits, fine-tuned", bits in options.attacked_bits
        bench.add(
            f"float, fine-tuned for {bits} bits", found.trained, {name: (found.program, spikes)}, attack
        )
    return bench.rows


def main(options: Options) -> None:
    """Train, fine-tune, attack, and print a table in points."""
    torch.set_num_threads(options.threads)
    config = read_config(options.config)
    config = msgspec.structs.replace(config, epochs=options.epochs, threads=options.threads)
    rows = _bench(options, config)
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print("| | clean | " + " | ".join(options.eps) + " | minus twin | spikes that differ |")
    print("|---|" + "---|" * (len(options.eps) + 3))
    for row in rows:
        shown = [f"{100 * row[key]:.1f}" if key in row else "" for key in ("clean", *options.eps)]
        gaps = ", ".join(_interval(*gap) for gap in row.get("gaps", []))
        spikes = ", ".join(f"{layer} {share:.2%}" for layer, share in row.get("spikes", {}).items())
        print(f"| {row['name']} | {' | '.join(shown)} | {gaps} | {spikes} |")


def _interval(value: float, low: float, high: float) -> str:
    return f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


if __name__ == "__main__":
    main(tyro.cli(Options))
