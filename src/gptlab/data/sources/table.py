"""Sources: where documents come from, cut into pieces that independent processes can read.

A source is a name of SOURCES, a data set on the Hugging Face hub (remote.py says how these are named), a file, or a
folder, whose files are read in sorted order but for hidden ones (folders.py says which, and what it does with links).
What a source holds and how it is cut depends on its files alone, never on who reads it or in which order.
"""

import difflib
import platform
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from gptlab.data.sources import python_docs
from gptlab.data.sources.files import READ_HERE, Piece, cut_file, format_here
from gptlab.data.sources.folders import list_files, revisions
from gptlab.data.sources.hub_source import PREFIX, find_remote, on_the_hub, split_name
from gptlab.data.sources.inputs import Here, Source
from gptlab.errors import DataError
from gptlab.progress import StatusLine


@dataclass(frozen=True)
class PythonDocsPiece(Piece):
    """The documentation that comes with the Python that is running."""

    def documents(self) -> Iterator[str]:
        return python_docs.read_documents(Path(self.path))


@dataclass(frozen=True)
class NamedSource:
    """A source that needs no path."""

    size: str
    """How much there is to fetch, about."""
    description: str
    """A line for `gptlab data list`."""
    find: Callable[[str, str | None], Source]
    """Looks it up, given the name as it was asked for and the text column."""


def find_source(source: str | Path, text_column: str | None = None, revision: str | None = None) -> Source:
    """Find a source by its name in SOURCES, on the hub, or by its path; say what of a folder is passed over.

    Args:
        source: a name, a file or a folder.
        text_column: which column of JSON and .parquet files holds the documents; unless told it is found.
        revision: the one that a source on the hub had before, to have it as it was then.

    Raises:
        DataError: there is no such source, it holds no file gptlab reads, or a file lacks the column.
    """
    name = str(source)
    if revision is not None:
        return replace(find_remote(revision, text_column), name=name)
    if name.startswith(PREFIX):
        return find_remote(name, text_column)
    known, _, _ = split_name(name)
    if known in SOURCES:
        return SOURCES[known].find(name, text_column)
    root = Path(source)
    if not root.exists():
        near = difflib.get_close_matches(known, SOURCES, 1)
        meant = f'; did you mean "{near[0]}"?' if near else ""
        raise DataError(
            f'source "{name}": no such file or folder, nor one of the names {", ".join(SOURCES)}{meant}'
        )
    try:
        return _find_files(name, root, text_column)
    except OSError as error:
        where = error.filename or root
        raise DataError(
            f"{where}: cannot be read ({error.strerror or error}); mend it and try again"
        ) from error


def documents(source: str | Path, text_column: str | None = None) -> Iterator[str]:
    """Read the documents of a source, as find_source finds it, in order."""
    return find_source(source, text_column).documents()


def list_sources() -> list[dict[str, str]]:
    """List the sources that need no path, each with `name`, `size` and `description`."""
    return [
        {"name": name, "size": source.size, "description": source.description}
        for name, source in SOURCES.items()
    ]


def _find_files(name: str, root: Path, text_column: str | None) -> Source:
    files, base = [root], root.parent
    if root.is_dir():
        (files, passed_over), base = list_files(root, text_column), root
        if passed_over:
            StatusLine().show(f"passed over in {root}: {passed_over}; gptlab reads {READ_HERE}", final=True)
    elif not root.is_file():
        raise DataError(f'source "{name}": is neither a file nor a folder; write what it gives to a file')
    elif not format_here(root):
        raise DataError(f"file {root}: gptlab reads {READ_HERE}; convert it to one of them")
    found: list[Piece] = []
    for path in files:
        found += cut_file(path, text_column)
    if not any(piece.bytes for piece in found):
        raise DataError(f'source "{name}": its files are empty; pass some that hold text')
    revision, earlier = revisions(base, files)
    return Source(name, revision, (Here.of(found),), earlier)


def _python_docs(name: str, text_column: str | None) -> Source:
    if name != "python-docs":
        raise DataError(f'source "{name}": there is but one python-docs; write just that')
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
    "python-docs": NamedSource(
        "0 MB", "the help topics and docstrings that every CPython carries", _python_docs
    ),
    "tinyshakespeare": NamedSource(
        "1 MB",
        "a million letters of Shakespeare's plays, the first 90 % of char-rnn's file",
        on_the_hub("karpathy/tiny_shakespeare", "default/train/*", "refs/convert/parquet"),
    ),
    "tinystories": NamedSource(
        "1 GB",
        "two million stories for small children, written by GPT-3.5 and GPT-4",
        on_the_hub("roneneldan/TinyStories", "data/train-*"),
    ),
    "openwebtext": NamedSource(
        "24 GB",
        "eight million pages that Reddit linked to, after GPT-2's WebText",
        on_the_hub("Skylion007/openwebtext", "plain_text/train-*"),
    ),
    "fineweb": NamedSource(
        "30 GB",
        "cleaned pages of the web, 10 billion tokens; fineweb:sample-100BT, :CC-MAIN-2024-10, :default (all) ...",
        on_the_hub("HuggingFaceFW/fineweb", "sample-10BT"),
    ),
    "fineweb-edu": NamedSource(
        "30 GB",
        "those of them that teach something, 10 billion tokens; fineweb-edu:sample-100BT and so on",
        on_the_hub("HuggingFaceFW/fineweb-edu", "sample-10BT"),
    ),
    "dclm": NamedSource(
        "6 TB",
        "DCLM-Baseline, 4 trillion tokens in files of 200 MB; ask for some with --max-tokens",
        on_the_hub("mlfoundations/dclm-baseline-1.0", "**/*.jsonl.zst"),
    ),
}
