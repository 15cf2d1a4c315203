# %% [markdown]
# # From training to Loihi arithmetic in one page
#
# What `rsc demo` does, as Python calls and in small: train an RSC-II network on scikit-learn's digits, pack
# it, run the same program on every target under the same noise, compare them, count its operations,
# attack it where it is deployed, certify it, and write a report: `python examples/quickstart.py`.

# %%
from pathlib import Path

import msgspec

from rsc import Keys, pipeline
from rsc.bundle import Bundle
from rsc.commands import target_row, twin
from rsc.energy import energy_report
from rsc.evaluation import AttackPlan, Deployed, evaluate
from rsc.hw_targets import deploy, get_target
from rsc.material import Material
from rsc.parity import compare
from rsc.report import Report, conclude, environment, utc_now, write_report
from rsc.robustness.certify import certify
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
targets = []
for spec in ("reference", "torch", "norse", "lava:float", "lava", "loihi"):
    missing = get_target(spec).available()
    if missing is not None:
        print(f"{spec:10} is not here: {missing.reason} {missing.fix}")
        continue
    with deploy(program, on=spec) as model:
        result = model.run(test.images, keys)
    targets.append(target_row(spec, result, Material(data=test), seed=0, model="RSC-II"))
    print(f"{spec:10} accuracy {(result.predictions == test.targets).mean():.3f} ({result.stats.arithmetic})")

parity = []
for pair in (("reference", "torch:float64"), ("loihi", "lava")):
    if all(get_target(spec).available() is None for spec in pair):
        models = [(spec, deploy(program, spec)) for spec in pair]
        parity += compare(program, models, x=test.images, keys=keys)
        print(f"{' and '.join(pair)}: exact {parity[-1].exact}")

# %% [markdown]
# ## Operations and energy

# %%
energy = energy_report(program, result, profiles=["h45-int8", "loihi1-davies2018"])
print(f"{energy.totals.sop:.0f} synaptic operations and {energy.totals.mac:.0f} MACs per inference")
for price in energy.priced:
    if price.energy is not None:
        print(f"{price.profile}: {price.energy.nominal_nj:.0f} nJ, not priced: {', '.join(price.not_priced)}")

# %% [markdown]
# ## Robustness of what is deployed
# Images are made on the differentiable twin with EOT-PGD and replayed on the integer network with
# noise the attack has never seen.

# %%
plan = AttackPlan(eps=("0.1",), steps=10, eot=2, draws=4)
places = [Deployed("loihi", deploy(program, "loihi"))]
robustness = evaluate(twin(program, "RSC-II"), test.images, test.targets, plan, places)
for found in robustness:
    for attack in found.attacks:
        print(f"{found.target:6} {attack.attack} eps {attack.eps_text}: {attack.per_run.value:.3f} per run")

# %% [markdown]
# ## A certificate for the deployed integer network
# No L2 perturbation below the radius changes the vote over the encoder's noise.

# %%
few = test.head(8)
certificate = certify(deploy(program, "loihi"), few.images, few.targets, n=500, samples=few.ids)
for line in certificate.rows[:4]:
    print(f"certified at L2 radius {line.radius:.3f}: {line.certified_accuracy:.2f} of {line.n} images")

# %% [markdown]
# ## The report
# One value; JSON, HTML and Markdown are functions of it, and so are its conclusions.

# %%
report = Report(
    title="Quickstart",
    created=utc_now(),
    environment=environment(),
    command="python examples/quickstart.py",
    targets=tuple(targets),
    parity=tuple(parity),
    energy=(energy,),
    robustness=robustness,
    certificates=(msgspec.structs.replace(certificate, model="RSC-II"),),
)
write_report(conclude(report), OUT)
print(f"report: {OUT / 'report.html'}")
