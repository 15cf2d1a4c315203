"""Settings: strict, suggestive, written out whole; schedules and optimisers against torch's own."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from train_tiny import CONFIG, changed, images

from rsc.errors import MalformedFile, RscError, TargetUnavailable, UsageError
from rsc.networks import SpikingSequential
from rsc.training import TrainConfig, fit, read_config
from rsc.training.config import (
    OptimiserConfig,
    ProbeConfig,
    ScheduleConfig,
    ValidationConfig,
    resolved,
)
from rsc.training.ema import averaged, update
from rsc.training.objective import ObjectiveConfig
from rsc.training.optimiser import make_optimiser, moments, parameter_groups, set_moments
from rsc.training.order import batches, held_out
from rsc.training.schedule import learning_rate
from rsc.training.toml import to_toml

EXAMPLES = sorted((Path(__file__).parent.parent / "examples" / "configs").glob("*.toml"))

_texts = st.text().filter(lambda t: not any(0xD800 <= ord(c) < 0xE000 for c in t))
_values = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), _texts),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(_texts, _values, max_size=5))
def test_toml_is_what_the_standard_library_reads(values: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(values)) == values


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_a_resolved_config_is_the_config(path: Path, tmp_path: Path) -> None:
    config = read_config(path)
    (tmp_path / "r.toml").write_text(resolved(config))
    assert read_config(tmp_path / "r.toml") == config
    written = tomllib.loads(resolved(config))
    assert set(TrainConfig.__struct_fields__) - set(written) <= {"data_root", "size"}  # TOML has no null
    assert set(written["schedule"]) == {"kind", "warmup", "final"}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("epcohs = 3", "'epochs'"),
        ("[optimiser]\nacumulate = 2", "'accumulate'"),
        ("[validation]\npatient = 2", "'patience'"),
        ("[schedule]\nkin = 'cosine'", "'kind'"),
        ("[checkpoint]\nsteps = 2", "'every_steps'"),
        ("[optimizer]\nkind = 'sgd'", "'optimiser'"),
        ("[objective]\nterms = [{kind = 'cross_entropy', wieght = 1.0}]", "'weight'"),
        ("[augment]\nqqqq = 1", "crop, cutout, flip"),
        ("[schedule]\nkind = 'cyclic'", "cyclic.*Known: constant, cosine, onecycle"),
        ("[qat]\ntarget = 'lohi'", "Did you mean 'loihi'"),
        ("[encoder]\nkind = 'rcs2'", "Did you mean 'rsc2'"),
        ("[objective]\nterms = [{kind = 'cross_entrpy'}]", "Did you mean 'cross_entropy'"),
        ("[augment]\nflip = 1", "bool"),
    ],
)
def test_unknown_keys_and_wrong_types_are_named(text: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(MalformedFile, match=word):
        read_config(tmp_path / "c.toml")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[optimiser]\nema = 1.0", "ema"),
        ("[optimiser]\naccumulate = 0", "accumulate"),
        ("[schedule]\nwarmup = -1", "warmup"),
        ("[validation]\nfraction = 1.0", "fraction"),
        ("[checkpoint]\nkeep = 0", "keep"),
        ("[robustness]\nevery = 1", "validation.fraction"),
        ("[robustness]\neps = 'much'", "perturbation"),
        ("weight_decay = nan", "weight_decay"),
        ("lr = nan", "lr"),
        ("seed = -1", "seed"),
        ("lr = inf", "lr"),
        ("weight_decay = inf", "weight_decay"),
        ("dt = 0.0", "dt"),
        ("threads = -3", "threads"),
        ("timeout_s = 1e9", "timeout_s"),
        ("[schedule]\nkind = 'cosine'\nwarmup = inf", "warmup"),
        ("[schedule]\nwarmup = 1", "cosine"),
        ("[schedule]\nkind = 'constant'\nfinal = 0.1", "cosine"),
        ("[optimiser]\nbetas = [2.0, 3.0]", "betas"),
        ("[optimiser]\nkind = 'sgd'\nmomentum = 0.0\nnesterov = true", "nesterov"),
        ("[optimiser]\nnesterov = true", "nesterov"),
        ("[encoder]\nsteps = 1000000000", "steps"),
        ("[encoder]\nclip = [1.0, 0.0]", "clip"),
        ("[encoder]\nclip = [nan, 1.0]", "clip"),
        ("[network]\nwidth = inf", "width"),
        ("[qat]\nlr = inf", "lr"),
        ("[objective.teacher]\nlr = inf", "teacher.lr"),
        ("[objective.teacher]\nseed = -1", "teacher.seed"),
        ("[objective.teacher]\nweight_decay = -1", "teacher.weight_decay"),
        ("[objective.teacher]\nlabel_smoothing = 2", "teacher.label_smoothing"),
        ("[objective.retraction]\nseed = -1", "seed"),
        ("[objective.retraction]\nsample_from = 0", "sample_from"),
    ],
)
def test_values_out_of_range_are_named(text: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(UsageError, match=word):
        read_config(tmp_path / "c.toml")


def test_a_config_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("a = " + "[" * 5000 + "]" * 5000)
    with pytest.raises(MalformedFile, match="nested"):
        read_config(tmp_path / "c.toml")


def test_label_smoothing_belongs_to_plain_training() -> None:
    assert changed(label_smoothing=0.1).minimised != ObjectiveConfig()
    objective = ObjectiveConfig(noise_sigma=0.1, terms=(type(CONFIG.objective.terms[0])(on="noisy"),))
    with pytest.raises(UsageError, match="label_smoothing"):
        changed(label_smoothing=0.1, objective=objective)


@pytest.mark.parametrize("total", [1, 2, 3, 4, 10, 63, 500])
def test_onecycle_is_torchs_bit_for_bit(total: int) -> None:
    optimiser = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=5e-3)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=total, cycle_momentum=False)
    for step in range(total):
        assert learning_rate(ScheduleConfig(), 5e-3, step, total, 7) == theirs.get_last_lr()[0]
        optimiser.step()
        theirs.step()


def test_cosine_is_torchs_after_a_linear_warmup() -> None:
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 39, eta_min=0.001)
    how = ScheduleConfig("cosine", warmup=0.5, final=0.01)
    warm = [learning_rate(how, 0.1, k, 45, 10) for k in range(5)]
    assert warm == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    for step in range(5, 45):
        assert learning_rate(how, 0.1, step, 45, 10) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimiser.step()
        theirs.step()


def test_constant_stays_and_short_runs_are_finite() -> None:
    assert {learning_rate(ScheduleConfig("constant"), 0.1, k, 9, 3) for k in range(9)} == {0.1}
    assert learning_rate(ScheduleConfig("cosine", warmup=5), 0.1, 0, 1, 1) == pytest.approx(0.02)
    assert math.isfinite(learning_rate(ScheduleConfig("cosine"), 0.1, 0, 1, 1))


class Learned(nn.Module):
    """A neuron with something to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.zeros(3, 3))


def test_norms_biases_and_neurons_do_not_decay() -> None:
    layers = (nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), Learned(), nn.Linear(2, 2), nn.LayerNorm([2, 2]))
    network = SpikingSequential(*layers)
    names = {id(p): n for n, p in network.named_parameters()}
    decaying, rest = parameter_groups(network, 0.1, "weights")
    assert [names[id(p)] for p in decaying["params"]] == ["0.weight", "3.weight"]
    assert len(rest["params"]) == len(names) - 2
    assert (decaying["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    (everything,) = parameter_groups(network, 0.1, "all")
    assert len(everything["params"]) == len(names)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_moments_survive_the_way_out_and_back(kind: Any) -> None:
    config = changed(optimiser=OptimiserConfig(kind))
    network = nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = make_optimiser(config, network)
    assert moments(optimiser) == {}
    network(torch.ones(1, 2, 5, 5)).sum().backward()
    optimiser.step()
    other = make_optimiser(config, network)
    state = {
        i: {k: v.clone().contiguous() if torch.is_tensor(v) else v for k, v in entry.items()}
        for i, entry in moments(optimiser).items()
    }
    set_moments(other, state)
    for parameter, entry in optimiser.state.items():
        for name, value in entry.items():
            again = other.state[parameter][name]
            assert torch.equal(again, value)
            assert again.stride() == value.stride()


def test_the_average_follows_its_recurrence() -> None:
    linear, norm = nn.Linear(1, 1), nn.BatchNorm1d(1)
    network = nn.Sequential(linear, norm)
    average = averaged(network)
    expected = linear.weight.item()
    for value in (1.0, -2.0, 5.0):
        linear.weight.data.fill_(value)
        norm(torch.tensor([[1.0], [3.0]]))
        update(average, network, 0.9)
        expected = 0.9 * expected + 0.1 * value
    assert average.get_parameter("0.weight").item() == pytest.approx(expected)
    assert int(average.get_buffer("1.num_batches_tracked")) == 3


def test_held_out_images_depend_on_the_seed_alone_and_are_not_trained_on() -> None:
    train, held = held_out(100, 0.2, 3)
    assert sorted([*train, *held]) == list(range(100))
    assert len(held) == 20
    assert held.tolist() == held_out(100, 0.2, 3)[1].tolist() != held_out(100, 0.2, 4)[1].tolist()
    assert sorted(i for b in batches(train, 7, 0, 1) for i in b) == train.tolist()
    with pytest.raises(UsageError, match="fraction"):
        held_out(3, 0.01, 0)


def test_validation_counts_single_runs_and_the_vote() -> None:
    """Against a loop over draws with a forward pass that knows the answer two times out of three."""
    from rsc.program import EncoderSpec
    from rsc.training.distributed import World
    from rsc.training.validate import validate

    calls = 0

    def forward(frames: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        out = torch.zeros(1, frames.shape[1], 3)
        out[..., 1 if calls % 3 else 2] = 1
        return out

    def load(positions: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(len(positions), 1, 2, 2), torch.ones(len(positions), dtype=torch.int64)

    found = validate(forward, EncoderSpec("rsc2", 1, 0.1), load, torch.arange(300).numpy(), 3, 0, World())
    assert found == {"per_run": pytest.approx(2 / 3), "vote": 1.0}


def test_robustness_is_logged_at_its_cadence_by_whoever_measures_it() -> None:
    config = changed(robustness=ProbeConfig(every=2, images=5), validation=ValidationConfig(0.5))
    with pytest.raises(RscError, match="pipeline"):
        fit(config, images())
    seen = []

    def probe(forward: Any, encoder: Any, data: Any, device: Any) -> dict[str, float]:
        seen.append((len(data), forward.training))
        return {"fgsm": 0.25}

    history = fit(config, images(), probe=probe).history
    assert [dict(s.robustness) for s in history] == [{}, {"fgsm": 0.25}] * 2
    assert seen == [(5, False)] * 2


def test_bfloat16_trains_float32_weights() -> None:
    trained = fit(changed(precision="bfloat16"), images())
    assert all(p.dtype == torch.float32 for p in trained.network.parameters())
    assert trained.history[-1].loss != fit(CONFIG, images()).history[-1].loss


def test_reading_ahead_changes_nothing() -> None:
    a, b = fit(CONFIG, images()), fit(changed(workers=3), images())
    assert [s.loss for s in a.history] == [s.loss for s in b.history]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_told() -> None:
    with pytest.raises(TargetUnavailable, match="CUDA"):
        fit(changed(device="cuda"), images())
