"""Memory: its size, and halving the work when it runs out."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")

WORDS = ("DefaultCPUAllocator: can't allocate memory", "MPS backend out of memory")


def total_bytes(device: str) -> int | None:
    """Return the memory of a kind of device in bytes, of Apple's GPU what is meant for it; None if nobody says."""
    if device == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device == "mps":
        return torch.mps.recommended_max_memory()
    known = hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else None


def free_gpu_bytes(device: torch.device) -> int:
    """Return the bytes that a CUDA device has left for this process."""
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]


def peak_bytes(device: torch.device, work: Callable[[int], object], size: int) -> int:
    """Return the peak bytes that a CUDA device held for work of some size."""
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work(size)
    return torch.cuda.max_memory_allocated(device) - before


def highest_bytes(device: torch.device) -> int | None:
    """Return the most memory that this process has held so far: of the GPU, or on a CPU of the host."""
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()  # now, what torch keeps of freed tensors included
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else highest_host_bytes()


def highest_host_bytes() -> int | None:
    """Return the most memory of the host that this process has held so far; None if the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def ran_out(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, or was caused by that.

    CUDA has a class for it, others only a message, and a compiler wraps either in its own error.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in WORDS):
        return True
    return error.__cause__ is not None and ran_out(error.__cause__)


def in_parts(
    work: Callable[[Sequence[Part]], Result], parts: Sequence[Part]
) -> Iterator[tuple[Sequence[Part], Result]]:
    """Do work on all parts at once, or on ever smaller halves if memory runs out.

    Yields:
        The parts that were done together, in order, and the result of the work on them.

    Raises:
        Exception: the work's own, if even one part is too much.
    """
    waiting = [parts]
    while waiting:
        now = waiting.pop()
        try:
            result = work(now)
        except (RuntimeError, MemoryError) as error:
            if len(now) < 2 or not ran_out(error):
                raise
        else:
            yield now, result
            continue
        # Outside of the handler, where the error no longer keeps tensors alive.
        release()
        half = len(now) // 2
        waiting += [now[half:], now[:half]]


def release() -> None:
    """Release the memory of the GPU that torch keeps for the next tensors."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
