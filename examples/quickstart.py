# %% [markdown]
# # From training to Loihi arithmetic in one page
#
# Train a small RSC-II network on scikit-learn's digits, pack it, run the same program on several
# targets under the same noise, count its operations, and attack it where it is deployed.
# About half a minute on two cores: `python examples/quickstart.py`.

# %%
from pathlib import Path

from rsc import Keys, pipeline
from rsc.bundle import Bundle
from rsc.commands import twin
from rsc.energy import energy_report
from rsc.evaluation import AttackPlan, Deployed, evaluate
from rsc.hw_targets import deploy
from rsc.parity import compare
from rsc.training import EncoderConfig, TrainConfig

OUT = Path("runs/quickstart")

# %% [markdown]
# ## Train and pack
# The encoder (fresh Gaussian noise at each of 8 steps) is part of the program that is deployed.

# %%
config = TrainConfig(encoder=EncoderConfig("rsc2", steps=8, sigma=0.35), epochs=10, threads=1)
packed = pipeline.train(config, "quickstart")
pipeline.to_bundle(packed, config, "quickstart").save(OUT / "bundle")
print(f"clean accuracy {packed.clean.per_run.value:.3f} per run, {packed.clean.vote.value:.3f} by vote")

# %% [markdown]
# ## The same program, the same noise, several machines
# `loihi` is the integer model that equals Lava's fixed-point processes in every spike, u and v.

# %%
program = Bundle.load(OUT / "bundle").program
test = packed.test.head(64)
keys = Keys(seed=0, samples=test.ids)
for spec in ("reference", "torch", "norse", "loihi"):
    with deploy(program, on=spec) as model:
        result = model.run(test.images, keys)
    print(f"{spec:10} accuracy {(result.predictions == test.targets).mean():.3f} ({result.stats.arithmetic})")

models = [(spec, deploy(program, spec)) for spec in ("reference", "torch:float64", "loihi")]
for row in compare(program, models, x=test.images, keys=keys):
    print(f"{row.target_a} and {row.target_b}: exact {row.exact}, same class {row.prediction_agreement}")

# %% [markdown]
# ## Operations and energy

# %%
report = energy_report(program, result, profiles=["h45-int8", "loihi1-davies2018"])
print(f"{report.totals.sop:.0f} synaptic operations and {report.totals.mac:.0f} MACs per inference")
for price in report.priced:
    if price.energy is not None:
        print(f"{price.profile}: {price.energy.nominal_nj:.0f} nJ, not priced: {', '.join(price.not_priced)}")

# %% [markdown]
# ## Robustness of what is deployed
# Images are made on the differentiable twin with EOT-PGD and replayed on the integer network with
# noise the attack has never seen.

# %%
plan = AttackPlan(eps=("0.1",), steps=10, eot=2, draws=4)
places = [Deployed("loihi", deploy(program, "loihi"))]
for found in evaluate(twin(program, "quickstart"), test.images, test.targets, plan, places):
    for attack in found.attacks:
        print(f"{found.target:6} {attack.attack} eps {attack.eps_text}: {attack.per_run.value:.3f} per run")
