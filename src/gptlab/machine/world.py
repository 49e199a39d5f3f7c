"""The processes of a run: one, or several started by torchrun or srun, on one machine or more."""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore
from torch.distributed import distributed_c10d
from torch.distributed.distributed_c10d import PrefixStore

from gptlab.errors import TrainError
from gptlab.machine import peers
from gptlab.machine.device import DeviceName, choose_device
from gptlab.machine.peers import INTERFACE, Peer, Peers, Same

T = TypeVar("T")

# Public from torch 2.14 on, which warns of the private name.
set_timeout: Any = getattr(dist, "set_timeout", None) or distributed_c10d._set_pg_timeout  # pyright: ignore[reportPrivateUsage]

WORK_S = 1800  # for all to reach the same point: one process may evaluate, compile, or wait for a slow drive


@dataclass(frozen=True)
class World:
    """The processes of a run, and this one's rank."""

    rank: int
    size: int
    device: torch.device
    votes: Any = None
    """The group for votes, which do not use the device; None means the default group."""
    peers: Sequence[Peer] = ()
    """All processes, this one included, if there are several."""

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

    def watch(self) -> None:
        """Notice within seconds if a machine is gone, on every connection made so far."""
        if self.size > 1:
            peers.watch_connections()


def restarts() -> int:
    """Return how often the launcher has restarted the processes after one of them died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextmanager
def join_world(name: DeviceName, same: Same) -> Generator[World]:
    """Join the processes that torchrun or srun started, if any.

    Args:
        name: the device.
        same: what all processes must have in common, by the remedy for a difference.

    Raises:
        TrainError: another process is missing, differs, cannot be reached, or died.
        SilenceError: another machine went silent.
    """
    device = choose_device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(0, 1, device)
        return
    store, rank = _store()
    others = Peers(rank, size, store, same)
    try:
        start = others.meet()
        with _interface(others):
            votes = _groups(PrefixStore(start, store), rank, size, device)
            yield World(rank, size, device, votes, others.all)
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error).lower()):
            raise
        # Tracebacks of all survivors would hide that of the process that died.
        raise others.lost(str(error).partition(". ")[0]) from error
    finally:
        others.leave()
        if dist.is_initialized():
            dist.destroy_process_group()


def _store() -> tuple[Any, int]:
    """Return the store through which the processes find each other, and this one's rank."""
    host, port, rank = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), int(os.environ["RANK"])
    # torchrun keeps a store itself, over its restarts.
    keeps = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    wait = timedelta(seconds=peers.START_S)
    try:
        # Not torch's rendezvous, in which rank 0 waits for the others without naming any.
        store = TCPStore(host, port, None, keeps, wait, wait_for_workers=False, multi_tenant=True)
    except dist.DistError as error:
        if keeps:
            reason = str(error).partition(". ")[0]
            raise TrainError(
                f"MASTER_PORT = {port}: cannot be opened at {host} ({reason}); choose another"
            ) from error
        raise TrainError(
            f"MASTER_ADDR = {host}, port {port}: nothing answers there within {peers.START_S} s; start rank 0 on that "
            "machine, and let the others connect to it"
        ) from error
    return store, rank


@contextmanager
def _interface(others: Peers) -> Generator[None]:
    """Let gloo use the network on which the processes met, unless the user chose one.

    By itself it takes the address of the host's name, which on many systems leads to the machine itself.
    """
    name = None if os.environ.get(INTERFACE) else others.interface()
    if name is not None:
        os.environ[INTERFACE] = name
    try:
        yield
    finally:
        if name is not None:
            del os.environ[INTERFACE]


def _groups(store: Any, rank: int, size: int, device: torch.device) -> Any:
    """Make torch's groups and try them; return the one for votes."""
    cuda = device.type == "cuda"
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=peers.START_S),
        device_id=device if cuda else None,  # else NCCL guesses it and connects at first use
    )
    votes: Any = dist.new_group(backend="gloo") if cuda else None
    dist.barrier()
    dist.monitored_barrier(votes, timedelta(seconds=peers.START_S), wait_all_ranks=True)
    for group in (None, votes) if cuda else (None,):
        set_timeout(timedelta(seconds=WORK_S), group)
    store.set_timeout(timedelta(seconds=WORK_S))
    peers.watch_connections()
    return votes
