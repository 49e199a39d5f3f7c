"""A report that is written anew while its runs train."""

import time
from collections.abc import Sequence
from pathlib import Path

from gptlab.report.runs import report
from gptlab.runs.folder import METRICS
from gptlab.runs.history import Run, read_runs
from gptlab.runs.metrics import BY, Row

EVERY_S = 3.0
LOAD = 10  # a report that takes a second to write is written at most once in so many seconds


def watch(runs: Sequence[Path], out: Path, *, reference: Path | None = None) -> Row:
    """Write the report of runs whenever they have new rows, until all are finished or Ctrl-C; return its facts.

    Raises:
        ConfigError: as `report` does.
    """
    try:
        before: object = None
        while not all(map(finished, read_runs(runs))):
            now = [_state(run / METRICS) for run in runs]
            began = time.monotonic()
            if now != before:
                facts = report(runs, out, reference=reference, watched=True)
                if before is None:
                    print(
                        f"{facts['files'][-1]}: written anew while the runs train; Ctrl-C ends this",
                        flush=True,
                    )
                before = now
            time.sleep(max(EVERY_S, LOAD * (time.monotonic() - began)))
    except KeyboardInterrupt:
        print(flush=True)
    return report(runs, out, reference=reference)


def _state(file: Path) -> tuple[int, int] | None:
    try:
        stat = file.stat()
    except OSError:  # being replaced
        return None
    return stat.st_size, stat.st_mtime_ns


def finished(run: Run) -> bool:
    """Return whether a run has done its last step and, after it, all that it does when it evaluates."""
    step = run.metrics["step"][-1]["step"] if run.metrics["step"] else 0
    if run.planned_steps is None or step < run.planned_steps:
        return False
    return all(
        sum(row["step"] == step for row in own) >= sum(row["step"] == own[0]["step"] for row in own)
        for kind in ("val", "eval", "sample")
        if (own := [row for row in run.metrics[kind] if BY not in row])
    )
