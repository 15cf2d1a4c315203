"""E-RSCT: the teacher is made once per configuration, found again, and teaches."""

from __future__ import annotations

import dataclasses
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rsc import data, pipeline
from rsc.bundle import Bundle
from rsc.encoder_spec import EncoderSpec
from rsc.errors import InputRefused, MalformedFile, RscError, UsageError
from rsc.networks import NetworkSpec, build
from rsc.training import teacher as teachers
from rsc.training import teacher_training
from rsc.training.losses import CrossEntropy, Distillation, PreSynaptic
from rsc.training.objective import ObjectiveConfig, ObjectiveContext, build_objective
from rsc.training.progress import Progress
from rsc.training.step import Step
from rsc.training.teacher import TeacherConfig, content_digest, digest_of, get_teacher, twin_of

SPEC = NetworkSpec(channels=(4, 6))
ENCODER = EncoderSpec("rsc2", 4, 0.5, mean=(0.3,), std=(0.4,))
QUICK = TeacherConfig(epochs=2, batch_size=32, lr=0.02)


@pytest.fixture(scope="module")
def train() -> data.Dataset:
    return data.load("digits", "train").head(400)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Notes every training of a teacher."""
    seen: list[Any] = []
    real = teachers.train_teacher

    def noted(*args: Any) -> Any:
        seen.append(args)
        return real(*args)

    monkeypatch.setattr(teachers, "train_teacher", noted)
    return seen


def at(folder: Path, **changes: Any) -> TeacherConfig:
    return msgspec.structs.replace(QUICK, cache=str(folder), **changes)


def test_a_teacher_is_trained_once_and_found_again(
    train: data.Dataset, trainings: list[Any], tmp_path: Path
) -> None:
    first = get_teacher(at(tmp_path / "new"), train, SPEC, ENCODER)
    second = get_teacher(at(tmp_path / "new"), train, SPEC, ENCODER)
    assert len(trainings) == 1
    assert content_digest(first.network.state_dict()) == content_digest(second.network.state_dict())
    assert (first.digest, first.train_accuracy) == (second.digest, second.train_accuracy)
    assert [f.name for f in (tmp_path / "new").iterdir()] == [f"{first.digest}.safetensors"]


def test_another_machine_would_train_the_same_teacher(train: data.Dataset, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = get_teacher(at(tmp_path / "a"), train, SPEC, ENCODER)
    torch.manual_seed(2)
    expected = torch.rand(2)
    torch.manual_seed(2)
    second = get_teacher(at(tmp_path / "b"), train, SPEC, ENCODER)
    assert torch.equal(torch.rand(2), expected)  # the global generator is left alone
    assert content_digest(first.network.state_dict()) == content_digest(second.network.state_dict())


def test_whatever_decides_the_weights_decides_the_digest(train: data.Dataset) -> None:
    def digest(config: TeacherConfig = QUICK, of: data.Dataset = train, **changes: Any) -> str:
        spec, encoder = changes.get("spec", SPEC), changes.get("encoder", ENCODER)
        return digest_of(config, of, twin_of(spec), encoder)

    replace = msgspec.structs.replace
    changed = np.array(train.images)
    changed[3, 0, 4, 4] += 1e-6
    others = [
        digest(replace(QUICK, epochs=3)),
        digest(replace(QUICK, lr=1e-3)),
        digest(replace(QUICK, seed=1)),
        digest(replace(QUICK, sees="coded")),
        digest(of=train.head(399)),
        digest(of=dataclasses.replace(train, images=changed)),
        digest(spec=replace(SPEC, channels=(4, 7))),
        digest(encoder=replace(ENCODER, mean=(0.2,))),
        digest(replace(QUICK, sees="coded"), encoder=replace(ENCODER, sigma=0.4)),
    ]
    assert len({digest(), *others}) == len(others) + 1
    same = [
        digest(replace(QUICK, cache="elsewhere", source="a file")),
        digest(spec=replace(SPEC, decay=0.9, surrogate="triangle")),  # constants that a ReLU has not
        digest(
            encoder=replace(ENCODER, sigma=0.1, steps=9)
        ),  # noise that a teacher of clean images never saw
    ]
    assert set(same) == {digest()}


def test_a_damaged_teacher_is_not_used(train: data.Dataset, tmp_path: Path) -> None:
    found = get_teacher(at(tmp_path), train, SPEC, ENCODER)
    file = tmp_path / f"{found.digest}.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    with pytest.raises(MalformedFile, match="damaged"):
        get_teacher(at(tmp_path), train, SPEC, ENCODER)
    file.write_bytes(whole[:100])
    with pytest.raises(MalformedFile, match="cannot be read"):
        get_teacher(at(tmp_path), train, SPEC, ENCODER)


def test_a_teacher_is_frozen_and_learns(train: data.Dataset, tmp_path: Path) -> None:
    found = get_teacher(at(tmp_path, epochs=6), train, SPEC, ENCODER)
    assert not found.network.training
    assert not any(p.requires_grad for p in found.network.parameters())
    test = data.load("digits", "test")
    x = torch.from_numpy(np.asarray(test.images))
    answer = found(found.quiet_frames(ENCODER, x))
    assert (answer.logits.argmax(1).numpy() == test.targets).mean() > 0.8
    assert found.train_accuracy is not None
    assert found.train_accuracy > 0.8
    assert [tuple(c.shape[1:]) for c in answer.currents] == [(4, 8, 8), (6, 4, 4)]


def test_clean_frames_are_the_images_normalised(train: data.Dataset) -> None:
    x = torch.from_numpy(np.asarray(train.images[:3]))
    frames = teachers.Teacher.quiet_frames(ENCODER, x)
    assert frames.shape == (1, *x.shape)
    assert torch.allclose(frames[0], (x - 0.3) / 0.4)


def test_a_given_state_is_the_teacher(train: data.Dataset, trainings: list[Any], tmp_path: Path) -> None:
    ann = build(twin_of(SPEC), (1, 8, 8), 10)
    save_file(ann.state_dict(), tmp_path / "ann.safetensors")
    found = get_teacher(TeacherConfig(source=str(tmp_path / "ann.safetensors")), train, SPEC, ENCODER)
    assert not trainings
    assert found.digest == content_digest(ann.state_dict())
    x = torch.rand(2, 1, 1, 8, 8)
    assert torch.equal(found(x).logits, ann.eval()(x).mean(0))


def test_a_stored_teacher_can_be_given_as_a_file(train: data.Dataset, tmp_path: Path) -> None:
    stored = get_teacher(at(tmp_path), train, SPEC, ENCODER)
    file = tmp_path / f"{stored.digest}.safetensors"
    given = get_teacher(TeacherConfig(source=str(file)), train, SPEC, ENCODER)
    assert content_digest(given.network.state_dict()) == content_digest(load_file(file))


def test_what_is_no_twin_is_refused(
    train: data.Dataset, packed: pipeline.Packed, small_config: Any, tmp_path: Path
) -> None:
    save_file(build(twin_of(NetworkSpec(channels=(4,))), (1, 8, 8), 10).state_dict(), tmp_path / "a")
    with pytest.raises(InputRefused, match="not the twin"):
        get_teacher(TeacherConfig(source=str(tmp_path / "a")), train, SPEC, ENCODER)
    with pytest.raises(MalformedFile, match="cannot be read"):
        get_teacher(TeacherConfig(source=str(tmp_path / "none")), train, SPEC, ENCODER)
    pipeline.to_bundle(packed, small_config, "snn").save(tmp_path / "snn")
    with pytest.raises(InputRefused, match="neuron 'lif'"):
        get_teacher(TeacherConfig(source=str(tmp_path / "snn")), train, SPEC, ENCODER)


def test_a_bundle_of_an_ann_is_a_teacher(
    train: data.Dataset, packed: pipeline.Packed, tmp_path: Path
) -> None:
    ann = build(twin_of(SPEC), (1, 8, 8), 10)
    state = {name: value.numpy() for name, value in ann.state_dict().items()}
    assert packed.program is not None
    Bundle("ann", packed.program, state, {"network": {"neuron": "relu"}}).save(tmp_path / "ann")
    found = get_teacher(TeacherConfig(source=str(tmp_path / "ann")), train, SPEC, ENCODER)
    assert found.digest == content_digest(ann.state_dict())


def test_event_frames_have_no_teacher(train: data.Dataset) -> None:
    with pytest.raises(UsageError, match="event frames"):
        get_teacher(QUICK, dataclasses.replace(train, frames=True), SPEC, ENCODER)


def test_a_teacher_that_diverges_says_so(train: data.Dataset, tmp_path: Path) -> None:
    with pytest.raises(RscError, match="teacher stopped"):
        get_teacher(at(tmp_path, lr=1e38), train, SPEC, ENCODER)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sees", ["clean", "coded"])
def test_a_stopped_training_goes_on_bit_for_bit(
    sees: str, train: data.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_training, "SAVE_EVERY_S", 0.0)
    seen: list[tuple[int, int]] = []

    def stop_after(n: int) -> Any:
        def watch(progress: Progress) -> None:
            assert progress.what == "teacher"
            seen.append((progress.epoch, progress.step))
            if len(seen) == n:
                raise KeyboardInterrupt

        return watch

    whole = get_teacher(at(tmp_path / "a", sees=sees), train, SPEC, ENCODER)
    for stop in (5, 16):  # in the first and in the second epoch of 13 steps each
        with pytest.raises(KeyboardInterrupt):
            get_teacher(at(tmp_path / "b", sees=sees), train, SPEC, ENCODER, watcher=stop_after(stop))
    unfinished = next((tmp_path / "b").glob("*.unfinished"))
    assert [p.suffix for p in (tmp_path / "b").iterdir()] == [".unfinished"]
    resumed = get_teacher(at(tmp_path / "b", sees=sees), train, SPEC, ENCODER, watcher=stop_after(0))
    # a step that was done and not saved is done again
    assert seen == [(1, k) for k in (*range(1, 6), *range(5, 14))] + [(2, 1), (2, 2)] + [
        (2, k) for k in range(2, 14)
    ]
    assert content_digest(resumed.network.state_dict()) == content_digest(whole.network.state_dict())
    assert resumed.train_accuracy == whole.train_accuracy
    assert not unfinished.exists()
    unfinished.write_bytes(b"damaged")
    next((tmp_path / "b").glob("*.safetensors")).unlink()
    again = get_teacher(at(tmp_path / "b", sees=sees), train, SPEC, ENCODER)
    assert content_digest(again.network.state_dict()) == content_digest(whole.network.state_dict())


def test_of_several_processes_one_trains_the_teacher(
    train: data.Dataset, trainings: list[Any], tmp_path: Path
) -> None:
    with ThreadPoolExecutor(2) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it waits
        both = [pool.submit(get_teacher, at(tmp_path), train, SPEC, ENCODER) for _ in range(2)]
        first, second = (found.result() for found in both)
    assert len(trainings) == 1
    assert first.digest == second.digest
    assert [p.suffix for p in tmp_path.iterdir()] == [".safetensors"]


def test_only_objectives_that_need_a_teacher_have_one(
    train: data.Dataset, trainings: list[Any], tmp_path: Path
) -> None:
    context = ObjectiveContext(train, SPEC, ENCODER)
    assert build_objective(ObjectiveConfig(teacher=at(tmp_path)), context).facts == {}
    assert not trainings
    config = ObjectiveConfig(terms=(CrossEntropy(), Distillation()), teacher=at(tmp_path))
    facts = build_objective(config, context).facts
    assert len(trainings) == 1
    assert (tmp_path / f"{facts['teacher_digest']}.safetensors").exists()


@pytest.mark.parametrize("sees", ["clean", "coded"])
def test_students_move_towards_the_teacher(train: data.Dataset, tmp_path: Path, sees: str) -> None:
    """Both parts of E-RSCT shrink on images held out from the student, whose labels it never sees."""
    teacher = at(tmp_path, sees=sees, epochs=6)
    terms = (Distillation(temperature=2.0), PreSynaptic(reading="currents", weight=0.1))
    objective = build_objective(
        ObjectiveConfig(terms=terms, teacher=teacher), ObjectiveContext(train, SPEC, ENCODER)
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build(SPEC, (1, 8, 8), 10)
    x, y = torch.from_numpy(np.asarray(train.images)), torch.from_numpy(train.targets)
    generator = torch.Generator().manual_seed(0)

    def held_out() -> dict[str, float]:
        of = Step(net.eval(), ENCODER, x[300:], y[300:], torch.Generator().manual_seed(9))
        with torch.no_grad():
            parts = objective.evaluate(of).parts
        net.train()
        return {name: value.item() for name, value in parts.items()}

    before, optimiser = held_out(), torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(8):
        for rows in torch.arange(300).split(60):
            loss, _ = objective(Step(net, ENCODER, x[rows], torch.zeros_like(y[rows]), generator))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    after = held_out()
    assert list(after) == ["distillation/clean", "pre_synaptic/clean"]
    assert after["distillation/clean"] < before["distillation/clean"] / 1.5
    assert after["pre_synaptic/clean"] < before["pre_synaptic/clean"]
