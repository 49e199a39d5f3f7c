"""metrics.jsonl: the record of a run, one JSON object a line, append only."""

import errno
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
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
"""Kinds of rows that measure, and the keys that tell rows of one step apart.

A row of kind `event` tells in its key `event` what happened: resume, signal, plan, skip, rollback or save_failed.
"""
ACCURACIES = {"acc": "stderr", "acc_norm": "stderr_norm"}
"""The accuracies in an evaluation's row, each with the key of its standard error."""


def main_accuracy(row: Mapping[str, Any]) -> str:
    """Return the accuracy that stands for an evaluation: the one by length where there is one."""
    return "acc" if row.get("acc_norm") is None else "acc_norm"


BY = "by"
"""Key for the author of a row, if that is not the run itself."""
SPARE_BYTES = 1 << 20  # left free for the run on an almost full disk


class MetricsLog:
    """Appends rows to RUN/metrics.jsonl; rows older than five seconds survive a power cut.

    On opening, a last line that a crash cut short is removed. While the disk is full, rows wait in memory.

    Args:
        path: the file.
        tell: is given each row after it is written.
    """

    def __init__(self, path: Path, tell: Callable[[Mapping[str, Any]], None] | None = None) -> None:
        self.path, self._tell = path, tell
        path.touch()
        with path.open("rb+") as file:
            content = file.read()
            if (end := content.rfind(b"\n") + 1) < len(content):
                file.truncate(end)
        self._file = path.open("ab", buffering=0)
        self._waiting = b""
        self.failure: OSError | None = None
        """Why rows are waiting."""
        self._synced = time.monotonic()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.sync()
        self._file.close()
        if self.failure is not None and kind is None:
            raise self.failure

    def write(self, kind: str, **row: Any) -> None:
        """Append a row; numbers that JSON cannot hold become null."""
        row = _row_of(kind, row)
        self._waiting += _line(row)
        self._write()
        if self._tell is not None:
            self._tell(row)
        if time.monotonic() - self._synced > FSYNC_EVERY_S:
            self.sync()

    def sync(self) -> None:
        """Force the rows to the disk."""
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
    """Append a row to the metrics of a run that may be writing them at the same time.

    Raises:
        OSError: the row cannot be written.
    """
    if storage.free_bytes(path.parent) < SPARE_BYTES:  # half a line would spoil the run's next one
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
    """Count the lines of a metrics file, for `went_back`; a missing file has none."""
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def went_back(path: Path, step: int, since: int) -> bool:
    """Return whether a run went back before a step, in the lines after the first `since`."""
    rows = map(_row, path.read_bytes().split(b"\n")[since:]) if path.is_file() else ()
    return any(row is not None and _goes_back(row) and row["step"] < step for row in rows)


def read_rows(path: Path, *, own: bool = False) -> list[Row]:
    """Read a run's rows in the order they were written, each fact once.

    A run that continues from a checkpoint writes the rows after it again: a `resume` or `rollback` event voids the
    rows of later steps above it, but no events except skips. Among rows about the same fact the last one counts, in
    the place of the first. Damaged lines, as a kill may leave, are skipped, and with `own` the rows that others added.
    """
    kept: dict[tuple[Any, ...], Row] = {}
    lines = path.read_bytes().split(b"\n")
    for position, line in enumerate(lines[:-1], 1):
        row = _row(line)
        if row is None or (own and BY in row):
            continue
        if _goes_back(row):
            kept = {key: old for key, old in kept.items() if old["step"] <= row["step"] or key[0] == "note"}
        kept[_subject(row, position)] = row
    return list(kept.values())


def items_of(row: Row) -> str:
    """Return what identifies a score's items: their hash, or in older rows the name of a file, if any."""
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
