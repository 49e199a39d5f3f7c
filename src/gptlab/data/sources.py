"""Sources: where documents come from, cut into pieces that independent processes can read.

A source is a name of SOURCES, a file, or a folder, whose files are read in sorted order but for hidden ones;
files.py says which. It consists of inputs, each of which is here or is fetched as a whole when its turn comes.
What a source holds and how it is cut depends on its files alone, never on who reads it or in which order.
"""

import difflib
import hashlib
import platform
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gptlab.data import python_docs
from gptlab.data.files import FORMATS, Piece, cut_file, file_format
from gptlab.errors import DataError


@dataclass(frozen=True)
class PythonDocsPiece(Piece):
    """The documentation that comes with the Python that is running."""

    def documents(self) -> Iterator[str]:
        return python_docs.read_documents(Path(self.path))


@dataclass(frozen=True)
class Input:
    """A part of a source that comes as a whole."""

    key: str
    """Names its content, wherever it lies."""
    bytes: int
    """About how many bytes of text it holds."""

    def open(self, folder: Path) -> Sequence[Piece]:
        """Fetch it into `folder`, if it is not here, and cut it into pieces.

        Raises:
            DataError: it cannot be had, or is not what it should be.
        """
        raise NotImplementedError

    def close(self, folder: Path) -> None:
        """Take away what `open` put into `folder`, if it did."""


@dataclass(frozen=True)
class Here(Input):
    """Files that are here: one input however many they are, so that small ones share a job."""

    pieces: tuple[Piece, ...]
    """What they were cut into."""

    @staticmethod
    def of(pieces: Sequence[Piece]) -> "Here":
        """Make an input of pieces."""
        key = hashlib.sha256(repr(pieces).encode()).hexdigest()
        return Here(key, sum(piece.bytes for piece in pieces), tuple(pieces))

    def open(self, folder: Path) -> Sequence[Piece]:
        return self.pieces


@dataclass(frozen=True)
class Source:
    """A source that was found."""

    name: str
    """What it was asked for by."""
    revision: str
    """Which state of it: a version, or a hash of its files' names and sizes."""
    inputs: tuple[Input, ...]
    """What it consists of, in order."""

    @property
    def bytes(self) -> int:
        """About how many bytes of text it holds."""
        return sum(part.bytes for part in self.inputs)

    def documents(self) -> Iterator[str]:
        """Read all its documents in order; what has to be fetched goes to a folder for the time being."""
        with tempfile.TemporaryDirectory() as name:
            for part in self.inputs:
                for piece in part.open(Path(name)):
                    yield from piece.documents()
                part.close(Path(name))


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
        found += cut_file(path, text_column)
    if not any(piece.bytes for piece in found):
        raise DataError(f'source "{name}": its files are empty; pass some that hold text')
    base = root.parent if root.is_file() else root
    state = "".join(f"{path.relative_to(base).as_posix()}\0{path.stat().st_size}\n" for path in files)
    return Source(name, f"sha256:{hashlib.sha256(state.encode()).hexdigest()}", (Here.of(found),))


def documents(source: str | Path, text_column: str | None = None) -> Iterator[str]:
    """Read the documents of a source, as find_source finds it, in order."""
    return find_source(source, text_column).documents()


def list_sources() -> list[dict[str, str]]:
    """List the sources that need no path, each with `name` and `description`."""
    return [{"name": name, "description": source.description} for name, source in SOURCES.items()]


def _files(root: Path) -> list[Path]:
    if root.is_file():
        if not file_format(root):
            raise DataError(f"file {root}: gptlab reads {', '.join(FORMATS)}; convert it to one of them")
        return [root]
    files = [
        path
        for path in root.rglob("*")
        if file_format(path)
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path.is_file()
    ]
    if not files:
        raise DataError(f"folder {root}: holds no file that gptlab reads: {', '.join(FORMATS)}")
    return sorted(files, key=lambda path: path.parts)


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
    return Source("python-docs", version, (Here.of([piece]),))


SOURCES: dict[str, NamedSource] = {
    "python-docs": NamedSource("the help topics and docstrings that every CPython carries", _python_docs),
}
