"""How torch works on a CPU, as far as that is settled before it is loaded: memory that it frees, threads that wait."""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
SPINS = "10000"  # some tens of microseconds


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


def spin_briefly() -> None:
    """Let threads that wait for work sleep soon; call it before torch is loaded.

    libgomp's threads spin for milliseconds, and on a processor that other programs use as well, they spin in the place
    of the thread that they wait for: a small step takes ten times as long. Woken from sleep at once, on the other hand,
    they take a quarter longer on an idle machine. OMP_WAIT_POLICY and GOMP_SPINCOUNT, where set, decide instead; other
    implementations of OpenMP ignore this.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
