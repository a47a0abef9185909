"""One command on several processes: torchrun starts them, each takes its own images, sums meet in the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """This process is number `rank` of `count`; alone, every method returns what it was given."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """The one that prints and writes what all share."""
        return self.rank == 0

    def share(self, items: np.ndarray) -> np.ndarray:
        """This process's part of the items: consecutive ones, every item in one part."""
        return np.array_split(items, self.count)[self.rank]

    def sum(self, tensors: list[Tensor]) -> list[Tensor]:
        """Of each tensor (on the CPU) the sum over all processes, in every process."""
        return [self._reduced(t, dist.ReduceOp.SUM) for t in tensors] if self.count > 1 else tensors

    def any(self, flags: np.ndarray) -> np.ndarray:
        """bool [N]: whether any process has the flag set."""
        if self.count == 1:
            return flags
        return self._reduced(torch.from_numpy(flags.astype(np.int32)), dist.ReduceOp.MAX).numpy().astype(bool)

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            dist.barrier()

    def _reduced(self, tensor: Tensor, op: dist.ReduceOp) -> Tensor:
        device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
        moved = tensor.clone().to(device)
        dist.all_reduce(moved, op)
        return moved.cpu()


@contextmanager
def all_cores() -> Iterator[None]:
    """While one process computes and the others wait; torchrun gives each a single core."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(before, len(os.sched_getaffinity(0))) if "WORLD_SIZE" in os.environ else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def processes() -> Iterator[Processes]:
    """The processes that torchrun started (NCCL where there are GPUs, else gloo), or this one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    if torch.cuda.is_available():
        if int(os.environ["LOCAL_RANK"]) >= torch.cuda.device_count():
            raise ValueError(f"more processes than the {torch.cuda.device_count()} GPUs of this machine; start so many")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # the first process may compute for an hour while the others wait
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(days=7))
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
