"""How many sequences a process computes at once: the most that memory holds and that cut its share evenly."""

import math
from collections.abc import Callable

from gptlab.machine.memory import ran_out

# More fill a device no better. On a CPU there is no out-of-memory error to learn from; on a GPU llm.c and nanoGPT
# give an A100 as many.
ENOUGH_TOKENS = {"cpu": 8192, "cuda": 65_536}
TRIED = (8, 4, 2, 1)  # sequences of the first of two passes that tell what each takes
SPARE = 0.1  # of the free memory, for what the allocator cannot use


def even(share: int, most: int) -> int:
    """Return the size, above half of the most, whose passes over a share have the fewest empty places."""
    most = max(1, min(share, most))
    return min(range(most, most // 2, -1), key=lambda size: math.ceil(share / size) * size)


def estimate(peak: Callable[[int], int], *, free: int, reserve: int) -> int:
    """Return how many sequences should fit, told by what a few take and what twice as many do.

    Args:
        peak: makes a pass over a number of sequences, and returns the most bytes that it took.
        free: bytes that are there.
        reserve: bytes of them that others will want.
    """
    for few in TRIED:
        try:
            less, more = peak(few), peak(2 * few)
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            continue
        each = max(1.0, (more - less) / few)
        fixed = max(0.0, less - few * each)
        return max(1, int(((1 - SPARE) * free - reserve - fixed) / each))
    return 1
