"""Which files of a folder are read, what is passed over, and which state they are in.

Links are followed, to files and to folders, but nothing is read twice: not what a link leads to that is read
without it, nor by two links, nor a folder that the link lies in. Hidden files and folders stay out.
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

WHOLE_BYTES = 1 << 28  # of text that is looked at whole; a second, beside the minutes that preparing it takes
SAMPLE_BYTES = 1 << 16  # of the beginning, the middle and the end of each file, where there is more
LOOKED_AT = 8  # files of a kind, to tell whether it is text
LOOK_BYTES = 1 << 10
KINDS = 8  # that a line names
PACKED = {".7z", ".bz2", ".gz", ".lz4", ".rar", ".tar", ".tgz", ".xz", ".zip", ".zst"} | {
    ".arrow",
    ".avro",
    ".doc",
    ".docx",
    ".epub",
    ".feather",
    ".odt",
    ".orc",
    ".pdf",
    ".warc",
}
"""Endings of files that are no text as they are, and mostly hold some."""

_CONTROL = bytes(set(range(32)) - set(b"\t\n\r\f\b\x1b"))

Identity = tuple[int, int]


@dataclass
class Listing:
    """What a walk through a folder finds."""

    files: list[Path] = field(default_factory=list[Path])
    """Every file that is not hidden, once."""
    back: int = 0
    """How many links lead to what is there without them, or to a folder that they lie in."""
    broken: int = 0
    """How many links lead nowhere."""


def list_files(root: Path, column: str | None) -> tuple[list[Path], str]:
    """List the files of a folder that are read, in sorted order, and say what is passed over.

    Args:
        root: the folder.
        column: which column of the files holds the documents; None where that is to be found.

    Returns:
        The files, and how many of which kind are not among them; "" where there is nothing to say.

    Raises:
        DataError: it holds none, or a part of it cannot be read.
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
    named = [f"{many:,} {kind}" for kind, many in counts[:KINDS]]
    if len(counts) > KINDS:
        named.append(f"{sum(many for _, many in counts[KINDS:]):,} of {len(counts) - KINDS} more kinds")
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
    """Name the state of files in two ways: by names, sizes and contents, and by names and sizes alone.

    Files of more than WHOLE_BYTES together are not read whole for this, as that takes minutes: of each its
    beginning, middle and end are, and an edit elsewhere that keeps the size is not noticed. Where a file lies and
    when it was written do not matter, so that a copy is the same.
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
    """Find what is not hidden: first without links, then by the links to folders, and by those to files last."""
    listing = Listing()
    # A link to a folder that it lies in would lead through all of it again.
    seen = {_identity(folder) for folder in root.resolve().parents}
    folders = [root]
    folder_links: list[tuple[tuple[str, ...], Path]] = []
    file_links: list[Path] = []
    while folders or folder_links:
        # Links in sorted order, so that of two to one folder it is always the same that counts.
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
    """Count files that may hold text by how their names end, the commonest first; other files are left out."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(paths, key=lambda path: path.parts):
        kinds.setdefault(path.suffix.lower() or "without an ending", []).append(path)
    counts = Counter[str]()
    for kind, files in kinds.items():
        if kind in PACKED or any(_looks_like_text(path) for path in files[:LOOKED_AT]):
            counts[kind] = len(files)
    return counts.most_common()


def _looks_like_text(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            beginning = file.read(LOOK_BYTES)
    except OSError:
        return True  # it may be, and it is passed over
    if beginning.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16
        return True
    return bool(beginning) and not beginning.translate(None, bytes(set(range(256)) - set(_CONTROL)))
