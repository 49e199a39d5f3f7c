"""Memory: how much there is, keeping what tensors gave back, and going on with half as much where it runs out."""

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
CPU_WORDS = "DefaultCPUAllocator: can't allocate memory"


def total_bytes(device: str) -> int | None:
    """Return how much memory "cuda" or "cpu" has in all; None where the system does not tell."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    known = hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else None


def free_bytes(device: "torch.device") -> int:
    """Return how much memory a CUDA device has left for this process."""
    import torch

    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]


def peak_bytes(device: "torch.device", work: Callable[[int], object], size: int) -> int:
    """Return how much more memory a CUDA device held at most while a work of some size was done."""
    import torch

    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work(size)
    return torch.cuda.max_memory_allocated(device) - before


def keep_freed() -> None:
    """Let this process keep the memory that tensors give back, for the tensors that follow.

    Where it is left to glibc, the system takes back what a large tensor had, and the next one's pages are made and
    zeroed one by one as they are first written: in training on a CPU up to a third of the time. Elsewhere, and
    under another allocator, nothing changes. mallopt(3) describes both settings.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's own
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(M_MMAP_MAX, 0)


def ran_out(error: BaseException) -> bool:
    """Say whether an error is the device's memory at its end, or comes of it.

    CUDA has a class for it, the CPU only words, and a compiler wraps either in an error of its own.
    """
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError) or CPU_WORDS in str(error):
        return True
    return error.__cause__ is not None and ran_out(error.__cause__)


def in_parts(
    work: Callable[[Sequence[Part]], Result], parts: Sequence[Part]
) -> Iterator[tuple[Sequence[Part], Result]]:
    """Do a work on all parts at once, or in halves of halves where memory runs out.

    Yields:
        The parts that were done together, in order, and what the work made of them.

    Raises:
        Exception: that of the work, where even one part is too much.
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
        # Outside of the handler, where the error no longer holds what did not fit.
        release()
        half = len(now) // 2
        waiting += [now[half:], now[:half]]


def release() -> None:
    """Give back what a GPU keeps for tensors to come."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
