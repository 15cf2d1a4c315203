"""Each check passes on a sane evaluation and fails on the fault it is there for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest
import torch
from toy_models import Linear, digits, trained

from rsc import data
from rsc.coding import keyed_normal
from rsc.errors import UsageError
from rsc.hw_targets import deploy
from rsc.pipeline import Packed
from rsc.program import EncoderSpec, Program
from rsc.results import Keys
from rsc.robustness.attacks import Fgsm, Pgd, RandomNoise, Square
from rsc.robustness.evaluate import Runs, Scoring
from rsc.robustness.health import CHECKS, check_health
from rsc.robustness.integer import integer_twin
from rsc.robustness.model import ModuleModel, from_module, with_surrogate
from rsc.robustness.predict import Keyed
from rsc.robustness.proving import interval_verifier
from rsc.robustness.results import Accuracy, HealthCheck, Interval
from rsc.robustness.study import Study

RIVALS = (RandomNoise(restarts=4), Square(steps=60))


def study(model: ModuleModel | None = None, **changes: Any) -> Study:
    _, _, x, y = digits()
    options = {
        "eps": 0.15,
        "attack": Pgd(steps=10),
        "black_box": RIVALS,
        "certify_images": 4,
        "certify_n": 200,
        "surrogates": (4.0, 1.0),
    } | changes
    return Study(model or trained(), x[:60], y[:60], **options)


def status(evaluation: Study, check: str) -> str:
    return check_health(evaluation, [check])[0].status


def test_a_sane_evaluation_passes_everything() -> None:
    found = check_health(study())
    assert [c.id for c in found] == [check for check in CHECKS if check not in ("R19", "R20")]
    assert {c.id: c.status for c in found if c.status != "PASS"} == {}
    assert all(c.numbers and not c.next_step for c in found)
    assert msgspec.json.decode(msgspec.json.encode(found), type=tuple[HealthCheck, ...]) == found


def test_a_surrogate_without_gradient_is_found_out() -> None:
    blind = study(with_surrogate(trained(), 0.0))
    found = check_health(blind, ["R4", "R8", "R9", "R12", "R18"])
    assert [c.status for c in found] == ["FAIL"] * 5
    assert all(c.next_step for c in found)


def test_a_surrogate_that_is_too_sharp_is_found_out() -> None:
    sharp = study(with_surrogate(trained(), 2000.0), eot=1)
    sane = study(eot=1)
    assert status(sharp, "R8") in ("WARN", "FAIL")
    assert status(sane, "R8") == "PASS"


def test_a_fixed_seed_is_found_out() -> None:
    def fixed(x: np.ndarray, keys: Keys) -> np.ndarray:
        return Keyed(trained())(x, keys.replace(draw=0, stream="run"))

    assert status(study(predict=fixed), "R2") == "FAIL"


def line(encoder: EncoderSpec) -> tuple[ModuleModel, torch.Tensor, torch.Tensor]:
    """A linear model with images at several distances from its border."""
    linear = Linear(torch.ones(4) / 2, 0.0, encoder)
    model = from_module(lambda frames: linear.core(frames)[None], encoder, (-9.0, 9.0), "last")
    x = torch.linspace(0.1, 0.5, 12)[:, None].expand(12, 4) / 2
    return model, x, torch.zeros(12, dtype=torch.int64)


def test_a_missing_sqrt_t_is_found_out() -> None:
    """The network draws fresh noise per step but is declared to share one: a radius 4 times too large."""
    declared, x, y = line(EncoderSpec("rsc1", 16, 0.5))
    actual, _, _ = line(EncoderSpec("rsc2", 16, 0.5))

    def predict(images: np.ndarray, keys: Keys) -> np.ndarray:
        return Keyed(actual)(images, keys)

    options: dict[str, Any] = {"eps": 0.1, "certify_images": 12, "certify_n": 200}
    assert status(Study(declared, x, y, predict=predict, **options), "R17") == "FAIL"
    assert status(Study(actual, x, y, **options), "R17") == "PASS"


def test_noise_rounded_before_it_is_added_is_found_out() -> None:
    """On a grid of 1/8 the noise leaves the rest of x untouched, so a network can read x exactly."""
    model, x, y = line(EncoderSpec("rsc1", 1, 0.5))
    x = (x * 8).round() / 8 + 0.0005

    def leaky(images: np.ndarray, keys: Keys) -> np.ndarray:
        noise = np.round(0.5 * keyed_normal(keys, 1, images.shape[1:])[0] * 8) / 8
        remainder = np.mod((images + noise).astype(np.float64) * 8 + 0.5, 1) - 0.5
        return (remainder[:, 0] < 0).astype(np.int64)

    found = check_health(Study(model, x, y, 0.1, predict=leaky, certify_images=12), ["R17"])[0]
    assert found.numbers["certified"] == 12
    assert found.status == "FAIL"


def test_a_certificate_check_without_certificates_says_so() -> None:
    model, x, y = line(EncoderSpec("rsc1", 1, 0.5))
    found = check_health(Study(model, x * 0, y, 0.1), ["R17"])[0]
    assert found.status == "WARN"
    assert "Nothing was certified" in found.next_step


def test_a_core_that_looks_at_its_batch_is_found_out() -> None:
    model = trained()
    mixed = dataclasses.replace(model, module=lambda z: model.module(z - z.mean(1, keepdim=True)))
    soft = dataclasses.replace(model, module=lambda z: model.module(z).mean(0).softmax(1)[None])
    assert status(study(mixed), "R15") == "FAIL"
    assert status(study(soft), "R15") == "WARN"


def test_a_core_that_remembers_is_found_out() -> None:
    model, seen = trained(), []

    def leaky(frames: torch.Tensor) -> torch.Tensor:
        seen.append(1)
        return model.module(frames) + len(seen)

    assert status(study(dataclasses.replace(model, module=leaky)), "R15") == "FAIL"


def accuracy(value: float, half: float = 0.02) -> Accuracy:
    return Accuracy(value, 100, Interval(value - half, value + half, 0.95, "wilson"), "per_run", 8)


def stub(per_run: Mapping[Any, float], **fields: Any) -> Study:
    """A study whose accuracies are given: (attack name or "", eps, EOT) -> value."""

    def look(attack: Any, eps: float = 0.0, eot: int | None = None) -> Accuracy:
        return accuracy(per_run[attack.name if attack else "", eps, eot])

    base: dict[str, Any] = {
        "model": trained(),
        "attack": Pgd(),
        "fgsm": Fgsm(),
        "eps": 0.1,
        "eot": 4,
        "strengths": (),
        "per_run": look,
        "predict": None,
        "verify": None,
    }
    return cast(Study, SimpleNamespace(**(base | fields)))


@pytest.mark.parametrize(("zero", "expected"), [(0.9, "PASS"), (0.7, "FAIL")])
def test_noise_counted_as_attack_fails(zero: float, expected: str) -> None:
    assert status(stub({("", 0.0, None): 0.9, ("pgd", 0.0, None): zero}), "R1") == expected


@pytest.mark.parametrize(("far", "expected"), [(0.3, "PASS"), (0.61, "PASS"), (0.7, "FAIL")])
def test_accuracy_that_rises_with_eps_fails(far: float, expected: str) -> None:
    values = {("pgd", 0.0, None): 0.9, ("pgd", 0.1, None): 0.6, ("pgd", 0.2, None): far}
    assert status(stub(values, strengths=(0.1, 0.2)), "R3") == expected


@pytest.mark.parametrize(("value", "expected"), [(0.0, "PASS"), (0.11, "WARN"), (0.3, "FAIL")])
def test_whole_box_above_chance_fails(value: float, expected: str) -> None:
    assert status(stub({("pgd", 1.0, None): value}, whole_box=1.0, classes=10), "R4") == expected


@pytest.mark.parametrize(
    ("iterated", "expected"), [(0.5, "PASS"), (0.605, "PASS"), (0.615, "WARN"), (0.7, "FAIL")]
)
def test_iterating_weaker_than_one_step_fails(iterated: float, expected: str) -> None:
    assert status(stub({("fgsm", 0.1, None): 0.6, ("pgd", 0.1, None): iterated}), "R5") == expected


@pytest.mark.parametrize(("twice", "expected"), [(0.495, "PASS"), (0.45, "WARN")])
def test_unconverged_attacks_warn(twice: float, expected: str) -> None:
    longer = SimpleNamespace(name="longer", steps=40, restarts=2)
    assert (
        status(stub({("pgd", 0.1, None): 0.5, ("longer", 0.1, None): twice}, longer=longer), "R6") == expected
    )
    assert (
        status(stub({("pgd", 0.1, None): 0.5, ("longer", 0.1, None): twice}, restarted=longer), "R11")
        == expected
    )
    assert status(stub({("pgd", 0.1, 4): 0.5, ("pgd", 0.1, 8): twice}), "R7") == expected


@pytest.mark.parametrize(("share", "expected"), [(0, "PASS"), (5, "WARN"), (20, "FAIL")])
def test_zero_gradients_are_counted(share: int, expected: str) -> None:
    slope = torch.ones(100, 3)
    slope[:share] = 0
    assert status(stub({}, half_gradients=(slope, slope)), "R9") == expected


def test_images_broken_only_without_gradients_are_counted() -> None:
    y = np.zeros(10, np.int64)
    main = Runs(np.zeros((1, 10), np.int64), y, "toy", 0, "score", "keyed")
    other = dataclasses.replace(main, classes=np.array([[1, 1, 0, 0, 0, 0, 0, 0, 0, 0]]))

    def runs(attack: Any, eps: float) -> Runs:
        return main if attack.name == "pgd" else other

    found = check_health(
        stub({("pgd", 0.1, None): 1.0}, runs=runs, rivals=(RandomNoise(),), transferred=lambda: other),
        ["R12"],
    )[0]
    assert (found.status, found.numbers["broken only by random"]) == ("FAIL", 2)
    assert found.numbers["broken only by transfer"] == 2


@pytest.mark.parametrize(("fault", "expected"), [(0.0, "PASS"), (0.01, "FAIL")])
def test_images_outside_the_ball_fail(fault: float, expected: str) -> None:
    x = torch.full((4, 3), 0.5)
    found = SimpleNamespace(x=x + 0.0625 + fault)
    fields: dict[str, Any] = {
        "x": x,
        "found": lambda a, e: found,
        "scoring": Scoring(levels=16),
        "eps": 0.0625,
        "rounding": lambda: {"accuracy_before_rounding": 0.5, "accuracy_after_rounding": 0.5},
    }
    assert status(stub({}, **fields), "R14") == expected
    off_grid = fields | {"found": lambda a, e: SimpleNamespace(x=x + 0.03)}
    assert status(stub({}, **off_grid), "R14") == "FAIL"


@pytest.mark.parametrize(("known", "expected"), [(0.5, "PASS"), (0.7, "FAIL")])
def test_knowing_the_noise_must_not_hurt_the_attack(known: float, expected: str) -> None:
    assert status(stub({}, known_noise_accuracy=lambda: (0.6, known)), "R13") == expected


def test_an_attack_that_returns_worse_images_than_the_clean_ones_fails() -> None:
    found = SimpleNamespace(start=torch.ones(4), kept=torch.tensor([2.0, 1.0, 0.5, 3.0]))
    assert status(stub({}, found=lambda a, e: found), "R16") == "FAIL"


@pytest.mark.parametrize(("attacked", "expected"), [(0.1, "PASS"), (0.6, "WARN"), (0.9, "FAIL")])
def test_a_control_that_does_not_break_fails(attacked: float, expected: str) -> None:
    assert status(stub({}, control_accuracy=lambda: (0.95, attacked)), "R18") == expected


def test_checks_without_noise_and_unknown_checks() -> None:
    quiet = dataclasses.replace(trained(), encoder=EncoderSpec("direct", 4))
    assert {c.id for c in check_health(study(quiet, scoring=Scoring(draws=1)))} == set(CHECKS) - {
        "R7",
        "R13",
        "R17",
        "R19",
        "R20",
    }
    with pytest.raises(UsageError, match="R99"):
        check_health(study(), ["R99"])
    with pytest.raises(UsageError, match="need an encoder with noise"):
        check_health(study(quiet), ["R17"])


def test_shared_samples_are_found_out() -> None:
    """A certifier that selects and estimates on the same draws."""

    def careless(model: Any, x: Any, y: Any, *, encoder: EncoderSpec, n0: int, n: int, seed: int) -> Any:
        keys = Keys(seed, np.zeros(n, np.int64), np.arange(n), "estimate")
        model(np.repeat(np.asarray(x), n, 0), keys)

    found = check_health(study(certifier=careless), ["R2"])[0]
    assert found.status == "FAIL"
    assert found.numbers["certificate_draws_shown"] < found.numbers["certificate_draws_claimed"]
    assert "draw anew" in found.next_step
    assert status(study(), "R2") == "PASS"


@pytest.mark.parametrize(("other", "expected"), [(0.495, "PASS"), (0.45, "WARN")])
def test_a_gradient_that_finds_worse_images_warns(other: float, expected: str) -> None:
    found = check_health(
        stub({("pgd", 0.1, None): 0.5}, through=lambda: {"rga": 0.6, "assg": other}), ["R10"]
    )
    assert found[0].status == expected
    assert expected == "PASS" or "assg" in found[0].next_step


def test_a_surrogate_that_is_too_sharp_overstates_robustness_and_is_found_out() -> None:
    sharp = study(with_surrogate(trained(), 300.0), eot=1)
    found = check_health(sharp, ["R10"])[0]
    assert found.status == "WARN"
    assert min(found.numbers["4.0"], found.numbers["1.0"]) < found.numbers["pgd as it is"] - 0.02


def test_a_network_without_switchable_gradients_says_so() -> None:
    assert status(study(surrogates=("rga",)), "R10") == "WARN"


@pytest.mark.parametrize(("share", "expected"), [(1.0, "FAIL"), (0.0, "WARN")])
def test_proofs_that_an_attack_refutes_fail(share: float, expected: str) -> None:
    """A verifier that proves everything, and one that proves nothing."""

    def verify(x: np.ndarray, y: np.ndarray, eps: float, keys: Keys) -> np.ndarray:
        return np.full(len(x), share > 0.5)

    assert status(study(verify=verify), "R19") == expected


def test_proofs_of_a_linear_network_hold() -> None:
    """The exact condition: the score of the worst corner stays positive under the same noise."""
    model, x, y = line(EncoderSpec("rsc2", 4, 0.1))

    def verify(images: np.ndarray, labels: np.ndarray, eps: float, keys: Keys) -> np.ndarray:
        frames = 0.1 * keyed_normal(keys, 4, images.shape[1:]) + images
        return (frames.mean(0) - eps).sum(1) / 2 > 1e-6

    found = check_health(Study(model, x, y, 0.1, verify=verify), ["R19"])[0]
    assert found.status == "PASS"
    assert 0 < found.numbers["proved"] < 4 * len(x)


@pytest.mark.parametrize(("wrong", "expected"), [(0.0, "PASS"), (0.03, "WARN"), (1.0, "FAIL")])
def test_a_target_that_is_not_the_model_is_found_out(wrong: float, expected: str) -> None:
    """Some images in a hundred are answered at random by the target."""

    def target(x: np.ndarray, keys: Keys) -> np.ndarray:
        classes = Keyed(trained())(x, keys)
        changed = (keys.samples % 100) < 100 * wrong
        return np.where(changed, (classes + 1) % 10, classes)

    assert status(study(predict=target), "R20") == expected


def test_losses_that_do_not_fit_the_classes_are_found_out() -> None:
    two, x, y = line(EncoderSpec("rsc2", 4, 0.1))
    found = check_health(Study(two, x, y, 0.1, Pgd(loss="dlr")), ["R15"])[0]
    assert (found.status, found.numbers["classes"], found.numbers["classes_needed"]) == ("FAIL", 2, 3)
    blunt = dataclasses.replace(trained(), differentiable=False)
    assert status(study(blunt), "R15") == "FAIL"


@pytest.mark.parametrize(("levels", "expected"), [(2, "PASS"), (3, "FAIL")])
def test_images_of_eight_bits_are_legal_to_the_level_and_no_further(levels: int, expected: str) -> None:
    """Two float32 pixels next to their levels may differ by a little more than two levels of 1/255."""
    x = torch.arange(254, dtype=torch.float32)[None] / 255
    moved = (torch.arange(254, dtype=torch.float32) + levels).clamp(max=255)[None] / 255
    fields: dict[str, Any] = {
        "x": x,
        "found": lambda a, e: SimpleNamespace(x=moved),
        "scoring": Scoring(levels=255),
        "eps": 2 / 255,
        "rounding": dict,
    }
    assert float((moved.double() - x.double()).max()) > levels / 255
    assert status(stub({}, **fields), "R14") == expected


def test_an_attack_that_moves_nothing_fails() -> None:
    """On a grid of 1/16 no image but the clean one is within 0.03: the accuracy would be the clean one."""
    found = check_health(study(scoring=Scoring(levels=16), eps=0.03), ["R14"])[0]
    assert (found.status, found.numbers["largest_norm"]) == ("FAIL", 0)
    assert "No image was moved" in found.next_step


def test_rounding_is_reported_before_and_after() -> None:
    found = check_health(study(scoring=Scoring(levels=16), eps=2 / 16), ["R14"])[0]
    assert found.status == "PASS"
    assert {"accuracy_before_rounding", "accuracy_after_rounding", "largest_norm", "off_grid"} <= set(
        found.numbers
    )


def test_the_deployed_integers_pass_with_interval_proofs(program: Program, packed: Packed) -> None:
    """R19 and R20 on a real network: the model attacked is the integer twin, the target Loihi's program."""
    twin = integer_twin(program)
    test = data.load("digits", "test").head(20)
    x, y = torch.tensor(test.images), torch.tensor(test.targets).long()
    with deploy(program, "loihi") as target:
        rest = {"scoring": Scoring(2), "predict": target, "verify": interval_verifier(program)}
        evaluation = Study(
            twin, x, y, 1 / 256, Pgd(steps=4), eot=1, black_box=(RandomNoise(restarts=2),), **rest
        )
        found = {c.id: c for c in check_health(evaluation, ["R19", "R20"])}
    assert found["R20"].status == "PASS"
    assert found["R19"].status == "PASS"
    assert found["R19"].numbers["proved"] > 0
