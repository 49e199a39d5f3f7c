import os
import re
import subprocess
import sys

import pytest

from gptlab import cli
from gptlab.machine.before_torch import SPINS


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


FAULTS = """
import resource, sys, torch
from gptlab.machine.before_torch import keep_freed
if sys.argv[1] == "kept":
    keep_freed()
def write():
    parts = [torch.ones(size << 18) for size in (1, 3, 60)]  # MiB
for _ in range(30):  # until every size has found a place to come back to
    write()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    write()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_freed_memory_is_kept_for_the_next_tensor():
    faults = {
        how: int(subprocess.check_output([sys.executable, "-c", FAULTS, how], text=True))
        for how in ("kept", "given back")
    }
    assert faults["given back"] > 5 * (60 << 20) / 4096 / 2
    assert faults["kept"] < faults["given back"] / 50


def test_every_command_but_those_about_data_keeps_it(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(cli, "keep_freed", lambda: calls.append("kept"))
    assert cli.main(["data", "list"]) == 0
    assert calls == []
    assert cli.main(["report", "nowhere", "--out", "nowhere"]) == 1
    assert calls == ["kept"]
