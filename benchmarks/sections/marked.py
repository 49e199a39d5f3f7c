"""The tests that are marked gpu."""

import importlib.util
import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from .section import ROOT, Complaint, Job

OUTCOME = re.compile(r"^\S+::.* (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")
LINES_KEPT = 200
NOTHING_FOUND = 5  # pytest's exit code


def run(job: Job) -> None:
    """Run the tests that are marked gpu; a warning of a torch that is not the tested one is no error."""
    if importlib.util.find_spec("pytest") is None:
        raise Complaint("pytest is not installed")
    # The others need not even be read, which takes long and wants packages that have nothing to do with it.
    files = [
        file for file in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in file.read_text("utf-8")
    ]
    words = "-m gpu -v -ra --continue-on-collection-errors -o filterwarnings=default -o addopts= -p no:cacheprovider"
    command = [sys.executable, "-m", "pytest", *words.split(), *map(str, files)]
    counts: dict[str, int] = dict.fromkeys(("passed", "failed", "error", "skipped"), 0)
    tail: deque[str] = deque(maxlen=LINES_KEPT)
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout or ():
            tail.append(line.rstrip())
            if found := OUTCOME.match(line):
                outcome = found[1].lower()
                counts[outcome] = counts.get(outcome, 0) + 1
                job.note(files=len(files), counts=counts, output=list(tail))
    job.note(files=len(files), counts=counts, output=list(tail), exit_code=process.returncode)
    if process.returncode not in (0, NOTHING_FOUND):
        raise Complaint(
            f"{counts['failed']} tests failed and {counts['error']} broke, exit code {process.returncode}"
        )


def told(found: Mapping[str, Any]) -> Iterator[str]:
    yield "gpu tests: " + ", ".join(f"{number} {outcome}" for outcome, number in found["counts"].items())
    yield from (line for line in found["output"] if line.startswith(("FAILED", "ERROR")))
