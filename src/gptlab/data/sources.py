"""Sources: where documents come from, cut into pieces that independent processes can read.

A source is a name of SOURCES, a file, or a folder, whose files are read in sorted order but for hidden ones:

    .txt                    the whole file is one document
    .jsonl[.gz|.zst]        a document a line, in a column of text
    .parquet                a document a row, in a column of text

What a source holds and how it is cut depends on its files alone, never on who reads it or in which order.
"""

import difflib
import gzip
import hashlib
import io
import json
import platform
import sysconfig
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, cast

from gptlab.data import python_docs
from gptlab.errors import DataError

TEXT_COLUMN = "text"
JSONL_PIECE_BYTES = 8_000_000
PARQUET_ROWS = 128  # read at a time, so that memory does not grow with the row group
COMPRESSION = 3  # how many times smaller gzip and zstd make English text, about


@dataclass(frozen=True)
class Piece:
    """A part of a source that can be read on its own, anywhere, and again."""

    path: str
    """The file it lies in."""
    stamp: str
    """The file's state when it was cut: another stamp, another piece."""
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
    def cut(path: Path, column: str) -> Iterator[Piece]:
        """Make the file's one piece."""
        yield TextPiece(str(path), _stamp(path), path.stat().st_size)

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
    def cut(path: Path, column: str) -> Iterator[Piece]:
        """Cut a plain file into ranges; a compressed one is one range, as it is read from its beginning."""
        size, stamp = path.stat().st_size, _stamp(path)
        if path.suffix != ".jsonl":
            yield JsonlPiece(str(path), stamp, size * COMPRESSION, column, 0, None)
            return
        for start in range(0, size, JSONL_PIECE_BYTES):
            stop = min(start + JSONL_PIECE_BYTES, size)
            yield JsonlPiece(str(path), stamp, stop - start, column, start, stop)

    def documents(self) -> Iterator[str]:
        try:
            with _OPENERS[Path(self.path).suffix](self.path) as file:
                position = self._seek(file)
                for number in count(1):
                    line = file.readline() if self.stop is None or position < self.stop else b""
                    if not line:
                        return
                    position += len(line)
                    text = self._text(line, number)
                    if text:
                        yield text
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"file {self.path}: cannot be read ({error}); fetch it again") from error

    def _seek(self, file: BinaryIO) -> int:
        if self.start == 0:
            return 0
        # A line that begins before the range belongs to the range before.
        file.seek(self.start - 1)
        return self.start - 1 + len(file.readline())

    def _text(self, line: bytes, number: int) -> str:
        if not line.strip():
            return ""
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{self._place(number)}: is not JSON ({error}); mend or drop the line") from error
        if not isinstance(row, dict):
            raise DataError(f'{self._place(number)}: is not an object such as {{"{self.column}": "..."}}')
        columns = cast(dict[str, Any], row)
        if not isinstance(columns.get(self.column), str):
            raise DataError(f'{self._place(number)}: has no text in "{self.column}"; {_choose(columns)}')
        return _without_surrogates(columns[self.column])

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
    def cut(path: Path, column: str) -> Iterator[Piece]:
        """Cut a file into its row groups, by its footer alone."""
        with _parquet(path) as file:
            names = file.schema_arrow.names
            if column not in names:
                raise DataError(f'file {path}: has no column "{column}"; {_choose(names)}')
            kind = file.schema_arrow.field(column).type
            if not _holds_text(kind):
                raise DataError(f'file {path}: column "{column}" holds {kind}, not text; {_choose(names)}')
            leaves = [file.metadata.schema.column(leaf).path for leaf in range(file.metadata.num_columns)]
            leaf, stamp = leaves.index(column), _stamp(path)
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


@dataclass(frozen=True)
class PythonDocsPiece(Piece):
    """The documentation that comes with the Python that is running."""

    def documents(self) -> Iterator[str]:
        return python_docs.read_documents(Path(self.path))


@dataclass(frozen=True)
class Source:
    """A source that was found."""

    name: str
    """What it was asked for by."""
    revision: str
    """Which state of it: a version, or a hash of its files' names and sizes."""
    pieces: tuple[Piece, ...]
    """What it consists of, in order."""

    @property
    def bytes(self) -> int:
        """About how many bytes of text it holds."""
        return sum(piece.bytes for piece in self.pieces)

    def documents(self) -> Iterator[str]:
        """Read all its documents in order."""
        for piece in self.pieces:
            yield from piece.documents()


@dataclass(frozen=True)
class NamedSource:
    """A source that needs no path."""

    description: str
    """A line for `gptlab data list`."""
    find: Callable[[str | None], Source]
    """Looks it up, given the text column that was asked for."""


def find_source(source: str | Path, text_column: str | None = None) -> Source:
    """Find a source by its name in SOURCES or by its path, and cut it into pieces.

    Args:
        source: a name, a file or a folder.
        text_column: which column of .jsonl and .parquet files holds the documents; "text" unless told.

    Raises:
        DataError: there is no such source, it holds no file gptlab reads, or a file lacks the column.
    """
    name = str(source)
    if name in SOURCES:
        return SOURCES[name].find(text_column)
    if name.startswith("hf:"):
        raise DataError(
            f'source "{name}": the hub is not supported yet; download the files and pass their folder'
        )
    root = Path(source)
    if not root.exists():
        near = difflib.get_close_matches(name, SOURCES, 1)
        meant = f'; did you mean "{near[0]}"?' if near else ""
        raise DataError(
            f'source "{name}": no such file or folder, nor one of the names {", ".join(SOURCES)}{meant}'
        )
    files = _files(root)
    found: list[Piece] = []
    for path in files:
        try:
            found += FORMATS[_format(path)](path, text_column or TEXT_COLUMN)
        except OSError as error:
            raise DataError(f"file {path}: cannot be read ({error.strerror or error})") from error
    if not any(piece.bytes for piece in found):
        raise DataError(f'source "{name}": its files are empty; pass some that hold text')
    base = root.parent if root.is_file() else root
    state = "".join(f"{path.relative_to(base).as_posix()}\0{path.stat().st_size}\n" for path in files)
    return Source(name, f"sha256:{hashlib.sha256(state.encode()).hexdigest()}", tuple(found))


def pieces(source: str | Path, text_column: str | None = None) -> list[Piece]:
    """Cut a source into pieces, as find_source does."""
    return list(find_source(source, text_column).pieces)


def documents(source: str | Path, text_column: str | None = None) -> Iterator[str]:
    """Read the documents of a source, as find_source finds it, in order."""
    return find_source(source, text_column).documents()


def list_sources() -> list[dict[str, str]]:
    """List the sources that need no path, each with `name` and `description`."""
    return [{"name": name, "description": source.description} for name, source in SOURCES.items()]


def _files(root: Path) -> list[Path]:
    if root.is_file():
        if not _format(root):
            raise DataError(f"file {root}: gptlab reads {', '.join(FORMATS)}; convert it to one of them")
        return [root]
    files = [
        path
        for path in root.rglob("*")
        if _format(path)
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path.is_file()
    ]
    if not files:
        raise DataError(f"folder {root}: holds no file that gptlab reads: {', '.join(FORMATS)}")
    return sorted(files, key=lambda path: path.parts)


def _format(path: Path) -> str:
    return next((suffix for suffix in FORMATS if path.name.endswith(suffix)), "")


def _stamp(path: Path) -> str:
    state = path.stat()
    return f"{state.st_size} {state.st_mtime_ns}"


def _choose(columns: "list[str] | dict[str, Any]") -> str:
    return f"the columns are {', '.join(columns) or 'none'}: choose with --text-column"


def _without_surrogates(text: str) -> str:
    """Replace lone surrogates, which JSON can spell and UTF-8 cannot, by U+FFFD, as tiktoken does."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


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


def _python_docs(text_column: str | None) -> Source:
    if text_column is not None:
        raise DataError(f'source "python-docs": has no columns, so no "{text_column}"; drop --text-column')
    library = Path(sysconfig.get_path("stdlib"))
    if not (library / python_docs.TOPICS).is_file():
        raise DataError(
            f'source "python-docs": {library / python_docs.TOPICS} is missing, so this Python carries no '
            "documentation; pass files of text"
        )
    version = f"{platform.python_implementation()} {platform.python_version()}"
    piece = PythonDocsPiece(str(library), version, python_docs.estimate_bytes(library))
    return Source("python-docs", version, (piece,))


_OPENERS = {".jsonl": _open_plain, ".gz": _open_gzip, ".zst": _open_zstd}

FORMATS: dict[str, Callable[[Path, str], Iterator[Piece]]] = {
    ".txt": TextPiece.cut,
    ".jsonl": JsonlPiece.cut,
    ".jsonl.gz": JsonlPiece.cut,
    ".jsonl.zst": JsonlPiece.cut,
    ".parquet": ParquetPiece.cut,
}

SOURCES: dict[str, NamedSource] = {
    "python-docs": NamedSource("the help topics and docstrings that every CPython carries", _python_docs),
}
