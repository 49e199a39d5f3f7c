"""Files of documents by their format, each cut into pieces.

.txt[.gz|.zst]                              the whole file is one document
.jsonl[.gz|.zst], .ndjson[.gz|.zst]         a document per line, in a column of text
.json[.gz|.zst]                             the same, or a list of objects, or objects of several lines each
.parquet                                    a document per row, in a column of text
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from gptlab.data.sources.compressed import DECOMPRESSORS
from gptlab.data.sources.json_files import JsonlPiece, JsonPiece
from gptlab.data.sources.parquet_files import ParquetPiece
from gptlab.data.sources.piece import Piece
from gptlab.data.sources.text_files import TextPiece
from gptlab.errors import DataError

Cut = Callable[[Path, str | None, str], Iterator[Piece]]

HUB_FORMATS = (".txt", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".parquet")  # .json.gz is C4's
"""What gptlab reads from a repository on the hub; if that has several formats, it reads the last of these.

Not .json: in a repository such files describe the data.
"""

PLAIN: dict[str, Cut] = {
    ".txt": TextPiece.cut,
    ".jsonl": JsonlPiece.cut,
    ".ndjson": JsonlPiece.cut,
    ".json": JsonPiece.cut,
}
"""Formats of text, which may also be compressed."""

LOCAL_FORMATS: dict[str, Cut] = {
    kind + packed: cut for kind, cut in PLAIN.items() for packed in ("", *DECOMPRESSORS)
} | {".parquet": ParquetPiece.cut}
"""What gptlab reads from files on this machine."""

READ_HERE = ".txt, .jsonl, .ndjson and .json, each of them also with .gz or .zst, and .parquet"


def cut_file(path: Path, column: str | None, stamp: str | None = None) -> Iterator[Piece]:
    """Cut a file into pieces; `stamp` identifies it, and is its path, size and time if None.

    Raises:
        DataError: the file cannot be read, or lacks the column.
    """
    try:
        state = path.stat()
        yield from LOCAL_FORMATS[format_here(path)](
            path, column, stamp or f"{path} {state.st_size} {state.st_mtime_ns}"
        )
    except OSError as error:
        raise DataError(f"file {path}: cannot be read ({error.strerror or error})") from error


def file_format(name: str) -> str:
    """Return the entry of HUB_FORMATS that the name of a file on the hub ends in; "" if none does."""
    return next((suffix for suffix in HUB_FORMATS if name.endswith(suffix)), "")


def format_here(path: Path) -> str:
    """Return the entry of LOCAL_FORMATS that a file's name ends in, in upper or lower case; "" if none does."""
    name = path.name.lower()
    return next((suffix for suffix in LOCAL_FORMATS if name.endswith(suffix)), "")


def holds_no_documents(path: Path, column: str | None) -> bool:
    """Say whether a file is .json with settings, labels or other data next to the text.

    Many folders hold such files. Documents have text in the named column, or in one of TEXT_COLUMNS.
    """
    is_json = format_here(path) in (".json", ".json.zst")
    return is_json and not JsonPiece(str(path), "", 0, "").holds_text(column)
