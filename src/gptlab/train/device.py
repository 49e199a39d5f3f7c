"""The machine: its devices, number formats and processes. The only file that reads the environment."""

import os
import platform
import random
import re
import socket
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from gptlab.errors import ConfigError, TrainError
from gptlab.model.kernels import any_shape

T = TypeVar("T")
DTypeName = Literal["auto", "float32", "tf32", "bfloat16", "float16"]
DeviceName = Literal["auto", "cpu", "cuda"]

# Dense peak of the matrix units in FLOP/s, from the makers' data sheets: the half-precision formats (which are
# equal on all of these), then TF32. The first name found in the device's own decides.
PEAK_FLOPS: dict[str, tuple[float, float | None]] = {
    "B200": (2.25e15, 1.1e15),
    "H200": (989.4e12, 494.7e12),
    "H100 PCIe": (756e12, 378e12),
    "H100": (989.4e12, 494.7e12),
    "A100": (312e12, 156e12),
    "L40S": (362e12, 183e12),
    "L4": (121e12, 60e12),
    "A10G": (70e12, 35e12),
    "V100": (125e12, None),
    "T4": (65e12, None),
    "RTX 4090": (165.2e12, 82.6e12),
    "RTX 3090": (71e12, 35.6e12),
}


@dataclass(frozen=True)
class World:
    """The processes of a run, and this one's place among them."""

    rank: int
    size: int
    device: torch.device
    votes: Any = None
    """For small agreements, which leave the device alone; None is the group that all else goes through."""

    @property
    def main(self) -> bool:
        """Whether this process writes the files and talks to the terminal."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Add numbers over all processes."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def count(self, *facts: bool) -> list[int]:
        """Return in how many processes each fact is true; cheap enough for every micro-step."""
        if self.size == 1:
            return [int(fact) for fact in facts]
        votes = torch.tensor(facts, dtype=torch.int32)
        dist.all_reduce(votes, group=self.votes)
        return votes.tolist()

    def from_main(self, value: T) -> T:
        """Return the first process's plain object."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def smallest(self, value: int) -> int:
        """Return the least of a number over all processes."""
        if self.size == 1:
            return value
        least = torch.tensor(value, device=self.device)
        dist.all_reduce(least, op=dist.ReduceOp.MIN)
        return int(least.item())

    def gather(self, rows: list[Any]) -> list[Any]:
        """Join lists of plain objects of all processes, in the order of ranks."""
        if self.size == 1:
            return rows
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, rows)
        return [row for part in parts for row in part]

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()


def choose_device(name: DeviceName) -> torch.device:
    """Return the device that a name stands for.

    Raises:
        ConfigError: CUDA is asked for and there is none.
    """
    cuda = torch.cuda.is_available()
    if name == "cuda" and not cuda:
        raise ConfigError("train.device = cuda: torch finds no CUDA device here; use cpu, or auto")
    if name == "cpu" or not cuda:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def restarts() -> int:
    """Return how often the launcher has started this run's processes anew, after one of them died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextmanager
def join_world(name: DeviceName) -> Generator[World]:
    """Join the processes that torchrun started, or be alone.

    Raises:
        TrainError: another process has gone.
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
            # torchrun keeps this store over its restarts, and with it the addresses of the dead. Only the one
            # launcher of a single machine counts its restarts alike for all processes.
            store = PrefixStore(f"restart_{restarts()}", store)
        cuda = device.type == "cuda"
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=timeout,
            device_id=device if cuda else None,  # else NCCL guesses it, and connects at the first use
        )
        votes = dist.new_group(backend="gloo") if cuda else None
        yield World(rank, size, device, votes)
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error).lower()):
            raise
        # Not a traceback from each of those that live on, in which that of the one that died is hard to find.
        reason = str(error).partition(". ")[0]
        raise TrainError(f"another process has gone, its own words tell why ({reason})") from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def choose_dtype(name: DTypeName, device: torch.device) -> DTypeName:
    """Resolve `auto`: bfloat16 where the device computes in it, else float16 on CUDA, else float32."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16")
    return "bfloat16" if fast else "float32"


def product_type(name: DTypeName) -> torch.dtype:
    """Return the type of what is multiplied in a number format."""
    return getattr(torch, name) if name in ("bfloat16", "float16") else torch.float32


def autocast(name: DTypeName, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which a forward pass computes in the named format."""
    if name in ("bfloat16", "float16"):
        return torch.autocast(device.type, dtype=product_type(name))
    return nullcontext()


class InFormat:
    """A model whose passes compute in a number format; `hidden` and `head` are there where the model has them."""

    def __init__(self, model: torch.nn.Module, name: DTypeName, device: torch.device) -> None:
        self._model, self._device = model, device
        self.name: DTypeName = name

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        with autocast(self.name, self._device), any_shape():
            return self._model(ids)

    def __getattr__(self, part: str) -> Callable[..., torch.Tensor]:
        run = getattr(self._model, part)

        def in_format(*inputs: torch.Tensor) -> torch.Tensor:
            with autocast(self.name, self._device), any_shape():
                return run(*inputs)

        return in_format


def set_matmul_precision(name: DTypeName) -> None:
    """Let float32 products use TF32 where that was asked for, and only there."""
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")


def set_deterministic(deterministic: bool, *, compiled: bool = False) -> None:
    """Choose between kernels that repeat themselves bit for bit and faster ones."""
    if deterministic:
        # cuBLAS repeats itself only with a fixed workspace, which it reads from here.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    if compiled:
        import torch._inductor.config as inductor  # which takes a second

        # Else it tries on the device which kernels are fastest, and in what order they add depends on that.
        inductor.deterministic = deterministic


def peak_flops(device: torch.device, dtype: DTypeName) -> float | None:
    """Return the device's published peak in FLOP/s for a number format; None where it is not known."""
    if device.type != "cuda":
        return None
    half, tf32 = _published_peak(torch.cuda.get_device_name(device))
    return {"bfloat16": half, "float16": half, "tf32": tf32}.get(dtype)


def _published_peak(name: str) -> tuple[float | None, float | None]:
    # Whole words, as an L40 is no L4; and a laptop's GPU is another one of the same name.
    matches = (key for key in PEAK_FLOPS if re.search(rf"\b{key}\b(?! Laptop)", name))
    return next((PEAK_FLOPS[key] for key in matches), (None, None))


def seed_all(seed: int) -> None:
    """Seed every random state, also those that nothing draws from yet: a checkpoint holds them all."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict[str, Any]:
    """Return every random state of this process as JSON."""
    import numpy as np

    kind, keys, *rest = np.random.get_state()  # the global state is what must be kept
    state = {
        "python": list(random.getstate()),
        "numpy": [kind, list(map(int, keys)), *rest],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device).numpy().tobytes().hex()
    return state


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Put back what `random_state` returned; a CUDA state is left out where there is no CUDA."""
    import numpy as np

    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(torch.frombuffer(bytearray.fromhex(state["torch"]), dtype=torch.uint8))
    if device.type == "cuda" and "cuda" in state:
        cuda = torch.frombuffer(bytearray.fromhex(state["cuda"]), dtype=torch.uint8)
        torch.cuda.set_rng_state(cuda, device)


def describe(device: torch.device) -> dict[str, Any]:
    """Return what a reader of the results must know of the machine."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _cpu_name() -> str:
    if sys.platform == "linux":
        with Path("/proc/cpuinfo").open() as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
