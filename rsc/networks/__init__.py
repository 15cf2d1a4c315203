"""Networks by name. Adding one: a file and a line in `NETWORKS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rsc.errors import UsageError, unknown_name
from rsc.networks import resnet as _resnet
from rsc.networks import vgg as _vgg
from rsc.networks.convnet import convnet
from rsc.networks.mlp import mlp
from rsc.networks.norm import StepBatchNorm2d
from rsc.networks.resnet import resnet
from rsc.networks.sequential import Residual, SpikingSequential
from rsc.networks.spec import NetworkSpec
from rsc.networks.vgg import vgg

Builder = Callable[[NetworkSpec, tuple[int, ...], int], SpikingSequential]

NETWORKS: dict[str, Builder] = {
    "convnet": convnet,
    "mlp": mlp,
    **dict.fromkeys(_vgg.PLANS, vgg),
    **dict.fromkeys(_resnet.PLANS, resnet),
}

__all__ = [
    "NETWORKS",
    "NetworkSpec",
    "Residual",
    "SpikingSequential",
    "StepBatchNorm2d",
    "build",
    "convnet",
    "mlp",
    "resnet",
    "vgg",
]

_FREE = {"convnet", "mlp"}  # their widths are given, those of the others follow from the name
_USED_BY = {
    "channels": _FREE,
    "width": NETWORKS.keys() - _FREE,
    "hidden": NETWORKS.keys() - _FREE,
    "form": _resnet.PLANS.keys(),
    "norm": NETWORKS.keys() - {"mlp"},
}


def build(spec: NetworkSpec, input_shape: Sequence[int], classes: int) -> SpikingSequential:
    """The network that `spec` names, with fresh weights from torch's global generator (seed it).

    Args:
        input_shape: (C, H, W) of a frame, any shape for an mlp.
        classes: number of outputs K.

    Raises:
        UsageError: there is no such network, it does not know an option, or it cannot take such images.
    """
    if spec.name not in NETWORKS:
        raise unknown_name("network", spec.name, NETWORKS)
    _refuse_unused(spec)
    shape = tuple(int(n) for n in input_shape)
    if spec.name != "mlp" and len(shape) != 3:
        raise UsageError(
            f"The network '{spec.name}' cannot take frames of shape {shape}.",
            "It convolves images [C, H, W].",
            "Give three numbers, or use an mlp.",
        )
    return NETWORKS[spec.name](spec, shape, classes)


def _refuse_unused(spec: NetworkSpec) -> None:
    plain = NetworkSpec(spec.name)
    for field, names in _USED_BY.items():
        if spec.name not in names and getattr(spec, field) != getattr(plain, field):
            raise UsageError(
                f"The network '{spec.name}' was given {field} = {getattr(spec, field)!r}.",
                f"Only {', '.join(sorted(names))} use it.",
                "Leave it at its default.",
            )
