"""Several processes that train one network, as `torchrun` starts them (gloo on CPUs, nccl on GPUs).

Gradients are summed after the backward pass, in one message that also carries the loss and whether
anyone was asked to stop. torch's DistributedDataParallel is not used: its hooks allow neither several
passes through the network per step, nor attacks inside a loss, nor weights replaced by functions of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, distributed, nn

from rsc.errors import RscError, TargetUnavailable, UsageError

_LAUNCHER = (
    "It is what a launcher such as torchrun sets for several processes that train together.",
    "Start with torchrun, or unset RANK, LOCAL_RANK and WORLD_SIZE.",
)


@dataclasses.dataclass(frozen=True)
class World:
    """Who trains: this process's rank among `size`, and the device that it computes on."""

    rank: int = 0
    size: int = 1
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, in place.

        Raises:
            RscError: another rank ended, or did not answer in time.
        """
        if self.size > 1:
            with _lost_ranks():
                distributed.all_reduce(values)
        return values

    def sum_gradients(self, parameters: Sequence[Tensor], numbers: Sequence[float]) -> list[float]:
        """Sum gradients over all ranks, and with them some numbers (as float32), whose sums are returned.

        A parameter that no rank has a gradient for keeps none.
        """
        if self.size == 1:
            return list(numbers)
        there = torch.tensor([float(p.grad is not None) for p in parameters], device=self.device)
        extra = torch.tensor(list(numbers), dtype=torch.float32, device=self.device)
        flat = [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters]
        whole = self.sum(torch.cat([*(f.float() for f in flat), there, extra]))
        *sums, there, extra = whole.split([*(p.numel() for p in parameters), len(there), len(extra)])
        for parameter, total, count in zip(parameters, sums, there.tolist(), strict=True):
            parameter.grad = total.reshape(parameter.shape).to(parameter.dtype) if count else None
        return extra.tolist()

    def average_buffers(self, network: nn.Module) -> None:
        """Replace floating-point buffers (batch statistics) by their mean over ranks."""
        buffers = [b for b in network.buffers() if b.is_floating_point()]
        if self.size == 1 or not buffers:
            return
        whole = self.sum(torch.cat([b.reshape(-1).float() for b in buffers])) / self.size
        for buffer, mean in zip(buffers, whole.split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(mean.reshape(buffer.shape))

    def wait(self) -> None:
        """Until all ranks are here."""
        self.sum(torch.zeros(1, device=self.device))

    def share(self, data: bytes | None) -> bytes | None:
        """What rank 0 holds, on every rank."""
        if self.size == 1:
            return data
        length = torch.tensor([-1 if data is None or self.rank else len(data)], device=self.device)
        with _lost_ranks():
            distributed.broadcast(length, 0)
            if length.item() < 0:
                return None
            content = torch.empty(int(length.item()), dtype=torch.uint8, device=self.device)
            if data is not None and self.first:
                content.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
            distributed.broadcast(content, 0)
        return content.cpu().numpy().tobytes()


def is_first() -> bool:
    """Whether this process is rank 0, or the only one; known before the others were met."""
    return _told("RANK", 0) == 0


@contextlib.contextmanager
def world(device: str, timeout_s: float, alone: bool = False) -> Iterator[World]:
    """The ranks that torchrun's environment variables speak of; one alone without them.

    A process group that exists already is used and left as it is.

    Args:
        alone: this process trains by itself, whoever else there is; it takes its own device.

    Raises:
        UsageError: the variables are not those of a launcher.
        TargetUnavailable: no such device here.
        RscError: the other ranks were not met in time.
    """
    size = _told("WORLD_SIZE", 1)
    place = _device(device, _told("LOCAL_RANK", 0) if size > 1 else None)
    if alone:
        yield World(device=place)
    elif distributed.is_initialized():
        yield World(distributed.get_rank(), distributed.get_world_size(), place)
    elif size == 1:
        yield World(device=place)
    else:
        _meet("nccl" if place.type == "cuda" else "gloo", timeout_s)
        try:
            yield World(distributed.get_rank(), size, place)
        finally:
            distributed.destroy_process_group()


def _told(name: str, otherwise: int) -> int:
    """A number that a launcher puts into the environment."""
    value = os.environ.get(name, str(otherwise))
    if not (value.isascii() and value.isdigit()):
        raise UsageError(f"{name} is '{value}' in the environment.", *_LAUNCHER)
    return int(value)


def _meet(backend: str, timeout_s: float) -> None:
    """Make the process group of all ranks."""
    try:
        with _lost_ranks():
            distributed.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout_s))
    except ValueError as error:
        if isinstance(error, RscError):
            raise
        raise UsageError(f"The ranks cannot meet: {error}.", *_LAUNCHER) from error


def _device(name: str, local_rank: int | None) -> torch.device:
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise TargetUnavailable(
            "There is no CUDA device to train on.", "torch sees none.", "Use device = 'cpu'."
        )
    if local_rank is None:
        return torch.device("cuda", torch.cuda.current_device())
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


@contextlib.contextmanager
def _lost_ranks() -> Iterator[None]:
    """Errors of the transport become one that says what happened."""
    try:
        yield
    except RscError:
        raise
    except RuntimeError as error:  # torch's DistError, or gloo's plain one
        text = " ".join(str(error).split())[:200]
        raise RscError(
            "Another rank ended or did not answer in time.",
            text,
            "See its own message; then start all ranks again with --resume.",
        ) from error
