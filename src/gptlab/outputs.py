"""What stands where a command is to write is replaced only by the same thing made again.

Whatever gptlab writes for people says in itself whose it is: an export in its config.json, a GGUF file in a key, a
page in its head, a batch file in a comment. All else is somebody's work, and refused before the work begins.
"""

import hashlib
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Record:
    """What an output of gptlab says of itself."""

    kind: str
    """What it is, as people call it: a report, an export."""
    of: str | None
    """Whose it is, by its fingerprint; None in what gptlab wrote before it kept that."""
    name: str
    """Whose it is, as people call it."""
    files: Set[str] = frozenset()
    """Of a folder: the names of the files that make it up."""


def fingerprint(*parts: str | bytes) -> str:
    """Return a few letters that stand for a thing, by what it is known by; they tell nothing of it."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        digest.update(f"{len(content)} ".encode() + content)
    return digest.hexdigest()[:16]


def occupied(out: Path) -> str | None:
    """Say on one line why a folder must not be written of a kind that is never replaced; None where it may be."""
    if not out.exists():
        return None
    if not out.is_dir():
        return f"{out}: is a file; choose a folder"
    names = [file.name for file in out.iterdir()]
    return f"{out}: holds {min(names)} already; choose another folder or delete this one" if names else None


def folder_refusal(out: Path, kind: str, of: str | None, record: Record | None) -> str | None:
    """Say on one line why a folder must not be written; None where it may be.

    Args:
        out: the folder.
        kind: what is to be written.
        of: whose it is to be; None where that is not known, and anybody's is replaced.
        record: what the folder's own files say of it; None where they say nothing.
    """
    if not out.is_dir():
        return occupied(out)
    theirs = {file.name for file in out.iterdir()} - (record.files if record is not None else set())
    if theirs:
        return f"{out}: holds {min(theirs)}, which no {kind} wrote; choose another folder or delete this one"
    return _of_another(out, kind, of, record, "folder")


def file_refusal(out: Path, kind: str, of: str, record: Record | None) -> str | None:
    """Say on one line why a file must not be written; None where it may be.

    Args:
        out: the file.
        kind: what is to be written.
        of: whose it is to be.
        record: what the file says of itself; None where it is none of ours.
    """
    if out.is_dir():
        return f"{out}: is a folder; choose another name"
    if out.exists() and record is None:
        return f"{out}: is there and no {kind} that says whose it is; choose another file or delete this one"
    return _of_another(out, kind, of, record, "file")


def _of_another(out: Path, kind: str, of: str | None, record: Record | None, place: str) -> str | None:
    if record is None or (record.kind == kind and (None in (of, record.of) or record.of == of)):
        return None
    return f"{out}: holds another {record.kind}, that of {record.name}; choose another {place} or delete this one"
