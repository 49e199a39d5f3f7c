"""The sources by name, and finding any source by its name or path.

A source is a name of SOURCES, a data set on the Hugging Face hub (hub_source.py says how to name one), a file, or a
folder, whose files are read in sorted order (folders.py says which). What a source holds and how it is cut depends on
its files alone, never on who reads it or in which order.
"""

import platform
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from gptlab.data.sources import python_docs
from gptlab.data.sources.files import READ_HERE, cut_file, format_here
from gptlab.data.sources.folders import list_files, revisions
from gptlab.data.sources.hub_source import PREFIX, find_remote, on_the_hub, split_name
from gptlab.data.sources.source import Local, Source
from gptlab.errors import DataError, did_you_mean
from gptlab.progress import StatusLine


@dataclass(frozen=True)
class NamedSource:
    """A source that needs no path."""

    size: str
    """About how much there is to fetch."""
    description: str
    """A line for `gptlab data list`."""
    find: Callable[[str, str | None], Source]
    """Finds it, given the name the user gave and the text column."""


def find_source(source: str | Path, text_column: str | None = None, revision: str | None = None) -> Source:
    """Find a source by its name in SOURCES, on the hub, or by its path; show which files of a folder are passed over.

    `revision` is the one that a source on the hub had before, to find it in that state.

    Raises:
        DataError: there is no such source, it has no file that gptlab reads, or a file lacks the column.
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
        raise DataError(
            f'source "{name}": no such file or folder, nor one of the names {", ".join(SOURCES)}'
            f"{did_you_mean(known, SOURCES)}"
        )
    try:
        return _find_files(name, root, text_column)
    except OSError as error:
        where = error.filename or root
        raise DataError(
            f"{where}: cannot be read ({error.strerror or error}); fix it and try again"
        ) from error


def _find_files(name: str, root: Path, text_column: str | None) -> Source:
    files, base = [root], root.parent
    if root.is_dir():
        (files, passed_over), base = list_files(root, text_column), root
        if passed_over:
            StatusLine().show(f"passed over in {root}: {passed_over}; gptlab reads {READ_HERE}", final=True)
    elif not root.is_file():
        raise DataError(f'source "{name}": is neither a file nor a folder; write its output to a file')
    elif not format_here(root):
        raise DataError(f"file {root}: gptlab reads {READ_HERE}; convert it to one of them")
    pieces = [piece for path in files for piece in cut_file(path, text_column)]
    if not any(piece.bytes for piece in pieces):
        raise DataError(f'source "{name}": its files are empty; pass files that hold text')
    revision, earlier = revisions(base, files)
    return Source(name, revision, (Local.of(pieces),), earlier)


def _python_docs(name: str, text_column: str | None) -> Source:
    if name != "python-docs":
        raise DataError(f'source "{name}": python-docs has no configurations; write just python-docs')
    if text_column is not None:
        raise DataError(f'source "python-docs": has no columns, so no "{text_column}"; drop --text-column')
    library = Path(sysconfig.get_path("stdlib"))
    if not (library / python_docs.TOPICS).is_file():
        raise DataError(
            f'source "python-docs": {library / python_docs.TOPICS} is missing, so this Python has no '
            "documentation; pass text files instead"
        )
    version = f"{platform.python_implementation()} {platform.python_version()}"
    piece = python_docs.PythonDocsPiece(str(library), version, python_docs.estimate_bytes(library))
    return Source("python-docs", version, (Local.of([piece]),))


SOURCES: dict[str, NamedSource] = {
    "python-docs": NamedSource(
        "0 MB", "the help topics and docstrings that come with every CPython", _python_docs
    ),
    "tinyshakespeare": NamedSource(
        "1 MB",
        "a million characters of Shakespeare's plays, the first 90 % of char-rnn's file",
        on_the_hub("karpathy/tiny_shakespeare", "default/train/*", "refs/convert/parquet"),
    ),
    "tinystories": NamedSource(
        "1 GB",
        "two million stories for small children, written by GPT-3.5 and GPT-4",
        on_the_hub("roneneldan/TinyStories", "data/train-*"),
    ),
    "openwebtext": NamedSource(
        "24 GB",
        "eight million pages that Reddit links to, modelled on GPT-2's WebText",
        on_the_hub("Skylion007/openwebtext", "plain_text/train-*"),
    ),
    "fineweb": NamedSource(
        "30 GB",
        "cleaned web pages, 10 billion tokens; fineweb:sample-100BT, :CC-MAIN-2024-10, :default (all) ...",
        on_the_hub("HuggingFaceFW/fineweb", "sample-10BT"),
    ),
    "fineweb-edu": NamedSource(
        "30 GB",
        "FineWeb's educational pages, 10 billion tokens; fineweb-edu:sample-100BT and so on",
        on_the_hub("HuggingFaceFW/fineweb-edu", "sample-10BT"),
    ),
    "dclm": NamedSource(
        "6 TB",
        "DCLM-Baseline, 4 trillion tokens in files of 200 MB; limit it with --max-tokens",
        on_the_hub("mlfoundations/dclm-baseline-1.0", "**/*.jsonl.zst"),
    ),
}
