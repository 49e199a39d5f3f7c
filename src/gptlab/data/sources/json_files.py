"""JSON files: a document per object, in one of its values.

A .jsonl file has an object per line. A .json file may instead be one list of objects, or objects one after the other
whose lines are broken anywhere.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, cast

from gptlab.data.sources.columns import TEXT_COLUMNS, choose, only_column
from gptlab.data.sources.compressed import DECOMPRESSORS, opened
from gptlab.data.sources.piece import Piece, text_bytes
from gptlab.errors import DataError
from gptlab.parsing import parse_json

JSONL_PIECE_BYTES = 8_000_000
LINE_BYTES = 1 << 28  # longer than any document; a small compressed file may hold a line of any length
LOOK_BYTES = 1 << 24  # of a .json file, to tell what it holds; a longer line or object is left to its reader
CHUNK_BYTES = 1 << 20  # of a .json file at a time, so that memory does not grow with the list


@dataclass(frozen=True)
class ObjectsPiece(Piece):
    """JSON objects, each with a document in one of its values."""

    column: str
    """The key of the value that is the document."""

    def documents(self) -> Iterator[str]:
        for raw, number in self._objects():
            text = self._text(raw, number)
            if text:
                yield text

    def find_column(self, named: str | None) -> str:
        """Find the column of text in the first object, or check the named one; without objects, return its own."""
        for raw, number in self._objects():
            if named is not None:
                self._text(raw, number)
                break
            columns = self._columns(raw, number)
            texts = [name for name, value in columns.items() if isinstance(value, str)]
            return only_column(texts, columns, self._at(number))
        return self.column

    def _objects(self) -> Iterator[tuple[bytes, int]]:
        """Read each object as it is written, with the number that `_at` finds it by."""
        raise NotImplementedError

    def _at(self, number: int) -> str:
        """Say where the object of this number is."""
        raise NotImplementedError

    def _text(self, raw: bytes, number: int) -> str:
        columns = self._columns(raw, number)
        if not isinstance(columns.get(self.column), str):
            raise DataError(f'{self._at(number)}: has no text in "{self.column}"; {choose(columns)}')
        return columns[self.column]

    def _columns(self, raw: bytes, number: int) -> dict[str, Any]:
        try:
            row = parse_json(raw)
        except ValueError as error:
            raise DataError(f"{self._at(number)}: is not JSON ({error}); fix or drop it") from error
        if not isinstance(row, dict):
            raise self._not_an_object(number)
        return cast(dict[str, Any], row)

    def _not_an_object(self, number: int) -> DataError:
        return DataError(f'{self._at(number)}: is not an object such as {{"{self.column}": "..."}}')

    def _too_long(self, number: int) -> DataError:
        return DataError(
            f"{self._at(number)}: is longer than {LINE_BYTES:,} bytes; cut it into several documents"
        )


@dataclass(frozen=True)
class JsonlPiece(ObjectsPiece):
    """The lines of a .jsonl file that begin within a range of bytes."""

    start: int
    """Where the range begins."""
    stop: int | None
    """Where the range ends; None is the end of the file."""

    @staticmethod
    def cut(path: Path, column: str | None, stamp: str) -> Iterator[Piece]:
        """Cut a plain file into ranges; a compressed one can only be read from its beginning, and is one range."""
        size = path.stat().st_size
        column = JsonlPiece(str(path), "", 0, column or TEXT_COLUMNS[0], 0, None).find_column(column)
        if path.suffix.lower() in DECOMPRESSORS:
            yield JsonlPiece(str(path), stamp, text_bytes(path.name, size), column, 0, None)
            return
        for start in range(0, size, JSONL_PIECE_BYTES):
            stop = min(start + JSONL_PIECE_BYTES, size)
            yield JsonlPiece(str(path), stamp, stop - start, column, start, stop)

    def place(self, number: int) -> str:
        return super().place(number) + (f" after byte {self.start:,}" if self.start else "")

    def _objects(self) -> Iterator[tuple[bytes, int]]:
        """Read the lines that are not blank, each with its number within the range."""
        with opened(self.path) as file:
            position = self._seek(file)
            for number in count(1):
                line = file.readline(LINE_BYTES) if self.stop is None or position < self.stop else b""
                if not line:
                    return
                if len(line) == LINE_BYTES:
                    raise self._too_long(number)
                position += len(line)
                if line.strip():
                    yield line, number

    def _seek(self, file: BinaryIO) -> int:
        if self.start == 0:
            return 0
        # A line that begins before the range belongs to the previous range.
        file.seek(self.start - 1)
        return self.start - 1 + len(file.readline())

    def _at(self, number: int) -> str:
        # Lines are numbered within the range; only an error pays for counting the lines before it.
        with Path(self.path).open("rb") as file:
            remaining = self.start
            while remaining > 0:
                chunk = file.read(min(remaining, 1 << 20))
                remaining -= len(chunk)
                number += chunk.count(b"\n")
                if remaining == 0 and not chunk.endswith(b"\n"):
                    number += 1
        return f"file {self.path}, line {number:,}"


@dataclass(frozen=True)
class JsonPiece(ObjectsPiece):
    """A .json file: one list of objects, or objects one after the other."""

    @staticmethod
    def cut(path: Path, column: str | None, stamp: str) -> Iterator[Piece]:
        """Make the file's only piece, as only its reader finds where an object ends; cut lines as .jsonl is cut."""
        first = _first_line(str(path))
        if not first or _is_object(first):
            yield from JsonlPiece.cut(path, column, stamp)
            return
        if first[:1] not in b"[{":
            raise DataError(
                f"file {path}: holds neither JSON objects nor a list of them; convert it to an object per line"
            )
        column = JsonPiece(str(path), "", 0, column or TEXT_COLUMNS[0]).find_column(column)
        yield JsonPiece(str(path), stamp, text_bytes(path.name, path.stat().st_size), column)

    def _objects(self, most: int | None = None) -> Iterator[tuple[bytes, int]]:
        """Read the objects, each with its number from 1; an object may have at most `most` bytes."""
        most = most or LINE_BYTES
        with opened(self.path) as file:
            held = file.read(CHUNK_BYTES).removeprefix(_MARK).lstrip()
            listed = held.startswith(b"[")
            start = 1 if listed else 0
            for number in count(1):
                start = _next_object(held, start)
                while start == len(held) and (more := file.read(CHUNK_BYTES)):
                    held, start = more, _next_object(more, 0)
                if start == len(held) and not listed:
                    return
                if listed and held[start : start + 1] == b"]":
                    if (held[start + 1 :] + file.read(CHUNK_BYTES)).strip():
                        raise DataError(
                            f"file {self.path}: continues after the end of its list; write an object per line"
                        )
                    return
                if held[start : start + 1] not in (b"{", b""):
                    raise self._not_an_object(number)
                while (end := _object_end(held, start)) is None:
                    if len(held) - start >= most:
                        raise self._too_long(number)
                    # Double what is held each time, as all of it is searched again.
                    more = file.read(min(max(CHUNK_BYTES, len(held) - start), most))
                    if not more:
                        raise DataError(f"{self._at(number)}: the file ends inside it; fetch it again")
                    held, start = held[start:] + more, 0
                yield held[start:end], number
                start = end

    def holds_text(self, named: str | None) -> bool:
        """Say whether the first object has text in the named column, or in one of TEXT_COLUMNS."""
        wanted = [named] if named else TEXT_COLUMNS
        try:
            for raw, number in self._objects(LOOK_BYTES):
                columns = self._columns(raw, number)
                return any(isinstance(columns.get(name), str) for name in wanted)
        except DataError:
            return self._begins_as_objects()
        return False

    def _begins_as_objects(self) -> bool:
        """Say whether a damaged file is worth an error from its reader: it is if it was meant to hold objects."""
        try:
            with opened(self.path) as file:
                head = file.read(CHUNK_BYTES).removeprefix(_MARK).lstrip()
        except DataError:
            return True
        return head.removeprefix(b"[").lstrip()[:1] == b"{"

    def _at(self, number: int) -> str:
        return f"file {self.path}, item {number:,}"


_MARK = b"\xef\xbb\xbf"  # UTF-8's byte order mark
_SEPARATORS = re.compile(rb"[\s,]*")
# A string, to its end or to the end of what is held (then without the second quote); an opening or closing bracket.
_STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+("?)|([{\[])|[}\]]', re.DOTALL)


def _next_object(held: bytes, start: int) -> int:
    """Skip what separates objects."""
    found = _SEPARATORS.match(held, start)
    return found.end() if found else start


def _object_end(held: bytes, start: int) -> int | None:
    """Return where the object that begins at `start` ends; None if more has to be read first."""
    depth = 0
    for part in _STRUCTURE.finditer(held, start):
        if part[1] is not None:
            if not part[1]:
                return None
            continue
        depth += 1 if part[2] else -1
        if depth == 0:
            return part.end()
    return None


def _first_line(path: str) -> bytes:
    """Read the first line that is not blank, or its beginning, without outer blanks and byte order mark."""
    with opened(path) as file:
        for line in iter(lambda: file.readline(LOOK_BYTES), b""):
            if held := line.removeprefix(_MARK).strip():
                return held
    return b""


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False
