"""How many sequences a process computes at once: as many as fit in memory and divide its share evenly."""

import math
from collections.abc import Callable

from gptlab.machine.memory import ran_out

# More do not make a device faster. A CPU raises no out-of-memory error to learn from; on a GPU, llm.c and nanoGPT use
# as many on an A100.
ENOUGH_TOKENS = {"cpu": 8192, "cuda": 65_536}
TRIED = (8, 4, 2, 1)  # sequences of the first of two passes that measure memory per sequence
SPARE = 0.1  # of the free memory, which the allocator cannot use


def even(share: int, most: int) -> int:
    """Return the size above half of `most` whose micro-batches have the fewest empty rows in a share."""
    most = max(1, min(share, most))
    return min(range(most, most // 2, -1), key=lambda size: math.ceil(share / size) * size)


def estimate(peak: Callable[[int], int], *, free: int, reserve: int) -> int:
    """Estimate how many sequences fit, from the memory that a few take and that twice as many take.

    Args:
        peak: makes a pass over a number of sequences and returns its peak memory in bytes.
        free: free bytes.
        reserve: free bytes to leave for other uses.
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
