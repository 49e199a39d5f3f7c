"""Files of documents, and the pieces they are cut into, which independent processes can read.

.txt                              the whole file is one document
.jsonl[.gz|.zst], .json.gz        a document a line, in a column of text
.parquet                          a document a row, in a column of text

The column is told, or else found: "text", "content", or the only one that holds text.
"""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from gptlab.errors import DataError
from gptlab.parsing import parse_json

TEXT_COLUMNS = ("text", "content")  # tried in this order where none is named
JSONL_PIECE_BYTES = 8_000_000
LINE_BYTES = 1 << 28  # more than any document has; a small file can be packed from a line of any length
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
    """A .txt file, which is one document."""

    @staticmethod
    def cut(path: Path, column: str | None, stamp: str) -> Iterator[Piece]:
        """Make the file's one piece."""
        yield TextPiece(str(path), stamp, path.stat().st_size)

    def documents(self) -> Iterator[str]:
        try:
            text = Path(self.path).read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(
                f"file {self.path}: byte {error.start:,} is not UTF-8; convert it, for example with iconv"
            ) from error
        if text:
            yield text


@dataclass(frozen=True)
class JsonlPiece(Piece):
    """The lines of a .jsonl file that begin within a range of bytes."""

    column: str
    """Which value of a line is its document."""
    start: int
    """Where the range begins."""
    stop: int | None
    """Where the range ends; None for the end of the file."""

    @staticmethod
    def cut(path: Path, column: str | None, stamp: str) -> Iterator[Piece]:
        """Cut a plain file into ranges; a compressed one is one range, as it is read from its beginning."""
        size = path.stat().st_size
        column = JsonlPiece._find_column(path, column)
        if path.suffix != ".jsonl":
            yield JsonlPiece(str(path), stamp, text_bytes(path.name, size), column, 0, None)
            return
        for start in range(0, size, JSONL_PIECE_BYTES):
            stop = min(start + JSONL_PIECE_BYTES, size)
            yield JsonlPiece(str(path), stamp, stop - start, column, start, stop)

    @staticmethod
    def _find_column(path: Path, named: str | None) -> str:
        """Find the column of text in the first line that is not empty, or the named one."""
        whole = JsonlPiece(str(path), "", 0, named or TEXT_COLUMNS[0], 0, None)
        for line, number in whole._lines():
            if named is not None:
                whole._text(line, number)
                break
            columns = whole._columns(line, number)
            texts = [name for name, value in columns.items() if isinstance(value, str)]
            return _only(texts, list(columns), whole._place(number))
        return whole.column

    def documents(self) -> Iterator[str]:
        for line, number in self._lines():
            text = self._text(line, number)
            if text:
                yield text

    def _lines(self) -> Iterator[tuple[bytes, int]]:
        """Read the lines that hold something, each with its number within the range."""
        try:
            with _OPENERS[Path(self.path).suffix](self.path) as file:
                position = self._seek(file)
                for number in count(1):
                    line = file.readline(LINE_BYTES) if self.stop is None or position < self.stop else b""
                    if not line:
                        return
                    if len(line) == LINE_BYTES:
                        raise DataError(
                            f"{self._place(number)}: is longer than {LINE_BYTES:,} bytes; cut it into several documents"
                        )
                    position += len(line)
                    if line.strip():
                        yield line, number
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"file {self.path}: cannot be read ({error}); fetch it again") from error

    def _seek(self, file: BinaryIO) -> int:
        if self.start == 0:
            return 0
        # A line that begins before the range belongs to the range before.
        file.seek(self.start - 1)
        return self.start - 1 + len(file.readline())

    def _text(self, line: bytes, number: int) -> str:
        columns = self._columns(line, number)
        if not isinstance(columns.get(self.column), str):
            raise DataError(f'{self._place(number)}: has no text in "{self.column}"; {_choose(columns)}')
        return columns[self.column]

    def _columns(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = parse_json(line)
        except ValueError as error:
            raise DataError(f"{self._place(number)}: is not JSON ({error}); mend or drop the line") from error
        if not isinstance(row, dict):
            raise DataError(f'{self._place(number)}: is not an object such as {{"{self.column}": "..."}}')
        return cast(dict[str, Any], row)

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
        path: the file; its name ends in one of FORMATS.
        column: which column of .jsonl and .parquet holds the documents; None finds it.
        stamp: what to know the file by; None is its path, size and time.

    Raises:
        DataError: the file cannot be read, or lacks the column.
    """
    try:
        state = path.stat()
        yield from FORMATS[file_format(path)](
            path, column, stamp or f"{path} {state.st_size} {state.st_mtime_ns}"
        )
    except OSError as error:
        raise DataError(f"file {path}: cannot be read ({error.strerror or error})") from error


def file_format(path: Path) -> str:
    """Return the entry of FORMATS that a file's name ends in; nothing where there is none."""
    return next((suffix for suffix in FORMATS if path.name.endswith(suffix)), "")


def text_bytes(name: str, size: int) -> int:
    """Estimate how many bytes of text a file of this name and size holds."""
    return int(size * EXPANSION.get(PurePosixPath(name).suffix, 1))


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


def _open_plain(path: str) -> BinaryIO:
    return Path(path).open("rb")


def _open_gzip(path: str) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb"))


def _open_zstd(path: str) -> BinaryIO:
    import pyarrow

    # pyarrow brings zstd along; the standard library has it from Python 3.14 on only.
    stream = cast(io.RawIOBase, pyarrow.input_stream(path, compression="zstd"))
    return cast(BinaryIO, io.BufferedReader(stream))


def _parquet(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        # Without pre_buffer a column is read as it is needed, not as a whole.
        return pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
    except pyarrow.ArrowException as error:
        raise DataError(f"file {path}: is not a Parquet file ({error}); fetch it again") from error


def _holds_text(kind: Any) -> bool:
    import pyarrow.types

    value = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    return bool(pyarrow.types.is_string(value) or pyarrow.types.is_large_string(value))


_OPENERS = {".jsonl": _open_plain, ".gz": _open_gzip, ".zst": _open_zstd}

FORMATS: dict[str, Callable[[Path, str | None, str], Iterator[Piece]]] = {
    ".txt": TextPiece.cut,
    ".jsonl": JsonlPiece.cut,
    ".jsonl.gz": JsonlPiece.cut,
    ".jsonl.zst": JsonlPiece.cut,
    ".json.gz": JsonlPiece.cut,  # C4's
    ".parquet": ParquetPiece.cut,
}
