import os
import re
import subprocess
import sys

import pytest

from gptlab.machine.threads import SPINS


@pytest.mark.parametrize(
    ("variable", "spins"), [(None, SPINS), ("OMP_WAIT_POLICY", "0"), ("GOMP_SPINCOUNT", "0")]
)
def test_a_command_lets_waiting_threads_sleep_soon_unless_the_user_decides(
    variable: str | None, spins: str
) -> None:
    """libgomp itself says how long its threads spin, as torch loads it."""
    ours = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment["OMP_DISPLAY_ENV"] = "VERBOSE"
    if variable is not None:
        environment[variable] = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}[variable]
    words = [sys.executable, "-m", "gptlab", "config", "recipes/tiny_cpu.toml"]
    told = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stderr
    found = re.search(r"GOMP_SPINCOUNT = '(\d+)'", told)
    if found is None:
        pytest.skip("torch uses another OpenMP than GNU's here")
    assert found[1] == spins
