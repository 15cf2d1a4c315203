"""Every loss is its formula, written out by hand in numpy, and has a gradient."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from loss_steps import CLASSES, SHAPE, SPEC, Affine, cross_entropy, kl, network, replay, step
from torch import Tensor, nn

from rsc.encoder_spec import EncoderSpec
from rsc.errors import UsageError
from rsc.networks import NetworkSpec, Residual, SpikingSequential, build
from rsc.neurons import LIF
from rsc.training.losses import (
    AnyTerm,
    Attack,
    CrossEntropy,
    Distillation,
    GradientSparsity,
    Passes,
    PreSynaptic,
    SpikeRate,
    Tet,
    Trades,
)
from rsc.training.losses.distillation import softened_kl
from rsc.training.losses.presynaptic import current_gap
from rsc.training.losses.recording import neuron_modules, recording
from rsc.training.losses.spike_rate import fan_out_maps, operation_share
from rsc.training.step import Step
from rsc.training.teacher import Teacher


def value(term: AnyTerm, of: Step, teacher: Teacher | None = None) -> Tensor:
    needs = term.needs
    return term.value(
        Passes(
            of,
            0.2,
            Attack(eps=0.1, step=0.05),
            recorded=frozenset({term.on} if needs & {"currents", "spikes", "readout"} else ()),
            differentiated=frozenset({term.on} if "image gradient" in needs else ()),
            teacher=teacher,
        )
    )


def outputs(of: Step) -> np.ndarray:
    return replay(of)().outputs().detach().numpy()


def a_teacher(sees: str = "clean") -> Teacher:
    return Teacher(network(NetworkSpec("mlp", SPEC.channels, "relu"), seed=5).eval(), sees, "")


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_is_that_of_the_mean_output(smoothing: float) -> None:
    of = step()
    expected = cross_entropy(outputs(of).mean(0), of.y.numpy(), smoothing)
    assert value(CrossEntropy(label_smoothing=smoothing), of).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_tet_is_the_mean_over_steps_and_a_pull_to_phi(smoothing: float) -> None:
    of = step()
    z, y = outputs(of), of.y.numpy()
    per_step = np.mean([cross_entropy(z_t, y, smoothing) for z_t in z])
    expected = 0.7 * per_step + 0.3 * np.mean((z - 0.4) ** 2)
    found = value(Tet(lamb=0.3, phi=0.4, label_smoothing=smoothing), of)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_tet_of_outputs_that_do_not_change_is_cross_entropy() -> None:
    of = step(Affine(), sigma=0.0)
    assert value(Tet(lamb=0.0), of).item() == pytest.approx(value(CrossEntropy(), of).item(), rel=1e-12)


def test_tet_exceeds_cross_entropy_of_the_mean() -> None:
    """Jensen: cross-entropy is convex in the logits."""
    of = step(Affine(), sigma=2.0)
    again = replay(of)
    assert value(Tet(lamb=0.0), again()) > value(CrossEntropy(), again())


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_distillation_is_the_softened_divergence_from_the_teacher(tau: float) -> None:
    of, teacher = step(), a_teacher()
    z = outputs(of).mean(0)
    told = teacher.network(of.x[None])[0].detach().numpy()
    expected = tau**2 * kl(told / tau, z / tau)
    assert value(Distillation(temperature=tau), of, teacher).item() == pytest.approx(expected, rel=1e-10)


def test_distillation_is_zero_where_student_and_teacher_agree_and_pulls_towards_the_teacher() -> None:
    rng = np.random.default_rng(0)
    told, z = (torch.from_numpy(rng.normal(size=(6, 5))) for _ in range(2))
    assert softened_kl(told, told + 3, 2.0).abs().item() < 1e-14
    z.requires_grad_(True)
    softened_kl(told, z, 2.0).backward()
    expected = 2.0 * (torch.softmax(z / 2, 1) - torch.softmax(told / 2, 1)) / 6
    assert z.grad is not None
    assert torch.allclose(z.grad, expected)


def test_a_teacher_of_coded_frames_hears_what_the_student_hears() -> None:
    of, teacher = step(), a_teacher("coded")
    frames = replay(of)().frames()
    told = teacher.network(frames).mean(0).detach().numpy()
    expected = kl(told, outputs(of).mean(0))
    assert value(Distillation(temperature=1.0), of, teacher).item() == pytest.approx(expected, rel=1e-10)


def test_presynaptic_output_is_cross_entropy_per_step() -> None:
    of = step()
    again = replay(of)
    assert value(PreSynaptic(), again()).item() == pytest.approx(value(Tet(lamb=0.0), again()).item())


def test_presynaptic_output_is_taken_before_neurons_of_the_readout() -> None:
    weights = nn.Linear(16, CLASSES).double()
    of = step(SpikingSequential(nn.Flatten(), weights, LIF()))
    currents = weights(replay(of)().frames().flatten(2)).detach().numpy()
    expected = np.mean([cross_entropy(i_t, of.y.numpy()) for i_t in currents])
    assert value(PreSynaptic(), of).item() == pytest.approx(expected, rel=1e-12)


def test_currents_of_student_and_teacher_are_matched_layer_by_layer() -> None:
    of, teacher = step(), a_teacher()
    frames, student, ann = replay(of)().frames(), of.network, teacher.network
    x, z, gaps = frames.flatten(2), of.x.flatten(1), []
    for layer in student.children():
        if isinstance(layer, LIF):
            gaps.append(x.mean(0))
        x = layer(x) if not isinstance(layer, nn.Flatten) else x
    for k, layer in enumerate(ann.children()):
        if isinstance(layer, nn.ReLU):
            gaps[(k - 2) // 2] = ((gaps[(k - 2) // 2] - z) ** 2).mean()
        z = layer(z) if not isinstance(layer, nn.Flatten) else z
    assert len(gaps) == 2
    expected = torch.stack(gaps).mean()
    assert value(PreSynaptic(reading="currents"), of, teacher).item() == pytest.approx(expected.item())


def test_currents_of_other_shapes_are_refused() -> None:
    one, two = torch.zeros(2, 3), torch.zeros(2, 4)
    assert current_gap((one, two), (one, two)) == 0
    for student, teacher in [((one, two), (two, one)), ((one,), (one, two)), ((), ())]:
        with pytest.raises(UsageError, match="cannot be compared"):
            current_gap(student, teacher)


def test_hooks_are_gone_after_a_recording_even_if_the_pass_fails() -> None:
    of = network()
    with pytest.raises(RuntimeError), recording(of):
        of(torch.zeros(2, 3, 1, 9, 9).double())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in of.modules())
    assert len(neuron_modules(of)) == 2


def test_inplace_relu_keeps_its_currents() -> None:
    ann = SpikingSequential(nn.Flatten(), nn.ReLU(inplace=True))
    frames = torch.linspace(-1, 1, 8).reshape(1, 2, 4)
    with recording(ann) as made:
        ann(frames.clone())
    assert torch.equal(made.currents(1, 2)[0], frames[0])


def test_trades_is_the_divergence_between_the_two_answers() -> None:
    of = step()
    passes = Passes(of, 0.0, Attack(eps=0.2, step=0.1))
    found = Trades(temperature=2.0).value(passes).item()
    clean, bad = (passes.of(kind).logits.detach().numpy() for kind in ("clean", "adversarial"))
    assert found == pytest.approx(4 * kl(clean / 2, bad / 2), rel=1e-10)
    assert found > 0


def test_trades_reference_side_can_be_held_fixed() -> None:
    gradients = []
    for through in (True, False):
        of = step(copy.deepcopy(network()))
        found = Trades(through_reference=through).value(Passes(of, 0.0, Attack(eps=0.2, step=0.1)))
        found.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in of.network.parameters() if p.grad is not None]))
    assert not torch.allclose(*gradients)


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_gradient_sparsity_is_the_squared_l1_norm_of_the_gradient_of_the_duel(sigma: float) -> None:
    """For an affine network the gradient of sigmoid(z_y - z_r) is p (1 - p) (w_y - w_r)."""
    of = step(Affine(), sigma)
    z, y = outputs(of).mean(0), of.y.numpy()
    rows = np.arange(len(y))
    others = z.copy()
    others[rows, y] = -np.inf
    rival = others.argmax(1)
    p = 1 / (1 + np.exp(z[rows, rival] - z[rows, y]))
    weight = of.network.weight.detach().numpy()  # type: ignore[union-attr]
    norm = p * (1 - p) * np.abs(weight[y] - weight[rival]).sum(1)
    assert value(GradientSparsity(step=1e-5), of).item() == pytest.approx(np.mean(norm**2), rel=1e-3)


def test_gradient_sparsity_steps_along_the_sign_and_shares_the_noise() -> None:
    of = step(Affine(classes=2), sigma=3.0)
    of.y.zero_()
    weight, bias = (p.detach().numpy() for p in of.network.parameters())
    z = replay(of)().frames().mean(0).flatten(1).numpy()
    w, h = weight[0] - weight[1], 0.3
    here, moved = (1 / (1 + np.exp(-(at @ w + bias[0] - bias[1]))) for at in (z, z + h * np.sign(w)))
    expected = np.mean(((moved - here) / h) ** 2)
    assert value(GradientSparsity(step=h), of).item() == pytest.approx(expected, rel=1e-10)


def test_spike_rate_counts_spikes() -> None:
    of = step()
    again = replay(of)
    spikes, x = [], again().frames().flatten(2)
    for layer in list(of.network.children())[1:]:
        x = layer(x)
        spikes += [x.detach()] if isinstance(layer, LIF) else []
    count, sites = sum(float(s.sum()) for s in spikes), sum(s.numel() for s in spikes)
    assert 0.05 < count / sites < 0.95
    assert value(SpikeRate(weighting="neuron"), again()).item() == pytest.approx(count / sites)
    operations = 7 * float(spikes[0].sum()) + CLASSES * float(spikes[1].sum())  # fan-out: width of the next
    most = 3 * 8 * (9 * 7 + 7 * CLASSES)
    assert value(SpikeRate(), again()).item() == pytest.approx(operations / most)


def test_fan_out_is_what_a_single_spike_reaches() -> None:
    """Brute force on a convolution behind a pooling: set weights to 1, feed one spike, count what changes."""
    conv = nn.Conv2d(1, 2, 3, padding=1, bias=False)
    later = nn.Conv2d(2, 3, 3, padding=1, bias=False)
    net = SpikingSequential(conv, LIF(), nn.AvgPool2d(2), later, LIF(), nn.Flatten(), nn.Linear(12, 2))
    maps = fan_out_maps(net, torch.zeros(1, 1, 4, 4))
    behind = nn.Sequential(nn.AvgPool2d(2), copy.deepcopy(later))
    nn.init.ones_(behind[1].weight)  # type: ignore[arg-type]
    with torch.no_grad():
        reached = [int((behind(one.reshape(1, 2, 4, 4)) != 0).sum()) for one in torch.eye(32)]
    assert maps[0].flatten().tolist() == reached
    assert torch.equal(maps[1], torch.full((3, 2, 2), 2.0))
    assert operation_share([torch.ones(2, 5, *m.shape) for m in maps], maps) == pytest.approx(1.0)


def test_fan_out_of_a_branching_network_follows_the_modules() -> None:
    body = SpikingSequential(nn.Conv2d(1, 1, 1), LIF())
    head = SpikingSequential(nn.Conv2d(1, 3, 1), LIF(), nn.Flatten(), nn.Linear(48, 4))
    net = SpikingSequential(Residual(body, SpikingSequential()), head)
    maps = fan_out_maps(net, torch.zeros(1, 1, 4, 4))
    assert [(tuple(m.shape), m.unique().tolist()) for m in maps] == [((1, 4, 4), [3.0]), ((3, 4, 4), [4.0])]


def test_fan_out_does_not_mind_batch_norms_that_speak_to_other_ranks() -> None:
    net = build(NetworkSpec(channels=(3, 4)), (1, 8, 8), 5)
    with_sync = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net))
    x = torch.zeros(1, 1, 8, 8)
    for a, b in zip(fan_out_maps(net, x), fan_out_maps(with_sync, x), strict=True):
        assert torch.equal(a, b)
    assert any(isinstance(m, nn.SyncBatchNorm) for m in with_sync.modules())


def test_networks_without_neurons_have_no_spike_rate() -> None:
    with pytest.raises(UsageError, match="no spikes"):
        value(SpikeRate(), step(network(NetworkSpec("mlp", (4,), "relu"))))


EVERY: list[AnyTerm] = [
    CrossEntropy(),
    CrossEntropy(on="noisy"),
    CrossEntropy(on="adversarial"),
    Tet(),
    Distillation(),
    PreSynaptic(),
    PreSynaptic(reading="currents", on="adversarial"),
    Trades(),
    GradientSparsity(),
    SpikeRate(),
    SpikeRate(weighting="neuron"),
]


@pytest.mark.parametrize("term", EVERY, ids=lambda t: t.label)
def test_gradients_flow_to_the_weights(term: AnyTerm) -> None:
    of = step(sigma=0.2)
    value(term, of, a_teacher()).backward()
    gradients = [p.grad for p in of.network.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients)
    assert sum(float(g.abs().sum()) for g in gradients) > 0


@pytest.mark.parametrize("term", EVERY[:1] + EVERY[3:6] + EVERY[8:9], ids=lambda t: t.label)
def test_the_gradient_behind_the_last_spikes_is_the_slope_of_the_loss(term: AnyTerm) -> None:
    """Central difference along a direction of the classifier, whose outputs are smooth in its weights."""
    of, teacher = step(sigma=0.2), a_teacher()
    again, weight = replay(of), next(p for p in of.network.parameters() if p.ndim == 2 and len(p) == CLASSES)
    along = torch.from_numpy(np.random.default_rng(3).normal(size=weight.shape))
    value(term, again(), teacher).backward()
    assert weight.grad is not None
    slope, h, at = float((weight.grad * along).sum()), 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * h * along
        at.append(value(term, again(), teacher).item())
        with torch.no_grad():
            weight -= sign * h * along
    assert slope == pytest.approx((at[0] - at[1]) / (2 * h), rel=1e-4)


def test_the_rate_regulariser_silences_neurons() -> None:
    net = copy.deepcopy(network())
    optimiser = torch.optim.SGD(net.parameters(), lr=0.5)
    rates = []
    for _ in range(30):
        found = value(SpikeRate(weighting="neuron"), step(net))
        optimiser.zero_grad()
        found.backward()
        optimiser.step()
        rates.append(found.item())
    assert rates[-1] < rates[0] / 2


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: CrossEntropy(weight=-1.0), "weight"),
        (lambda: CrossEntropy(weight=float("nan")), "weight"),
        (lambda: CrossEntropy(label_smoothing=1.0), "label_smoothing"),
        (lambda: Tet(lamb=1.5), "lamb"),
        (lambda: Tet(phi=float("inf")), "phi"),
        (lambda: Distillation(temperature=0.0), "temperature"),
        (lambda: PreSynaptic(reading="currents", label_smoothing=0.1), "label_smoothing"),
        (lambda: Trades(against="adversarial"), "against"),
        (lambda: Trades(temperature=-1.0), "temperature"),
        (lambda: GradientSparsity(step=0.0), "step"),
    ],
)
def test_values_out_of_range_are_refused(make: object, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        make()  # type: ignore[operator]


def test_weights_on_a_grid_are_seen_by_every_pass() -> None:
    of = step(Affine(), sigma=0.0)
    seen = {"weight": torch.zeros(CLASSES, 16).double().requires_grad_(True)}
    moved = Step(of.network, EncoderSpec("direct", 2), of.x, of.y, of.generator, seen=seen)
    bias = of.network.bias.detach().numpy()  # type: ignore[union-attr]
    expected = cross_entropy(np.tile(bias, (len(of.y), 1)), of.y.numpy())
    for term in (CrossEntropy(), CrossEntropy(on="adversarial")):
        found = value(term, moved)
        assert found.item() == pytest.approx(expected)
        found.backward()
    assert seen["weight"].grad is not None
    assert of.network.weight.grad is None  # type: ignore[union-attr]
    assert of.x.shape[1:] == SHAPE
