"""Mutants of every kind of file that is read: none brings more than one line of complaint."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ordeal import KINDS

ORDEAL = Path(__file__).with_name("ordeal.py")
FEW, MANY = 12, 1_000  # mutants of a kind

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by Linux's means")


def go_through(count: int, work: Path, *kinds: str) -> None:
    words = [sys.executable, str(ORDEAL), "0", str(count), str(work), *kinds]
    settings = {"PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | settings, timeout=7200)
    reached = work / "reached"
    assert done.returncode == 0, (
        f"mutant {reached.read_text() if reached.exists() else 'none'} ended the process with {done.returncode}: "
        f"{done.stderr[-2000:]}"
    )
    *problems, last = map(json.loads, done.stdout.splitlines())
    told = "\n".join(f"{one['kind']} {one['number']}: {one['problem']}" for one in problems)
    assert not problems, f"{len(problems)} mutants:\n{told[:4000]}\nagain: {' '.join(words)}"
    assert last == {"mutants": count * len(kinds)}


def test_some_mutants(tmp_path: Path) -> None:
    go_through(FEW, tmp_path / "work", *KINDS)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_many_mutants(kind: str, tmp_path: Path) -> None:
    go_through(MANY, tmp_path / "work", kind)
