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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from gptlab.data import python_docs
from gptlab.data.files import COMPRESSION, FORMATS, Piece, cut_file, file_format
from gptlab.data.hub import HubFile, download, list_files
from gptlab.data.shards import file_sha256
from gptlab.errors import DataError

# Text in a byte of a file; of Parquet about what FineWeb's files hold (45 GB in 30), other columns included.
TEXT_PER_BYTE = {".parquet": 1.5, ".gz": float(COMPRESSION), ".zst": float(COMPRESSION)}


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

    @property
    def fetch_bytes(self) -> int:
        """How many bytes `open` fetches."""
        return 0

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
class HubInput(Input):
    """A file of a data set on the hub."""

    repository: str
    commit: str
    file: HubFile
    column: str | None

    @staticmethod
    def of(repository: str, commit: str, file: HubFile, column: str | None) -> "HubInput":
        """Make an input of a file, whose text is guessed from its size."""
        key = hashlib.sha256(f"{repository} {commit} {file.path} {column}".encode()).hexdigest()
        text_bytes = int(file.bytes * TEXT_PER_BYTE.get(Path(file.path).suffix, 1.0))
        return HubInput(key, text_bytes, repository, commit, file, column)

    @property
    def fetch_bytes(self) -> int:
        return self.file.bytes

    def open(self, folder: Path) -> Sequence[Piece]:
        path = download(self.repository, self.commit, self.file.path, folder)
        if self.file.sha256 not in (None, file_sha256(path)):
            path.unlink()
            raise DataError(
                f"hf:{self.repository}: {self.file.path} arrived with another sha256 than the hub has; run again "
                "to fetch it anew"
            )
        # Known by where it is from, not by where it was put.
        return list(cut_file(path, self.column, f"hf:{self.repository}@{self.commit}/{self.file.path}"))

    def close(self, folder: Path) -> None:
        (folder / self.file.path).unlink(missing_ok=True)


@dataclass(frozen=True)
class NamedSource:
    """A source that needs no path."""

    description: str
    """A line for `gptlab data list`."""
    find: Callable[[str, str | None, str | None], Source]
    """Looks it up, given its name, the text column that was asked for and the revision to keep to."""


def find_source(source: str | Path, text_column: str | None = None, revision: str | None = None) -> Source:
    """Find a source by its name in SOURCES, on the hub or by its path, and cut what is here into pieces.

    Args:
        source: a name, hf:OWNER/NAME[@REVISION][:WHAT], a file or a folder.
        text_column: which column of .jsonl and .parquet files holds the documents; found unless told.
        revision: the commit to keep to, of a source on the hub; None is its newest.

    Raises:
        DataError: there is no such source, it holds no file gptlab reads, or a file lacks the column.
    """
    name = str(source)
    known = name if name in SOURCES else name.partition(":")[0]
    if known in SOURCES:
        return SOURCES[known].find(name, text_column, revision)
    if name.startswith("hf:"):
        return _find_on_hub(name, name, text_column, revision)
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


def _find_on_hub(name: str, address: str, text_column: str | None, revision: str | None) -> Source:
    """Find hf:OWNER/NAME[@REVISION][:WHAT], where WHAT is a configuration of its card, a path or a pattern."""
    where, _, what = address.removeprefix("hf:").partition(":")
    repository, _, asked = where.partition("@")
    if not all(repository.partition("/")):
        raise DataError(f'source "{name}": must be hf:OWNER/NAME[@REVISION][:CONFIG_OR_PATH]')
    commit, files, configs = list_files(repository, revision or asked or None)
    readable = {file.path: file for file in files if file_format(Path(file.path))}
    patterns = _patterns(what, configs)
    if patterns is None:
        patterns = [what, f"{what.rstrip('/')}/*"] if what else ["*"]
        if not what and any("train" in path.lower() for path in readable):
            patterns = ["*[tT][rR][aA][iI][nN]*"]  # the other files are for validation, or about the data
    chosen = sorted(path for path in readable if any(fnmatchcase(path, pattern) for pattern in patterns))
    if not chosen:
        names = ", ".join(str(config.get("config_name")) for config in configs)
        raise DataError(
            f'source "{name}": none of its {len(files)} files is {" or ".join(patterns)} and of a kind that gptlab '
            f"reads, {', '.join(FORMATS)}" + (f"; its configurations are {names}" if names else "")
        )
    inputs = [HubInput.of(repository, commit, readable[path], text_column) for path in chosen]
    return Source(name, commit, tuple(inputs))


def _patterns(what: str, configs: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """Return the patterns of a configuration's training files: of the one named, else of the default one."""
    if what:
        found = [config for config in configs if config.get("config_name") == what]
    else:
        marked = [config for config in configs if config.get("default")]
        named = [config for config in configs if config.get("config_name") == "default"]
        found = marked or named or (list(configs) if len(configs) == 1 else [])
    data_files = found[0].get("data_files") if found else None
    if data_files is None:
        return None
    entries: list[Any] = data_files if isinstance(data_files, list) else [data_files]
    splits = [entry for entry in entries if isinstance(entry, dict)]
    train = [entry for entry in splits if entry.get("split") == "train"] or splits
    paths = [path for entry in train for path in _listed(entry.get("path"))]
    return paths + [entry for entry in entries if isinstance(entry, str)]


def _listed(paths: Any) -> list[str]:
    return [str(path) for path in paths] if isinstance(paths, list) else [str(paths)]


def _named(address: str) -> Callable[[str, str | None, str | None], Source]:
    """Make the finder of a data set on the hub, whose configuration can be another one: NAME:CONFIG."""

    def find(name: str, text_column: str | None, revision: str | None) -> Source:
        _, colon, config = name.partition(":")
        where = address.rpartition(":")[0] if address.count(":") > 1 else address
        return _find_on_hub(name, f"{where}:{config}" if colon else address, text_column, revision)

    return find


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


def _python_docs(name: str, text_column: str | None, revision: str | None) -> Source:
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
    "fineweb": NamedSource(
        "FineWeb, English web text, 31 GB of 10 billion tokens; fineweb:sample-100BT, fineweb:default",
        _named("hf:HuggingFaceFW/fineweb:sample-10BT"),
    ),
    "fineweb-edu": NamedSource(
        "FineWeb-Edu, its educational part, 28 GB of 10 billion tokens; fineweb-edu:sample-100BT, :default",
        _named("hf:HuggingFaceFW/fineweb-edu:sample-10BT"),
    ),
    "dclm": NamedSource(
        "DCLM-Baseline, filtered web text, trillions of tokens: name a part, as dclm:global-shard_01_of_10, or "
        "use --max-tokens",
        _named("hf:mlfoundations/dclm-baseline-1.0"),
    ),
    "openwebtext": NamedSource(
        "OpenWebText, 9 billion tokens of what GPT-2 is thought to have read",
        _named("hf:Skylion007/openwebtext"),
    ),
    "tinystories": NamedSource(
        "TinyStories, 0.5 billion tokens of stories for small children", _named("hf:roneneldan/TinyStories")
    ),
    "tinyshakespeare": NamedSource(
        "a megabyte of Shakespeare, as char-rnn has it",
        _named("hf:karpathy/tiny_shakespeare@refs/convert/parquet:default/train/*"),
    ),
}
