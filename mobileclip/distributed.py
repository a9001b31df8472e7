"""The few collectives that training needs, the same under `torchrun`, in one process, on gloo and on NCCL.

`gather` is the only unusual one: it lets gradients through, so that a loss over the gathered batch, computed by each
rank for its own rows alone, has exactly the gradient of one process that held the whole batch.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(minutes=10)
"""A collective that takes longer has lost a rank."""


def rank() -> int:
    """Number of this process; 0 without `torchrun`."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def group(timeout: timedelta = TIMEOUT) -> Iterator[torch.device]:
    """Join the processes that `torchrun` started, if it did; gives this rank's device; leaves the group at the end."""
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    joins = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized()
    if joins:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=timeout)
    try:
        yield device
    finally:
        if joins:
            dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.new_empty((world() * x.shape[0], *x.shape[1:]))
        dist.all_gather_single(out, x.contiguous())
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad,) = grads
        summed = grad.contiguous().clone()
        dist.all_reduce(summed)
        rows = grad.shape[0] // world()
        return summed[rank() * rows : (rank() + 1) * rows]


def gather(x: Tensor) -> Tensor:
    """[b, ...] on each rank -> [ranks * b, ...] on all, in rank order; gradients of all ranks are summed."""
    if world() == 1:
        return x
    if not x.is_floating_point():
        out = x.new_empty((world() * x.shape[0], *x.shape[1:]))
        dist.all_gather_single(out, x.contiguous())
        return out
    gathered: Tensor = _Gather.apply(x)
    return gathered


def total(x: Tensor) -> Tensor:
    """Sum over the ranks, without gradient."""
    if world() == 1:
        return x.detach()
    out = x.detach().clone()
    dist.all_reduce(out)
    return out


def barrier() -> None:
    """Wait for all ranks."""
    if world() > 1:
        dist.barrier()
