"""metrics.jsonl: the record of a run, one JSON object a line, append only."""

import errno
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from gptlab import storage
from gptlab.parsing import parse_json

Row = dict[str, Any]

FSYNC_EVERY_S = 5.0
GOES_BACK = ("resume", "rollback")
IDENTITY: dict[str, tuple[str, ...]] = {
    "step": (),
    "val": (),
    "eval": ("task", "protocol", "shots", "n"),  # and the items
    "sample": ("prompt", "text"),
}
"""Kinds of rows, and what tells two rows of one step apart."""
ACCURACIES = {"acc": "stderr", "acc_norm": "stderr_norm"}
"""What an evaluation's row holds of a task, and where its standard error is."""
BY = "by"
"""Says who wrote a row, where that was not the run itself."""
SPARE_BYTES = 1 << 20  # what is left to a run whose disk is almost full


class MetricsLog:
    """Appends rows to RUN/metrics.jsonl; what was written at least five seconds ago survives a power cut.

    A last line that a crash cut short is taken away on opening: it never was a row. While the disk is full, rows
    wait in memory.

    Args:
        path: the file.
        tell: is given each row after it was written.
    """

    def __init__(self, path: Path, tell: Callable[[Mapping[str, Any]], None] | None = None) -> None:
        self.path, self._tell = path, tell
        path.touch()
        with path.open("rb+") as file:
            content = file.read()
            if (end := _end_of_last_line(content)) < len(content):
                file.truncate(end)
        self._file = path.open("ab", buffering=0)
        self._waiting = b""
        self.failure: OSError | None = None
        """Why rows are waiting."""
        self._synced = time.monotonic()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sync()
        self._file.close()
        if self.failure is not None and kind is None:
            raise self.failure

    def write(self, kind: str, **row: Any) -> None:
        """Append one row; a number that JSON cannot hold is written as null."""
        row = _row_of(kind, row)
        self._waiting += _line(row)
        self._write()
        if self._tell is not None:
            self._tell(row)
        if time.monotonic() - self._synced > FSYNC_EVERY_S:
            self.sync()

    def sync(self) -> None:
        """Force what was written on to the disk."""
        self._write()
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _write(self) -> None:
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
            self.failure = None
        except OSError as error:
            error.filename = str(self.path)
            self.failure = error


def append_row(path: Path, kind: str, row: Row, by: str) -> None:
    """Append one row to a record that a run may be writing at this moment; nothing of that is taken away.

    Args:
        path: a run's metrics.jsonl.
        kind: of the row.
        row: the rest of it.
        by: who writes it.

    Raises:
        OSError: it cannot be written.
    """
    if storage.free_bytes(path.parent) < SPARE_BYTES:  # half a line would take the run's next one with it
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    line = _line(_row_of(kind, {**row, BY: by}))
    with path.open("ab+", buffering=0) as file:
        if end := file.seek(0, os.SEEK_END):
            file.seek(end - 1)
            line = line if file.read(1) == b"\n" else b"\n" + line
        if file.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(file.fileno())


def count_lines(path: Path) -> int:
    """Count what `went_back` is to pass over; a record that is not there yet has none."""
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def went_back(path: Path, step: int, since: int) -> bool:
    """Say whether a run has gone back behind a step in the lines after the first `since`."""
    rows = map(_row, path.read_bytes().split(b"\n")[since:]) if path.is_file() else ()
    return any(row is not None and _goes_back(row) and row["step"] < step for row in rows)


def read_rows(path: Path, complain: Callable[[str], None] | None = None, *, own: bool = False) -> list[Row]:
    """Read a run's rows in the order of their writing, each fact once.

    What a run wrote after a checkpoint is written again when it goes on from there: a `resume` or `rollback`
    event takes back the rows of later steps above it, all but such events themselves. Of rows about the same the
    last counts, in the place of the first. A line that is no row is passed over, as a kill may leave one.

    Args:
        path: a run's metrics.jsonl.
        complain: is told of every line that was passed over.
        own: whether to leave out what others have added to the run's record.
    """
    kept: dict[tuple[Any, ...], Row] = {}
    lines = path.read_bytes().split(b"\n")
    for position, line in enumerate(lines[:-1], 1):
        row = _row(line)
        if row is None:
            if complain is not None:
                complain(f"{path}: line {position} is damaged and passed over")
            continue
        if own and BY in row:
            continue
        if _goes_back(row):
            kept = {key: old for key, old in kept.items() if old["step"] <= row["step"] or key[0] == "note"}
        kept[_subject(row, position)] = row
    return list(kept.values())


def items_of(row: Row) -> str:
    """Return what a score's items are known by: their hash, or in rows of before it a file's name, if any."""
    return row.get("items_sha256") or row.get("data") or ""


def _row(line: bytes) -> Row | None:
    try:
        row = parse_json(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not isinstance(row.get("kind"), str):
        return None
    step = row.get("step")
    return row if isinstance(step, int) and not isinstance(step, bool) else None


def _goes_back(row: Row) -> bool:
    return row["kind"] == "event" and row.get("event") in GOES_BACK


def _subject(row: Row, position: int) -> tuple[Any, ...]:
    kind = row["kind"]
    if kind == "event" and row.get("event") == "skip":
        return "skip", row["step"]
    if kind not in IDENTITY:
        return "note", position
    about = [row.get(key) for key in IDENTITY[kind]] + [items_of(row)] * (kind == "eval")
    return kind, row["step"], *map(json.dumps, about)


def _end_of_last_line(text: bytes) -> int:
    return text.rfind(b"\n") + 1


def _row_of(kind: str, row: Row) -> Row:
    return {"kind": kind, **{key: _finite(value) for key, value in row.items()}}


def _line(row: Row) -> bytes:
    return (json.dumps(row, ensure_ascii=False) + "\n").encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
