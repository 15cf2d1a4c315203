"""A small hand-made report that fills every section; names are the caller's, so that they can be hostile."""

from __future__ import annotations

from rsc.energy.results import (
    AnnComparison,
    Conventions,
    DataInterval,
    EncoderCounts,
    Energy,
    EnergyClass,
    EnergyReport,
    LayerCounts,
    LayerEnergy,
    LayerMeans,
    PricedProfile,
    Ratio,
    StaticEnergy,
    Totals,
)
from rsc.energy.values import CurvePoint, MeasuredEnergy, Swing, Traffic
from rsc.parity_results import Agreement, NodeParity, ParityRow, Place
from rsc.report import (
    DatasetInfo,
    Environment,
    InferenceCost,
    ModelSection,
    QuantisedLayer,
    Report,
    TargetRow,
    TrainingSummary,
)
from rsc.robustness.results import (
    Accuracy,
    AttackRow,
    CertifiedImage,
    CertifyReport,
    CertifyRow,
    Conversion,
    Curve,
    Guarantee,
    HealthCheck,
    Interval,
    PairedDifference,
    RobustnessReport,
    Scores,
    Transfer,
    Voted,
)
from rsc.robustness.verify_results import VerifiedImage, VerifyReport, VerifyRow

HOSTILE = "<script>alert(1)</script>|`x` </pre> ${y} [a](http://b) $\\frac$ _u_ & \x1b[31m\u202e\U0001f600"


def accuracy(value: float, half: float = 0.04, kind: str = "per_run") -> Accuracy:
    ends = Interval(max(0.0, value - half), min(1.0, value + half), 0.95, "wilson")
    return Accuracy(value, 500, ends, kind, 16)  # type: ignore[arg-type]


def scores(value: float, half: float = 0.04) -> Scores:
    worst = accuracy(value / 2, half, "worst_of")
    return Scores(accuracy(value, half), accuracy(value, half, "vote"), worst, 77, "score")


def attack(model: str, eps: int, value: float, target: str = "torch", made: str = "", half: float = 0.04):
    name = "transfer" if made else "pgd"
    return AttackRow(
        target, model, "linf", eps / 255, f"{eps}/255", name, 40, 2, 16, "fresh", "atan",
        scores(value, half), scores(0.97), 11, eps / 255, crafted_on=made,
    )  # fmt: skip


def robustness(model: str, values: dict[int, float], half: float = 0.04) -> RobustnessReport:
    rows = tuple(attack(model, eps, value, half=half) for eps, value in values.items())
    checks = (
        HealthCheck("R1", "nothing changes at eps 0", "PASS", {"clean": 0.971, "eps 0": 0.972}),
        HealthCheck("R8", "gradients agree", "WARN", {"cosine": 0.44}, "Use a wider surrogate."),
    )
    return RobustnessReport(
        "torch", model, scores(0.97), rows, (Curve(rows, 0.1523, 0.607),), checks=checks,
        not_tried=("attack square", f"attack {model}", "gradient hart"),
    )  # fmt: skip


def certificate(encoder: str, steps: int) -> CertifyReport:
    row = CertifyRow(0.125, 0.612, 50, Interval(0.471, 0.735, 0.95, "wilson"), 0.0156)
    image = CertifiedImage(3, 1, 1, 0.987, 0.21, False)
    return CertifyReport(
        "sigma/sqrt(T)*Phi^-1(pA)", encoder, 0.25, steps, 100, 10000, 0.001, 5, "keyed", 0.05, 4, 2, 0.33,
        (image,), (row,), (Guarantee(0.125, 0.58, {1: 0.58, 5: 0.66}),), "torch",
    )  # fmt: skip


def coins(name: str) -> CertifyReport:
    """A certificate in another norm, with everything that may be said beside it."""
    row = CertifyRow(0.0625, 0.553, 50, Interval(0.414, 0.684, 0.95, "wilson"), 0.00098)
    return CertifyReport(
        "1-(3/2-pA)^(1/T)", "bernoulli", 0.0, 4, 100, 10000, 0.0005, 6, "keyed", 0.025, 1, 3, 0.11,
        (CertifiedImage(5, 2, 2, 0.91, 0.07, False),), (row,), (Guarantee(0.0625, 0.5, {1: 0.5}),), "lava",
        name, norm="l1", soundness="integer", promises=("The vote keeps its class.",),
        limits=(f"{name} is known.",), advice=("A radius of 2 takes 5,000 draws.",), squared_levels=(17,),
        off_grid=7, together=True,
        conversions=(Conversion(0.0625, 0.00098, 0.0078, 0.0625),),
        transfer=Transfer("loihi", "lava", 700, 13, 21, 35000, 0.0123, 0.011),
        voted=Voted((2,), 300, 0.001, 6, "vote", "keyed", 9, "lava", 0.86, 0.02, row.interval),
    )  # fmt: skip


def verification(name: str, noise: bool = True) -> VerifyReport:
    """Two radii; at the larger nothing is certified."""
    ends = Interval(0.471, 0.735, 0.95, "wilson")
    of: dict[str, Interval] = dict.fromkeys(("per_run", "certified", "by_noise", "either", "majority"), ends)
    rows = (
        VerifyRow(1 / 255, "1/255", 50, 0.61, 0.58, 0.33, 0.6, 0.62, of, 0.07, 0.71, 0.09, 0.2),
        VerifyRow(8 / 255, "8/255", 50, 0.02, 0.0, 0.0, 0.0, 0.0, of, 0.31, 0.3, 0.05, 0.65),
    )
    image = VerifiedImage(3, 1, 1, 97, (88, 0), (1, 9), (700, 300), (90, 50), (200, 650))
    alpha, draws, refine = (0.001, 100, 2.5) if noise else (0.0, 1, 0.0)
    return VerifyReport(
        "loihi", name, "b" * 64, "integer", "rsc2" if noise else "direct", 8, 0.25 if noise else 0.0, draws,
        60, alpha, 19, 0.05 if noise else 0.0, accuracy(0.955), rows, (image,), f"What {name} promises.",
        10000, 41.5, refine,
    )  # fmt: skip


def energy(node: str, digest: str, ratio: Ratio | None = None, lower_bound: bool = False) -> EnergyReport:
    total, zero = Energy(348.6, 428.9, 572.5), LayerMeans(9674.0, 9500.5, 1234.0, 384.0, 81.0, 2480.0)
    layer = LayerCounts(
        node, "Conv2d", (16, 8, 8), zero, params=144, synapses=7744, neurons=1024, sop=4837000, rate=0.033
    )
    data = DataInterval("sop", "operations", 500, 9674.0, 9601.0, 9747.0, 8001.0, 9650.0, 11004.0)
    static = StaticEnergy(104.3, 104.4, 104.4, 1.0, 1e-5, Energy(8344.0, 8352.0, 8352.0))
    price = PricedProfile(
        "toy45", "45 nm", "A paper, Table 2", ("measured",), "op+mem", "sop", total, total,
        (EnergyClass("synapses", total, 0.87),), (LayerEnergy(node, total),), data, ("encoder draws",),
        lower_bound, static, "10.1000/182", 45.0, 0.9,
        tornado=(Swing(node, "model", 301.0, 611.0), Swing("sop", "cost", 398.0, 455.0)),
        traffic=(Traffic(node, "weights", 77400.0, 77400.0, 88100.0),),
    )  # fmt: skip
    ratios = (Ratio("ops", 0.4, 0.4, 0.4, 0.31, 0.52), ratio or Ratio("all", None, 2.0, 5.0, 1.49, 5.25))
    ann = AnnComparison("toy45", "toy45", 8, 74816, 9872, 1600, Energy(17.2, 22.4, 22.4), ratios)
    return EnergyReport(
        "loihi", 500, 8, 1, (layer,),
        Totals(9674.0, 9500.5, 1234.0, 154.25, 2480.0, 81.0, 74816, 1.55, 0.033, 0.012),
        EncoderCounts("rsc2", 512, 0, 512, 1024, 64), (data,), (price,), (ann,), Conventions(),
        ("late spikes are not delivered",), digest,
        curve=tuple(
            CurvePoint(t, 1209.0 * t, 1187.5 * t, (("toy45", 53.5 * t),), value, value - 0.04, value + 0.02)
            for t, value in ((1, 0.5), (2, 0.75), (8, 0.955))
        ),
        measured=(MeasuredEnergy("RAPL", "package-0", 61.5, 2.5, 4000, 15375000.0, 11.5),),
        not_measured=("NVML is not readable here.",),
    )  # fmt: skip


def parity(exact: bool = False) -> ParityRow:
    node = NodeParity(
        "lif1", "v", 458752, 0 if exact else 41321, 0.0 if exact else 2.4e-7, None if exact else Place(12, 5)
    )
    return ParityRow(
        "reference", "torch", 64, 8, True, exact, (node,), Agreement(0.984, 64, 0.917, 0.997), 3.2e-7, 7
    )


def sample(name: str = "RSC-II", other: str = "direct SNN") -> Report:
    """Every section filled."""
    model = ModelSection(
        name, "rsc", f"made of {name}", {"kind": "rsc2", "steps": 8, "sigma": 0.25, "clip": [0.0, 1.0]},
        accuracy(0.97), accuracy(0.98, kind="vote"), TrainingSummary(3, (2.1, 0.9, 0.4), 63.2, 0), 9872,
        InferenceCost(16, 19744.0, 154784.0, 39680.0, 8192.0), "a" * 64,
    )  # fmt: skip
    rival = ModelSection(other, "direct", "no noise", {"kind": "direct", "steps": 8}, accuracy(0.975))
    deployed = RobustnessReport(
        "loihi",
        name,
        scores(0.955),
        (attack(name, 8, 0.6, "loihi", made=f"{name} on torch"),),
        differences=(
            PairedDifference(
                f"{name} on torch", f"{name} on loihi", 500, 16, -0.009,
                Interval(-0.015, -0.003, 0.95, "bootstrap over images"), -0.006, 5, 2, 0.4531, 131, 8000,
            ),
        ),
    )  # fmt: skip
    return Report(
        title=f"A report on {name}",
        created="2026-11-23T07:00:00Z",
        environment=Environment("3.11.7", "Linux x86_64", 2, 1, {"rsc-snn": "0.1.0", "torch": "2.15.0"}),
        command=f"rsc report runs --note '{name}'",
        config={"encoder": {"kind": "rsc2", "sigma": 0.25}, "note": name, "epochs": 3},
        dataset=DatasetInfo("digits", 1297, 500, (0.0, 1.0), (name, "1", "2")),
        models=(model, rival),
        targets=(
            TargetRow(
                "torch", True, "2.15.0", "float32", 500, accuracy(0.97), 0.155, 0.31, model=name, seed=7
            ),
            TargetRow("loihi", True, "0.1.0", "integer", 500, accuracy(0.955), 0.95, 1.9, model=name, seed=7),
            TargetRow("lava", False, reason="There is no lava-nc.", fix="Install it."),
        ),
        parity=(parity(), parity(exact=True)),
        quantisation=(QuantisedLayer(name, 241.3, 8, 0.0041, 0.0018, 0.0003, 2, name, "loihi"),),
        energy=(energy(name, "a" * 64),),
        robustness=(
            robustness(name, {8: 0.612, 16: 0.4}),
            robustness(other, {8: 0.31, 16: 0.39}),
            deployed,
        ),
        certificates=(certificate("rsc2", 8), coins(name)),
        verification=(verification(name),),
        not_done=(f"No chip was used with {name}.",),
    )
