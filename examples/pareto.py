# %% [markdown]
# # Accuracy, energy and robustness: a Pareto front on digits
#
# Small RSC-II networks, trained with more and more weight on their synaptic operations, each run for two T.
# Energy comes from exact counts of the held-out run, robustness from EOT-PGD on the deployed twin:
# `python examples/pareto.py` writes the front as `runs/pareto/pareto.svg` and `pareto.csv`; with `--quick` it
# only shows that it runs.

# %%
import csv
import sys
from pathlib import Path

import msgspec

from rsc import pipeline
from rsc.commands import twin
from rsc.evaluation import AttackPlan, evaluate
from rsc.material import Material
from rsc.metering import Metering, meter
from rsc.networks import NetworkSpec
from rsc.report.files_energy import standalone
from rsc.report.plots_energy import Candidate, front, pareto
from rsc.training import EncoderConfig, TrainConfig
from rsc.training.losses import CrossEntropy, SpikeRate
from rsc.training.objective import ObjectiveConfig

OUT, PROFILE, EPS = Path("runs/pareto"), "h45-int8-sram", "0.1"
QUICK = "--quick" in sys.argv
WEIGHTS, STEPS = ((0.0, 3.0), (2,)) if QUICK else ((0.0, 0.3, 3.0), (2, 6))
base = TrainConfig(
    network=NetworkSpec(channels=(8, 16)),
    encoder=EncoderConfig("rsc2", steps=6, sigma=0.3),
    epochs=1 if QUICK else 8,
    batch_size=64,
    threads=1,
)

# %% [markdown]
# ## Train with a price on operations, count, attack
# The term is the share of all synaptic operations that the spikes cause, with exact fan-out maps.

# %%
candidates, rows = [], []
for weight in WEIGHTS:
    terms = (CrossEntropy(), SpikeRate(weight=weight))
    config = msgspec.structs.replace(base, objective=ObjectiveConfig(terms=terms))
    trained = pipeline.train_network(config, pipeline.load_splits(config)[0])
    for steps in STEPS:
        name = f"w {weight:g}, T {steps}"
        packed = pipeline.pack(trained, config, name, pipeline.load_splits(config), steps)
        few = packed.test.head(8 if QUICK else 60)

        assert packed.program is not None
        # count and price it on the target, then attack the deployed twin
        shown = Material(data=packed.test.head(20 if QUICK else 100))
        report = meter(packed.program, "torch", [PROFILE], shown, Metering(seed=1))
        plan = AttackPlan(eps=(EPS,), steps=2 if QUICK else 5, eot=1, draws=2)
        (found,) = evaluate(twin(packed.program, name), few.images, few.targets, plan)
        robust = min((a.per_run for a in found.attacks if a.eps > 0), key=lambda score: score.value)
        clean, energy = packed.clean.per_run, report.priced[0].energy
        assert energy is not None
        scores = {
            "clean": (clean.interval.low, clean.value, clean.interval.high),
            f"robust ({EPS})": (robust.interval.low, robust.value, robust.interval.high),
        }
        prices = (energy.low_nj, energy.nominal_nj, energy.high_nj)
        candidates.append(Candidate(name, prices, scores))
        rows.append([name, report.totals.sop, *prices, clean.value, robust.value])
        accuracies = f"clean {clean.value:.3f} robust {robust.value:.3f}"
        print(f"{name:12} {report.totals.sop:8.0f} SOP {prices[1]:7.0f} nJ {accuracies}")

# %% [markdown]
# ## The fronts

# %%
OUT.mkdir(parents=True, exist_ok=True)
with (OUT / "pareto.csv").open("w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file)
    writer.writerow(["network", "sop", "low_nj", "nominal_nj", "high_nj", "clean", "robust"])
    writer.writerows(rows)
drawing = pareto(candidates, f"Accuracy and robustness over energy ({PROFILE})")
assert drawing is not None
(OUT / "pareto.svg").write_text(standalone(drawing.svg), encoding="utf-8")
for score in candidates[0].scores:
    print(f"front of {score} accuracy: {', '.join(c.label for c in front(candidates, score))}")
