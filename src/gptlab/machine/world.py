"""The processes of a run: one, or several started by torchrun."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from gptlab.errors import TrainError
from gptlab.machine.device import DeviceName, choose_device

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes of a run, and this one's rank."""

    rank: int
    size: int
    device: torch.device
    votes: Any = None
    """The group for votes, which do not use the device; None means the default group."""

    @property
    def main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Add numbers over all processes."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def count(self, *facts: bool) -> list[int]:
        """Return in how many processes each fact is true; cheap enough for every pass."""
        if self.size == 1:
            return [int(fact) for fact in facts]
        votes = torch.tensor(facts, dtype=torch.int32)
        dist.all_reduce(votes, group=self.votes)
        return votes.tolist()

    def from_main(self, value: T) -> T:
        """Return the first process's value, a plain object."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def smallest(self, value: int) -> int:
        """Return the minimum of a number over all processes."""
        if self.size == 1:
            return value
        least = torch.tensor(value, device=self.device)
        dist.all_reduce(least, op=dist.ReduceOp.MIN)
        return int(least.item())

    def gather(self, rows: list[Any]) -> list[Any]:
        """Join lists of plain objects from all processes, in order of rank."""
        if self.size == 1:
            return rows
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, rows)
        return [row for part in parts for row in part]

    def barrier(self) -> None:
        """Wait for every process."""
        if self.size > 1:
            dist.barrier()


def restarts() -> int:
    """Return how often the launcher has restarted the processes after one of them died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextmanager
def join_world(name: DeviceName) -> Generator[World]:
    """Join the processes that torchrun started, if any.

    Raises:
        TrainError: another process died.
    """
    device = choose_device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(0, 1, device)
        return
    timeout = timedelta(minutes=30)
    try:
        store, rank, _ = next(rendezvous("env://", timeout=timeout))
        if os.environ.get("GROUP_WORLD_SIZE") == "1":
            # torchrun keeps this store, with the addresses of dead processes, over its restarts. Only on a single
            # machine do all processes see the same number of restarts.
            store = PrefixStore(f"restart_{restarts()}", store)
        cuda = device.type == "cuda"
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=timeout,
            device_id=device if cuda else None,  # else NCCL guesses it and connects at first use
        )
        votes = dist.new_group(backend="gloo") if cuda else None
        yield World(rank, size, device, votes)
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error).lower()):
            raise
        # Tracebacks of all survivors would hide that of the process that died.
        reason = str(error).partition(". ")[0]
        raise TrainError(f"another process died; see its own message ({reason})") from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
