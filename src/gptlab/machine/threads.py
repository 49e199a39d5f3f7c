"""The threads of OpenMP, over which torch spreads its work on a CPU."""

import os

SPINS = "10000"  # some tens of microseconds


def spin_briefly() -> None:
    """Let threads that wait for work sleep soon; call it before torch is loaded.

    libgomp's threads spin for milliseconds, and on a processor that other programs use as well, they spin in the place
    of the thread that they wait for: a small step takes ten times as long. Woken from sleep at once, on the other hand,
    they take a quarter longer on an idle machine. OMP_WAIT_POLICY and GOMP_SPINCOUNT, where set, decide instead; other
    implementations of OpenMP ignore this.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
