"""Memory: its size, keeping what tensors free, and halving the work when it runs out."""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

Part = TypeVar("Part")
Result = TypeVar("Result")

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
WORDS = ("DefaultCPUAllocator: can't allocate memory", "MPS backend out of memory")


def total_bytes(device: str) -> int | None:
    """Return the memory of a kind of device in bytes, of Apple's GPU what is meant for it; None if nobody says."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    if device == "mps":
        import torch

        return torch.mps.recommended_max_memory()
    known = hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else None


def free_bytes(device: "torch.device") -> int:
    """Return the bytes that a CUDA device has left for this process."""
    import torch

    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]


def peak_bytes(device: "torch.device", work: Callable[[int], object], size: int) -> int:
    """Return the peak bytes that a CUDA device held for work of some size."""
    import torch

    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work(size)
    return torch.cuda.max_memory_allocated(device) - before


def highest_bytes(device: "torch.device") -> int | None:
    """Return the most memory that this process has held so far: of the GPU, or on a CPU of the host."""
    import torch

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


def keep_freed() -> None:
    """Let this process keep the memory of freed tensors for the next ones.

    By default glibc returns a large tensor's memory to the system, which then zeroes the next one's pages one by one on
    first write: up to a third of the time of training on a CPU. Without glibc, or under another allocator, this does
    nothing. mallopt(3) describes both settings.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's own
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(M_MMAP_MAX, 0)


def ran_out(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, or was caused by that.

    CUDA has a class for it, others only a message, and a compiler wraps either in its own error.
    """
    import torch

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
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
