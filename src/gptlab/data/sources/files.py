"""Files of documents, and the pieces they are cut into, which independent processes can read.

.txt[.gz|.zst]                              the whole file is one document, and is held in memory as one
.jsonl[.gz|.zst], .ndjson[.gz|.zst]         a document a line, in a column of text
.json[.gz|.zst]                             the same, or one list of objects, or objects of several lines each
.parquet                                    a document a row, in a column of text

The column is told, or else found: "text", "content", or the only one that holds text.
"""

import gzip
import io
import re
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from gptlab.errors import DataError
from gptlab.parsing import parse_json

TEXT_COLUMNS = ("text", "content")  # tried in this order where none is named
JSONL_PIECE_BYTES = 8_000_000
LINE_BYTES = 1 << 28  # more than any document has; a small file can be packed from a line of any length
LOOK_BYTES = 1 << 24  # of a .json file, to tell what it is: a longer line or object is left to its reader
CHUNK_BYTES = 1 << 20  # of a .json file at a time, so that memory does not grow with the list
PARQUET_ROWS = 128  # read at a time, so that memory does not grow with the row group
EXPANSION = {".gz": 3.0, ".zst": 3.0, ".parquet": 1.7}
"""About how many bytes of text a byte of a file holds: DCLM's and C4's shards, FineWeb's and OpenWebText's."""


@dataclass(frozen=True)
class Piece:
    """A part of a source that can be read on its own, anywhere, and again."""

    path: str = field(repr=False)
    """The file it lies in, wherever that may be."""
    stamp: str
    """Which file that is, and its state when it was cut: another stamp, another piece."""
    bytes: int
    """About how many bytes of text it holds."""

    def documents(self) -> Iterator[str]:
        """Read its documents in order, empty ones left out.

        Raises:
            DataError: something in it is no document; names the file and the place.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class TextPiece(Piece):
    """A .txt file, packed or not, which is one document."""

    @staticmethod
    def cut(path: Path, column: str | None, stamp: str) -> Iterator[Piece]:
        """Make the file's one piece."""
        yield TextPiece(str(path), stamp, text_bytes(path.name, path.stat().st_size))

    def documents(self) -> Iterator[str]:
        try:
            with _opened(self.path) as file:
                text = file.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(
                f"file {self.path}: byte {error.start:,} is not UTF-8; convert it, for example with iconv"
            ) from error
        if text:
            yield text


@dataclass(frozen=True)
class ObjectsPiece(Piece):
    """JSON objects, each of which has a document in one of its values."""

    column: str
    """Which value of an object is its document."""

    def documents(self) -> Iterator[str]:
        for raw, number in self._objects():
            text = self._text(raw, number)
            if text:
                yield text

    def find_column(self, named: str | None) -> str:
        """Find the column of text in the first object, or the named one; its own where there is no object."""
        for raw, number in self._objects():
            if named is not None:
                self._text(raw, number)
                break
            columns = self._columns(raw, number)
            texts = [name for name, value in columns.items() if isinstance(value, str)]
            return _only(texts, list(columns), self._place(number))
        return self.column

    def _objects(self) -> Iterator[tuple[bytes, int]]:
        """Read the objects as they are written, each with a number to find it by."""
        raise NotImplementedError

    def _place(self, number: int) -> str:
        """Say where the object of a number stands."""
        raise NotImplementedError

    def _text(self, raw: bytes, number: int) -> str:
        columns = self._columns(raw, number)
        if not isinstance(columns.get(self.column), str):
            raise DataError(f'{self._place(number)}: has no text in "{self.column}"; {_choose(columns)}')
        return columns[self.column]

    def _columns(self, raw: bytes, number: int) -> dict[str, Any]:
        try:
            row = parse_json(raw)
        except ValueError as error:
            raise DataError(f"{self._place(number)}: is not JSON ({error}); mend or drop it") from error
        if not isinstance(row, dict):
            raise self._no_object(number)
        return cast(dict[str, Any], row)

    def _no_object(self, number: int) -> DataError:
        return DataError(f'{self._place(number)}: is not an object such as {{"{self.column}": "..."}}')

    def _too_long(self, number: int) -> DataError:
        return DataError(
            f"{self._place(number)}: is longer than {LINE_BYTES:,} bytes; cut it into several documents"
        )


@dataclass(frozen=True)
class JsonlPiece(ObjectsPiece):
    """The lines of a .jsonl file that begin within a range of bytes."""

    start: int
    """Where the range begins."""
    stop: int | None
    """Where the range ends; None for the end of the file."""

    @staticmethod
    def cut(path: Path, column: str | None, stamp: str) -> Iterator[Piece]:
        """Cut a plain file into ranges; a compressed one is one range, as it is read from its beginning."""
        size = path.stat().st_size
        column = JsonlPiece(str(path), "", 0, column or TEXT_COLUMNS[0], 0, None).find_column(column)
        if path.suffix.lower() in _OPENERS:
            yield JsonlPiece(str(path), stamp, text_bytes(path.name, size), column, 0, None)
            return
        for start in range(0, size, JSONL_PIECE_BYTES):
            stop = min(start + JSONL_PIECE_BYTES, size)
            yield JsonlPiece(str(path), stamp, stop - start, column, start, stop)

    def _objects(self) -> Iterator[tuple[bytes, int]]:
        """Read the lines that hold something, each with its number within the range."""
        with _opened(self.path) as file:
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
        # A line that begins before the range belongs to the range before.
        file.seek(self.start - 1)
        return self.start - 1 + len(file.readline())

    def _place(self, number: int) -> str:
        # Lines are counted within the range; only an error pays for counting those before it.
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
    """A .json file of one list of objects, or of objects that follow each other, however their lines are broken."""

    @staticmethod
    def cut(path: Path, column: str | None, stamp: str) -> Iterator[Piece]:
        """Make the file's one piece, as only its reader knows where an object ends; one of lines is cut as such."""
        first = _first_line(str(path))
        if not first or _is_object(first):
            yield from JsonlPiece.cut(path, column, stamp)
            return
        if first[:1] not in b"[{":
            raise DataError(
                f"file {path}: holds neither JSON objects nor a list of them; convert it to an object a line"
            )
        column = JsonPiece(str(path), "", 0, column or TEXT_COLUMNS[0]).find_column(column)
        yield JsonPiece(str(path), stamp, text_bytes(path.name, path.stat().st_size), column)

    def _objects(self, most: int | None = None) -> Iterator[tuple[bytes, int]]:
        """Read the objects, each with its number from 1; `most` bytes is the longest one may be."""
        most = most or LINE_BYTES
        with _opened(self.path) as file:
            held = file.read(CHUNK_BYTES).removeprefix(_MARK).lstrip()
            listed = held.startswith(b"[")
            start = 1 if listed else 0
            for number in count(1):
                start = _between(held, start)
                while start == len(held) and (more := file.read(CHUNK_BYTES)):
                    held, start = more, _between(more, 0)
                if start == len(held) and not listed:
                    return
                if listed and held[start : start + 1] == b"]":
                    self._check_end(held[start + 1 :] + file.read(CHUNK_BYTES))
                    return
                if held[start : start + 1] not in (b"{", b""):
                    raise self._no_object(number)
                while (end := _object_end(held, start)) is None:
                    if len(held) - start >= most:
                        raise self._too_long(number)
                    # Twice as much each time, as what is held is looked through anew.
                    more = file.read(min(max(CHUNK_BYTES, len(held) - start), most))
                    if not more:
                        raise DataError(f"{self._place(number)}: the file ends within it; fetch it again")
                    held, start = held[start:] + more, 0
                yield held[start:end], number
                start = end

    def holds_text(self, named: str | None) -> bool:
        """Say whether the first object has the named column, or one of those that hold documents by their name."""
        try:
            for raw, number in self._objects(LOOK_BYTES):
                columns = self._columns(raw, number)
                return any(
                    isinstance(columns.get(name), str) for name in ([named] if named else TEXT_COLUMNS)
                )
        except DataError:
            return self._begins_as_objects()
        return False

    def _begins_as_objects(self) -> bool:
        """Say whether its reader should tell what is wrong with it: with what holds no objects, nothing is."""
        try:
            with _opened(self.path) as file:
                head = file.read(CHUNK_BYTES).removeprefix(_MARK).lstrip()
        except DataError:
            return True
        return head.removeprefix(b"[").lstrip()[:1] == b"{"

    def _check_end(self, rest: bytes) -> None:
        if rest.strip():
            raise DataError(f"file {self.path}: goes on behind the end of its list; write an object a line")

    def _place(self, number: int) -> str:
        return f"file {self.path}, item {number:,}"


@dataclass(frozen=True)
class ParquetPiece(Piece):
    """A row group of a .parquet file."""

    column: str
    """Which column holds the documents."""
    row_group: int
    """Which row group, from 0."""

    @staticmethod
    def cut(path: Path, column: str | None, stamp: str) -> Iterator[Piece]:
        """Cut a file into its row groups, by its footer alone."""
        with _parquet(path) as file:
            names = file.schema_arrow.names
            if column is None:
                texts = [field.name for field in file.schema_arrow if _holds_text(field.type)]
                column = _only(texts, names, f"file {path}")
            if column not in names:
                raise DataError(f'file {path}: has no column "{column}"; {_choose(names)}')
            kind = file.schema_arrow.field(column).type
            if not _holds_text(kind):
                raise DataError(f'file {path}: column "{column}" holds {kind}, not text; {_choose(names)}')
            leaves = [file.metadata.schema.column(leaf).path for leaf in range(file.metadata.num_columns)]
            leaf = leaves.index(column)
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).column(leaf).total_uncompressed_size
                yield ParquetPiece(str(path), stamp, size, column, group)

    def documents(self) -> Iterator[str]:
        import pyarrow

        place = f"file {self.path}, row group {self.row_group}"
        rows = count()
        with _parquet(Path(self.path)) as file:
            batches = file.iter_batches(PARQUET_ROWS, row_groups=[self.row_group], columns=[self.column])
            try:
                for batch in batches:
                    for text, row in zip(batch.column(0).to_pylist(), rows, strict=False):
                        if text is None:
                            raise DataError(f'{place}, row {row:,}: has no "{self.column}"; drop the row')
                        if text:
                            yield text
            except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
                raise DataError(f"{place}: cannot be read ({error}); fetch the file again") from error


def cut_file(path: Path, column: str | None, stamp: str | None = None) -> Iterator[Piece]:
    """Cut a file into pieces.

    Args:
        path: the file; its name ends in one of FORMATS_HERE.
        column: which column of JSON and .parquet holds the documents; None finds it.
        stamp: what to know the file by; None is its path, size and time.

    Raises:
        DataError: the file cannot be read, or lacks the column.
    """
    try:
        state = path.stat()
        yield from FORMATS_HERE[format_here(path)](
            path, column, stamp or f"{path} {state.st_size} {state.st_mtime_ns}"
        )
    except OSError as error:
        raise DataError(f"file {path}: cannot be read ({error.strerror or error})") from error


def file_format(path: Path) -> str:
    """Return the entry of FORMATS that the name of a file on the hub ends in; nothing where there is none."""
    return next((suffix for suffix in FORMATS if path.name.endswith(suffix)), "")


def format_here(path: Path) -> str:
    """Return the entry of FORMATS_HERE that a file's name ends in, in letters of any case; nothing for none."""
    name = path.name.lower()
    return next((suffix for suffix in FORMATS_HERE if name.endswith(suffix)), "")


def holds_no_documents(path: Path, column: str | None) -> bool:
    """Say of a file among others whether it is a .json one of settings, labels or whatever else JSON is used for.

    Beside such files lie those of text in many folders. Documents are told from them by a column of a name that
    documents have, or by the named one.
    """
    return format_here(path) in (".json", ".json.zst") and not JsonPiece(str(path), "", 0, "").holds_text(
        column
    )


def text_bytes(name: str, size: int) -> int:
    """Estimate how many bytes of text a file of this name and size holds."""
    return int(size * EXPANSION.get(PurePosixPath(name).suffix.lower(), 1))


def _only(texts: list[str], columns: list[str], place: str) -> str:
    """Return the column that must be meant; `texts` are those that hold text."""
    meant = next((name for name in TEXT_COLUMNS if name in texts), None)
    if meant is None and len(texts) != 1:
        several = "several columns of text" if texts else "no column of text"
        raise DataError(
            f"{place}: has {several}, none of them {' or '.join(TEXT_COLUMNS)}; {_choose(columns)}"
        )
    return meant or texts[0]


def _choose(columns: "list[str] | dict[str, Any]") -> str:
    return f"the columns are {', '.join(columns) or 'none'}: choose with --text-column"


_MARK = b"\xef\xbb\xbf"  # the byte order mark of UTF-8
_SEPARATORS = re.compile(rb"[\s,]*")
# A string to its end or that of what is held (then without the second quote), an opening, a closing bracket.
_STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+("?)|([{\[])|[}\]]', re.DOTALL)


def _between(held: bytes, start: int) -> int:
    """Return where what separates objects ends."""
    found = _SEPARATORS.match(held, start)
    return found.end() if found else start


def _object_end(held: bytes, start: int) -> int | None:
    """Return where the object that begins at `start` ends; None where more of it has to be read."""
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
    """Read the first line that holds something, without spaces and byte order mark, or the beginning of it."""
    with _opened(path) as file:
        for line in iter(lambda: file.readline(LOOK_BYTES), b""):
            if held := line.removeprefix(_MARK).strip():
                return held
    return b""


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False


@contextmanager
def _opened(path: str) -> Generator[BinaryIO]:
    """Open a file of bytes, which are unpacked where its name says that they are packed.

    Raises:
        DataError: it cannot be read, now or later.
    """
    try:
        with _OPENERS.get(Path(path).suffix.lower(), _open_plain)(path) as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        if "too much memory" in str(error):  # zstd's own words, which pyarrow passes on
            raise DataError(
                f"file {path}: was packed with a window of over 128 MiB (zstd --long=28 or more), which is not "
                f"read here; unpack it with: zstd -d --long=31 {path}"
            ) from error
        raise DataError(f"file {path}: cannot be read ({error}); fetch it again") from error


def _open_plain(path: str) -> BinaryIO:
    return Path(path).open("rb")


def _open_gzip(path: str) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb"))


@contextmanager
def _open_zstd(path: str) -> Generator[BinaryIO]:
    import pyarrow

    # pyarrow brings zstd along; the standard library has it from Python 3.14 on only.
    with _for_pyarrow(Path(path)) as file, pyarrow.input_stream(file, compression="zstd") as stream:
        yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, stream)))


@contextmanager
def _parquet(path: Path) -> Generator[Any]:
    import pyarrow
    import pyarrow.parquet

    with _for_pyarrow(path) as source:
        try:
            # Without pre_buffer a column is read as it is needed, not as a whole.
            file = pyarrow.parquet.ParquetFile(source, pre_buffer=False, buffer_size=1 << 20)
        except pyarrow.ArrowException as error:
            raise DataError(f"file {path}: is not a Parquet file ({error}); fetch it again") from error
        with file:
            yield file


def _for_pyarrow(path: Path) -> AbstractContextManager[Any]:
    """Give what pyarrow opens a file by: its path, or where that is not UTF-8 the file itself."""
    try:
        str(path).encode()
        return nullcontext(path)
    except UnicodeEncodeError:
        return path.open("rb")


def _holds_text(kind: Any) -> bool:
    import pyarrow.types

    value = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    tests = (pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_string_view)
    return any(test(value) for test in tests)


_OPENERS: dict[str, Callable[[str], AbstractContextManager[BinaryIO]]] = {
    ".gz": _open_gzip,
    ".zst": _open_zstd,
}

Cut = Callable[[Path, str | None, str], Iterator[Piece]]

FORMATS: dict[str, Cut] = {
    ".txt": TextPiece.cut,
    ".jsonl": JsonlPiece.cut,
    ".jsonl.gz": JsonlPiece.cut,
    ".jsonl.zst": JsonlPiece.cut,
    ".json.gz": JsonPiece.cut,  # C4's
    ".parquet": ParquetPiece.cut,
}
"""What is read of a repository on the hub, where of several formats the last one is taken.

No .json: those of a repository describe it.
"""

FORMATS_HERE: dict[str, Cut] = FORMATS | {
    ".txt.gz": TextPiece.cut,
    ".txt.zst": TextPiece.cut,
    ".ndjson": JsonlPiece.cut,
    ".ndjson.gz": JsonlPiece.cut,
    ".ndjson.zst": JsonlPiece.cut,
    ".json": JsonPiece.cut,
    ".json.zst": JsonPiece.cut,
}
"""What is read of files that are here."""

READ_HERE = ".txt, .jsonl, .ndjson and .json, each of them also with .gz or .zst, and .parquet"
