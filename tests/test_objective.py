"""Objectives are sums of terms over shared passes, and values that files hold."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import torch.nn.functional as F
from loss_steps import Affine, network, replay, step

from rsc.errors import RscError, UsageError
from rsc.networks import NetworkSpec
from rsc.training.losses import (
    AnyTerm,
    Attack,
    CrossEntropy,
    Distillation,
    GradientSparsity,
    PreSynaptic,
    SpikeRate,
    Tet,
    Trades,
)
from rsc.training.objective import Objective, ObjectiveConfig
from rsc.training.retraction import Retraction, retract
from rsc.training.teacher import Teacher, TeacherConfig
from rsc.training.toml import to_toml

DOCS = Path(__file__).parent.parent / "docs" / "training_losses.md"
ATTACK = Attack(eps=0.1, step=0.05, steps=2)


class File(msgspec.Struct, forbid_unknown_fields=True):
    objective: ObjectiveConfig


EVERYTHING = ObjectiveConfig(
    terms=(
        CrossEntropy(weight=0.5, label_smoothing=0.1),
        CrossEntropy(on="noisy"),
        Tet(on="adversarial"),
        Distillation(),
        PreSynaptic(reading="currents"),
        PreSynaptic(on="adversarial"),
        Trades(),
        GradientSparsity(on="adversarial"),
        SpikeRate(),
        SpikeRate(weighting="neuron"),
    ),
    noise_sigma=0.1,
    attack=ATTACK,
    retraction=Retraction(),
)


def ann() -> Teacher:
    return Teacher(network(NetworkSpec("mlp", (9, 7), "relu"), seed=5).eval(), "clean", "given")


def test_the_default_is_cross_entropy_of_the_mean_output_to_the_last_bit() -> None:
    of = step()
    again = replay(of)
    loss, logits = Objective(ObjectiveConfig())(again())
    expected = again().outputs().mean(0)
    assert loss.item() == F.cross_entropy(expected, of.y).item()
    assert torch.equal(logits, expected)
    assert not logits.requires_grad


def test_the_loss_is_the_weighted_sum_of_its_parts() -> None:
    found = Objective(EVERYTHING, ann()).evaluate(step())
    weights = [term.weight for term in EVERYTHING.terms]
    total = sum(w * float(v) for w, v in zip(weights, found.parts.values(), strict=True))
    assert found.loss.item() == pytest.approx(total)
    assert list(found.parts)[-2:] == ["spike_rate/clean#1", "spike_rate/clean#2"]
    assert not any(v.requires_grad for v in found.parts.values())


def test_terms_do_not_change_each_other() -> None:
    """Each term alone, on the same images and noise, has the value that it has in company."""
    again = replay(step())
    terms: tuple[AnyTerm, ...] = (CrossEntropy(), Tet(), GradientSparsity(), SpikeRate(), PreSynaptic())
    together = list(Objective(ObjectiveConfig(terms=terms)).evaluate(again()).parts.values())
    for term, value in zip(terms, together, strict=True):
        assert Objective(ObjectiveConfig(terms=(term,)))(again())[0].item() == pytest.approx(
            term.weight * value.item(), rel=1e-12
        )


@pytest.mark.parametrize(
    ("terms", "runs"),
    [
        ((CrossEntropy(), Tet(), PreSynaptic()), 1),
        ((CrossEntropy(on="adversarial"),), 2 + 1),
        ((CrossEntropy(), Trades(), Tet(on="adversarial")), 2 + 2),
        ((CrossEntropy(), GradientSparsity()), 2),
        ((CrossEntropy(), CrossEntropy(on="noisy"), Trades(on="noisy")), 2),
    ],
)
def test_passes_are_shared(terms: tuple[AnyTerm, ...], runs: int) -> None:
    of = step(Affine())
    kinds = {kind for term in terms for kind in term.inputs}
    config = ObjectiveConfig(
        terms=terms,
        attack=ATTACK if "adversarial" in kinds else None,
        noise_sigma=0.1 if "noisy" in kinds else 0.0,
    )
    Objective(config)(of)
    assert of.network.runs == runs  # type: ignore[union-attr]


def test_accuracy_is_counted_on_clean_images_where_there_are_any() -> None:
    of = step()
    again = replay(of)
    clean = again().outputs().mean(0)
    terms = (Trades(), CrossEntropy())
    assert torch.allclose(Objective(ObjectiveConfig(terms=terms, attack=ATTACK))(again())[1], clean)
    only = ObjectiveConfig(terms=(CrossEntropy(on="adversarial"),), attack=ATTACK)
    assert not torch.allclose(Objective(only)(again())[1], clean)


def test_the_same_generator_gives_the_same_step() -> None:
    again = replay(step())
    first, second = (Objective(EVERYTHING, ann())(again()) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_half_precision_changes_no_gradient_by_much() -> None:
    """Autocast keeps cast weights; a run without gradients must not leave its own to the others."""
    net, gradients = network().float(), []
    terms = (CrossEntropy(), CrossEntropy(on="adversarial"))
    attack = Attack(eps=0.1, step=0.2, steps=1, start="uniform", loss="kl")
    for half in (False, True):
        of = step(net)
        of = dataclasses.replace(of, x=of.x.float())
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss, _ = Objective(ObjectiveConfig(terms=terms, attack=attack))(of)
        loss.backward()
        gradients.append([p.grad.flatten().clone() for p in net.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) == len(list(net.parameters()))
    assert all(F.cosine_similarity(a, b, dim=0) > 0.9 for a, b in zip(*gradients, strict=True))


def test_later_steps_see_other_noise() -> None:
    of = step()
    objective = Objective(ObjectiveConfig(terms=(CrossEntropy(), GradientSparsity())))
    assert objective(of)[0] != objective(of)[0]


def test_the_retraction_follows_each_update_and_goes_on_after_a_resume() -> None:
    def after(objective: Objective, net: torch.nn.Module, times: int) -> torch.Tensor:
        for _ in range(times):
            objective.after(net)
        return net.weight.detach()  # type: ignore[union-attr,return-value]

    def layer() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Linear(8, 220)

    how = Retraction(beta=0.01)
    with torch.random.fork_rng():
        whole = after(Objective(ObjectiveConfig(retraction=how)), layer(), 5)
        part = Objective(ObjectiveConfig(retraction=how))
        net = layer()
        after(part, net, 2)
        resumed = Objective(ObjectiveConfig(retraction=how))
        resumed.load_state(msgspec.json.decode(msgspec.json.encode(part.state())))
        assert torch.equal(after(resumed, net, 3), whole)
        by_hand = layer()
        for k in range(1, 6):
            retract(by_hand, how, k)
        assert torch.equal(by_hand.weight, whole)  # type: ignore[arg-type]
        untouched = layer()
        assert torch.equal(after(Objective(ObjectiveConfig()), untouched, 3), layer().weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("state", [{}, {"updates": -1}, {"updates": "1"}, {"updates": 1, "more": 2}])
def test_a_foreign_state_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(RscError, match="state of the objective"):
        Objective(ObjectiveConfig()).load_state(state)


def test_files_hold_every_knob_and_give_it_back() -> None:
    plain = msgspec.to_builtins(EVERYTHING)
    text = to_toml({"objective": plain})
    assert msgspec.toml.decode(text, type=File).objective == EVERYTHING
    assert msgspec.json.decode(msgspec.json.encode(EVERYTHING), type=ObjectiveConfig) == EVERYTHING
    for term in EVERYTHING.terms:
        written = next(t for t in plain["terms"] if t["kind"] == term.__struct_config__.tag)
        assert set(written) == {"kind", *term.__struct_fields__}
    assert set(plain["attack"]) == set(Attack.__struct_fields__)
    assert set(plain["teacher"]) == set(TeacherConfig.__struct_fields__)


BLOCKS = re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)


@pytest.mark.parametrize("text", BLOCKS, ids=range(len(BLOCKS)))
def test_documented_recipes_can_be_trained_with(text: str) -> None:
    config = msgspec.toml.decode(text, type=File).objective
    objective = Objective(config, ann() if config.with_need("teacher") else None)
    of = step()
    loss, _ = objective(of)
    loss.backward()
    assert torch.isfinite(loss)
    objective.after(of.network)


def test_the_documentation_has_recipes_and_names_every_loss() -> None:
    text = DOCS.read_text()
    assert len(BLOCKS) >= 5
    for term in AnyTerm.__args__:  # type: ignore[attr-defined]
        assert f"`{term.__struct_config__.tag}`" in text


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: ObjectiveConfig(terms=()), "no terms"),
        (lambda: ObjectiveConfig(terms=(CrossEntropy(weight=0.0),)), "weight 0"),
        (lambda: ObjectiveConfig(terms=(CrossEntropy(on="adversarial"),)), "has not got an attack"),
        (lambda: ObjectiveConfig(terms=(Trades(),)), "has not got an attack"),
        (lambda: ObjectiveConfig(terms=(CrossEntropy(on="noisy"),)), "noise_sigma"),
        (lambda: ObjectiveConfig(attack=ATTACK), "No term looks at adversarial"),
        (lambda: ObjectiveConfig(noise_sigma=0.1), "No term looks at noisy"),
        (lambda: ObjectiveConfig(noise_sigma=-0.1), "noise_sigma is -0.1"),
        (lambda: TeacherConfig(epochs=0), "teacher.epochs"),
    ],
)
def test_objectives_that_contradict_themselves_are_refused(make: object, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('[objective]\nterms = [{kind = "cross_entropi"}]', "cross_entropi"),
        ('[objective]\nterms = [{kind = "tet", lambda = 1.0}]', "lambda"),
        ('[objective]\nterms = [{kind = "tet", on = "dirty"}]', "dirty"),
        ("[objective]\nnoise = 1.0", "noise"),
    ],
)
def test_unknown_names_in_files_are_errors(text: str, word: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=word):
        msgspec.toml.decode(text, type=File)


def test_terms_of_a_teacher_need_one() -> None:
    with pytest.raises(UsageError, match="no teacher"):
        Objective(ObjectiveConfig(terms=(Distillation(),)))(step())
