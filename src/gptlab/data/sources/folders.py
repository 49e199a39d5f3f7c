"""Which files of a folder are read, which are passed over, and the revision of those that are read.

Links to files and folders are followed, but nothing is read twice: not a file that can also be reached without the
link or by another link, nor a folder that the link itself is in. Hidden files and folders are left out.
"""

import hashlib
import heapq
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gptlab.data.sources.files import READ_HERE, format_here, holds_no_documents
from gptlab.errors import DataError

WHOLE_BYTES = 1 << 28  # of files that are hashed whole: takes a second, where preparing them takes minutes
SAMPLE_BYTES = 1 << 16  # hashed at the beginning, middle and end of each file if there is more
LOOKED_AT = 8  # files of a kind, to tell whether it is text
LOOK_BYTES = 1 << 10
MOST_KINDS = 8  # listed by name in the message
ARCHIVES = {".7z", ".bz2", ".gz", ".lz4", ".rar", ".tar", ".tgz", ".xz", ".zip", ".zst"}
DOCUMENTS = {".arrow", ".avro", ".doc", ".docx", ".epub", ".feather", ".odt", ".orc", ".pdf", ".warc"}
CONTAINERS = ARCHIVES | DOCUMENTS
"""Suffixes of files that are not plain text but usually contain some."""

_CONTROL = bytes(set(range(32)) - set(b"\t\n\r\f\b\x1b"))

Identity = tuple[int, int]


@dataclass
class Listing:
    """The result of a walk through a folder."""

    files: list[Path] = field(default_factory=list[Path])
    """Every file that is not hidden, once."""
    back: int = 0
    """How many links lead to something already listed, or to a folder that they are in."""
    broken: int = 0
    """How many links lead nowhere."""


def list_files(root: Path, column: str | None) -> tuple[list[Path], str]:
    """List the files of a folder to read, sorted, and describe those passed over.

    Returns:
        The files, and how many of each kind are passed over; "" if there is nothing to report.

    Raises:
        DataError: the folder has no file to read, or a part of it cannot be read.
    """
    listing = _walk(root)
    read: list[Path] = []
    others: list[Path] = []
    labels = 0
    for path in listing.files:
        if not format_here(path):
            others.append(path)
        elif holds_no_documents(path, column):
            labels += 1
        else:
            read.append(path)
    counts = _kinds_of_text(others)
    named = [f"{many:,} {kind}" for kind, many in counts[:MOST_KINDS]]
    if len(counts) > MOST_KINDS:
        named.append(
            f"{sum(many for _, many in counts[MOST_KINDS:]):,} of {len(counts) - MOST_KINDS} more kinds"
        )
    if labels:
        wanted = f'"{column}"' if column else '"text" or "content"'
        named.append(f"{labels:,} .json without {wanted}")
    if listing.back:
        named.append(f"{listing.back:,} link(s) to what is read already or to a folder above")
    if listing.broken:
        named.append(f"{listing.broken:,} link(s) that lead nowhere")
    passed_over = ", ".join(named)
    if not read:
        holds = f", but {passed_over}" if passed_over else ""
        raise DataError(f"folder {root}: holds no file that gptlab reads: {READ_HERE}{holds}")
    return sorted(read, key=lambda path: path.parts), passed_over


def revisions(base: Path, files: Sequence[Path]) -> tuple[str, str]:
    """Return two hashes of some files: one of names, sizes and contents, one of names and sizes alone.

    If the files have more than WHOLE_BYTES together, reading them whole takes minutes. Then only the beginning,
    middle and end of each are hashed: an edit elsewhere that keeps the size goes unnoticed. A copy of the files has
    the same hashes, as location and time do not count.
    """
    sizes = [path.stat().st_size for path in files]
    listed = "".join(
        f"{path.relative_to(base).as_posix()}\0{size}\n" for path, size in zip(files, sizes, strict=True)
    ).encode("utf-8", "surrogateescape")
    contents = hashlib.sha256(listed)
    whole = sum(sizes) <= WHOLE_BYTES
    for path, size in zip(files, sizes, strict=True):
        with path.open("rb") as file:
            if whole or size <= 3 * SAMPLE_BYTES:
                contents.update(hashlib.file_digest(file, "sha256").digest())
                continue
            for start in (0, (size - SAMPLE_BYTES) // 2, size - SAMPLE_BYTES):
                file.seek(start)
                contents.update(file.read(SAMPLE_BYTES))
    return f"sha256:{contents.hexdigest()}", f"sha256:{hashlib.sha256(listed).hexdigest()}"


def _walk(root: Path) -> Listing:
    """List what is not hidden: first without links, then through links to folders, and links to files last."""
    listing = Listing()
    # A link to a folder above it would list all of that folder again.
    seen = {_identity(folder) for folder in root.resolve().parents}
    folders = [root]
    folder_links: list[tuple[tuple[str, ...], Path]] = []
    file_links: list[Path] = []
    while folders or folder_links:
        # Links in sorted order, so that of two links to one folder the same one always counts.
        folder = folders.pop() if folders else heapq.heappop(folder_links)[1]
        identity = _identity(folder)
        if identity in seen:
            listing.back += 1
            continue
        seen.add(identity)
        with os.scandir(folder) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink():
                    if entry.is_dir():
                        heapq.heappush(folder_links, (path.parts, path))
                    elif entry.is_file():
                        file_links.append(path)
                    else:
                        listing.broken += 1
                elif entry.is_dir():
                    folders.append(path)
                elif entry.is_file():
                    listing.files.append(path)
    if file_links:
        there = {_identity(path) for path in listing.files}
        for path in sorted(file_links, key=lambda path: path.parts):
            identity = _identity(path)
            if identity in there:
                listing.back += 1
            else:
                there.add(identity)
                listing.files.append(path)
    return listing


def _identity(path: Path) -> Identity:
    state = path.stat()
    return state.st_dev, state.st_ino


def _kinds_of_text(paths: Sequence[Path]) -> list[tuple[str, int]]:
    """Count files that may hold text by suffix, commonest first; other files are left out."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(paths, key=lambda path: path.parts):
        kinds.setdefault(path.suffix.lower() or "without an ending", []).append(path)
    counts = Counter[str]()
    for kind, files in kinds.items():
        if kind in CONTAINERS or any(_looks_like_text(path) for path in files[:LOOKED_AT]):
            counts[kind] = len(files)
    return counts.most_common()


def _looks_like_text(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            beginning = file.read(LOOK_BYTES)
    except OSError:
        return True  # it may be, so report it
    if beginning.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16
        return True
    return bool(beginning) and not beginning.translate(None, bytes(set(range(256)) - set(_CONTROL)))
