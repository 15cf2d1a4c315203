# %% [markdown]
# # RSC on Fashion-MNIST: the claims of the paper at a size that fits an hour on two cores
#
#     python examples/reproduce_rsc.py --data-root data --out docs/results
#
# Trains every row of `ROWS` from its file in examples/configs, attacks it, counts its operations, and
# writes `fashion_mnist.json` and `fashion_mnist.md`. Each row is stored as soon as it is done (`--work`), so
# a run that was stopped goes on where it was. `--quick` is a smoke test on the embedded digits; its numbers
# mean nothing.

# %%
from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from rsc import __version__, pipeline
from rsc.energy import count
from rsc.energy.ann import ann_macs
from rsc.evaluation import AttackPlan, evaluate
from rsc.export.to_nir import to_program
from rsc.files import write_atomic
from rsc.hw_targets import deploy
from rsc.networks import build
from rsc.results import Keys
from rsc.robustness.evaluate import score
from rsc.robustness.qte import qte
from rsc.training import TrainConfig, read_config

CONFIGS = Path(__file__).parent / "configs"
ROWS = {
    "ANN": "ann",
    "smoothed ANN": "smoothed_ann",
    "SNN, direct": "direct",
    "SNN, Poisson": "poisson",
    "RSC-I": "rsc1",
    "RSC-II": "rsc2",
    "RSC-II + E-RSCT": "rsc2_ersct",
    "SNN, direct + AT": "direct_at",
    "RSC-II + AT": "rsc2_at",
    "RSC-II + E-RSCT + AT": "rsc2_ersct_at",
}
STEPS = {"smoothed ANN": 4}  # at evaluation, where training used single passes
EPS = ("2/255", "4/255", "8/255", "16/255")


class Size(msgspec.Struct, frozen=True):
    """How much is measured: images scored and attacked, votes, PGD steps, EOT draws, images counted."""

    scored: int = 2000
    attacked: int = 200
    votes: int = 10
    steps: int = 20
    eot: int = 4
    counted: int = 200


# %%
def measure_row(name: str, config: TrainConfig, size: Size) -> dict[str, Any]:
    """One row: train, score clean images, attack, count."""
    began = time.perf_counter()
    packed = pipeline.train(config, name, steps=STEPS.get(name))
    trained_s = time.perf_counter() - began
    model, test = packed.model, packed.test
    draws = size.votes if model.encoder.stochastic else 1
    clean = score(model, test.images[: size.scored], test.targets[: size.scored], draws)
    plan = AttackPlan(EPS, steps=size.steps, eot=size.eot, draws=draws)
    x, y = test.images[: size.attacked], test.targets[: size.attacked]
    (report,) = evaluate(model, x, y, plan)
    row: dict[str, Any] = {
        "name": name,
        "clean_per_run": clean.per_run,
        "clean_vote": clean.vote,
        "attacked_clean_per_run": report.clean.per_run,
        "training_s": round(trained_s, 1),
        "seconds": round(time.perf_counter() - began, 1),
        "operations": operations(packed, config, size.counted),
    }
    strengths = [0.0, *(value for value, _ in plan.strengths())]
    for attack in ("fgsm", "pgd"):
        rows = [r for r in report.attacks if r.attack.lower().startswith(attack)]
        row[attack] = {r.eps_text: {"per_run": r.scores.per_run, "vote": r.scores.vote} for r in rows}
        accuracies = [report.clean.per_run.value, *(r.scores.per_run.value for r in rows)]
        row[f"qte_{attack}"] = qte(strengths, accuracies)._asdict()
    return msgspec.to_builtins(row)


def operations(packed: pipeline.Packed, config: TrainConfig, images: int) -> dict[str, float]:
    """Accumulates (sop) and multiply-accumulates (mac) of one decision without votes, mean over images."""
    encoder = packed.trained.encoder
    if packed.program is None:  # an ANN: every pass is dense, counted on the spiking twin of the same shape
        shape = packed.test.images.shape[1:]
        spec = msgspec.structs.replace(config.network, neuron="lif")
        twin = to_program(build(spec, shape, len(packed.test.labels)).eval(), shape, encoder)
        passes = encoder.steps if encoder.stochastic else 1
        return {"sop": 0.0, "mac": float(passes * sum(ann_macs(twin).values()))}
    with deploy(packed.program, "torch") as model:
        result = model.run(packed.test.images[:images], Keys(0, packed.test.ids[:images]))
    counts = count(packed.program, result.spikes, encoder.steps)
    hoisted = [n.mac if n.mac_hoisted is None else n.mac_hoisted for n in counts.nodes]
    return {
        "sop": sum(float(np.mean(n.sop)) for n in counts.nodes),
        "mac": sum(float(np.mean(value)) for value in hoisted),
    }


# %%
def percent(accuracy: dict[str, Any]) -> str:
    """An accuracy with its interval, in percent."""
    low, high = accuracy["interval"]["low"], accuracy["interval"]["high"]
    return f"{100 * accuracy['value']:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def markdown(found: dict[str, Any]) -> str:
    """The tables of docs/results/fashion_mnist.md."""
    size, rows = found["size"], found["rows"]
    made, minutes = found["made_with"], sum(row["seconds"] for row in rows) / 60
    lines = [
        "# RSC on Fashion-MNIST",
        "",
        f"    {found['command']}",
        "",
        f"rsc-snn {made['rsc-snn']}, torch {made['torch']}, {made['cpu']}; {minutes:.0f} minutes in all.",
        "One seed per row. Accuracies in percent with 95 % intervals over the images: per run, and by a vote",
        f"of {size['votes']} runs. Clean: {size['scored']:,} test images; attacked: the first",
        f"{size['attacked']}. PGD takes {size['steps']} steps; both attacks average {size['eot']} noise",
        "draws per gradient (EOT) and are scored on noise they never saw. AT: adversarial training on",
        "FGSM images of 8/255.",
        "",
        "| | clean, run | clean, vote | FGSM 8/255, run | PGD 8/255, run | PGD 8/255, vote | QTE of PGD |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        at = "8/255"
        cells = [
            row["clean_per_run"],
            row["clean_vote"],
            row["fgsm"][at]["per_run"],
            row["pgd"][at]["per_run"],
        ]
        cells.append(row["pgd"][at]["vote"])
        texts = [percent(cell) for cell in cells]
        lines.append(f"| {row['name']} | {' | '.join(texts)} | {100 * row['qte_pgd']['mean']:.1f} |")
    lines += [
        "",
        "QTE is the area under accuracy per run over strengths 0, 2, 4, 8, 16/255, divided by the range.",
        "",
        "| PGD, per run | " + " | ".join(["0", *EPS]) + " |",
        "|---|" + "---|" * (len(EPS) + 1),
    ]
    for row in rows:
        values = [row["attacked_clean_per_run"], *(row["pgd"][eps]["per_run"] for eps in EPS)]
        lines.append(f"| {row['name']} | " + " | ".join(f"{100 * v['value']:.1f}" for v in values) + " |")
    lines += [
        "",
        "Operations of one decision without votes: accumulates are synaptic operations; multiply-accumulates",
        "those of the first layer on real-valued frames (once where all are the same), or of an ANN.",
        "",
        "| | accumulates | multiply-accumulates | training, s |",
        "|---|---|---|---|",
    ]
    for row in rows:
        done = row["operations"]
        lines.append(f"| {row['name']} | {done['sop']:,.0f} | {done['mac']:,.0f} | {row['training_s']:.0f} |")
    return "\n".join([*lines, ""])


# %%
def main() -> None:
    """Measure what is not measured yet and write the tables."""
    parser = argparse.ArgumentParser(description="RSC on Fashion-MNIST")
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--work", type=Path, default=Path("runs/reproduce_rsc"))
    parser.add_argument("--only", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--quick", action="store_true", help="digits, tiny sizes: does it run?")
    given = parser.parse_args()
    size = Size(40, 8, 3, 2, 2, 8) if given.quick else Size()
    given.work.mkdir(parents=True, exist_ok=True)
    given.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in given.only:
        config = read_config(CONFIGS / f"fashion_{ROWS[name]}.toml")
        config = msgspec.structs.replace(config, data_root=given.data_root)
        if given.quick:
            config = quick(config)
        stored = given.work / f"{ROWS[name]}{'_quick' * given.quick}.json"
        if not stored.is_file():
            write_atomic(stored, msgspec.json.format(msgspec.json.encode(measure_row(name, config, size))))
        rows.append(msgspec.json.decode(stored.read_bytes()))
        print(f"{name}: clean {percent(rows[-1]['clean_per_run'])}, {rows[-1]['seconds']:.0f} s", flush=True)
    found = {
        "command": "python examples/reproduce_rsc.py --data-root data --out docs/results",
        "size": msgspec.to_builtins(size),
        "made_with": {
            "rsc-snn": __version__,
            "torch": str(torch.__version__),
            "cpu": f"{torch.get_num_threads()} threads of {platform.machine()}",
        },
        "rows": rows,
    }
    name = "quick" if given.quick else "fashion_mnist"
    write_atomic(given.out / f"{name}.json", msgspec.json.format(msgspec.json.encode(found)))
    write_atomic(given.out / f"{name}.md", markdown(found).encode())
    print(f"{given.out / name}.md")


def quick(config: TrainConfig) -> TrainConfig:
    """The same row on digits, one epoch."""
    objective = config.objective
    teacher = msgspec.structs.replace(objective.teacher, epochs=1)
    objective = msgspec.structs.replace(objective, teacher=teacher)
    network = msgspec.structs.replace(config.network, channels=(4, 8))
    return msgspec.structs.replace(config, dataset="digits", epochs=1, network=network, objective=objective)


if __name__ == "__main__":
    main()
