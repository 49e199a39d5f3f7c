"""metrics.jsonl: the record of a run, one JSON object a line, append only."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from gptlab.errors import CheckpointError

FSYNC_EVERY_S = 5.0


class MetricsLog:
    """Appends rows to RUN/metrics.jsonl; what was written at least five seconds ago survives a power cut.

    A last line that a crash cut short is taken away on opening: it never was a row.

    Args:
        path: the file.
        tell: is given each row after it was written.
    """

    def __init__(self, path: Path, tell: Callable[[Mapping[str, Any]], None] | None = None) -> None:
        self.path, self._tell = path, tell
        path.touch()
        with path.open("rb+") as file:
            file.truncate(_end_of_last_line(path.read_bytes()))
        self._file = path.open("a", encoding="utf-8")
        self._synced = time.monotonic()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sync()
        self._file.close()

    def write(self, kind: str, **row: Any) -> None:
        """Append one row; a number that JSON cannot hold is written as null."""
        row = {"kind": kind, **{key: _finite(value) for key, value in row.items()}}
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._file.flush()
        if self._tell is not None:
            self._tell(row)
        if time.monotonic() - self._synced > FSYNC_EVERY_S:
            self.sync()

    def sync(self) -> None:
        """Force what was written on to the disk."""
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a run's rows, each step of the run once.

    What a run wrote after its last checkpoint is written again when it resumes there: a `resume` event takes
    back the earlier rows of later steps. A last line that was cut short is not a row.

    Raises:
        CheckpointError: a line in the middle is damaged.
    """
    rows: list[dict[str, Any]] = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = json.loads(line)
            resumed = row["kind"] == "event" and row["event"] == "resume"
        except (ValueError, KeyError, TypeError):
            raise CheckpointError(
                f"{path}: line {number} is damaged; delete that line to go on without it"
            ) from None
        if resumed:
            rows = [old for old in rows if old.get("step", 0) <= row["step"] or old["kind"] == "event"]
        rows.append(row)
    return rows


def _end_of_last_line(text: bytes) -> int:
    return text.rfind(b"\n") + 1


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
