"""What stands where a command is to write is replaced only by the same thing made again.

Whatever gptlab writes for people says in itself whose it is: an export in its config.json, a GGUF file in a key, a
page in its head, a batch file in a comment. All else is somebody's work, and refused before the work begins.
"""

import hashlib
import os
import tempfile
from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ASIDE_LETTERS = 16  # that a name grows by while the file is written aside


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


def unwritable(out: Path, flag: str = "", *, aside: bool = True) -> str | None:
    """Say on one line, before the work begins, why a file or folder cannot be written; None where it can.

    Nothing is left behind: no folder is made, and what is there keeps its content.

    Args:
        out: the file, or the folder.
        flag: the flag that names it, where that is to be said.
        aside: whether it is written under a longer name first, and not in its place.
    """
    named = out
    try:
        if (
            not aside and out.is_symlink()
        ):  # to be opened, which makes what it leads to, but no folder for that
            out = Path(os.path.realpath(out))
            out.parent.stat()
        place = next(each for each in (out, *out.absolute().parents) if os.path.lexists(each))
        if out.is_dir() or place != out:
            probe, name = tempfile.mkstemp(prefix=".gptlab-", dir=place)
            os.close(probe)
            Path(name).unlink()
            longest = [out.name + ASIDE_LETTERS * "x"] if aside else []
            for name in (*out.absolute().relative_to(place.absolute()).parts, *longest):
                with suppress(FileNotFoundError):
                    (place / name).lstat()  # which tells what is too long a name
        elif out.is_file():
            with out.open("ab"):
                pass
        elif not os.access(out, os.W_OK):  # opened, a pipe would be at its end
            return f"{flag} {named}: cannot be written; choose another".strip()
    except OSError as error:
        return f"{flag} {named}: cannot be written ({error.strerror}); choose another".strip()
    return None


def file_unwritable(file: Path, flag: str) -> str | None:
    """Say on one line why a file must not be written in its place, whatever is in it; None where it may be."""
    if os.path.isdir(file):  # noqa: PTH112 - Path's raises where a name is too long
        return f"{flag} {file}: is a folder; name a file in it"
    return unwritable(file, flag, aside=False)


def occupied(out: Path) -> str | None:
    """Say on one line why a folder must not be written of a kind that is never replaced; None where it may be."""
    if not out.exists():
        return unwritable(out)
    if not out.is_dir():
        return f"{out}: is a file; choose a folder"
    names = [file.name for file in out.iterdir()]
    if names:
        return f"{out}: holds {min(names)} already; choose another folder or delete this one"
    return unwritable(out)


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
    return _of_another(out, kind, of, record, "folder") or unwritable(out)


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
    return _of_another(out, kind, of, record, "file") or unwritable(out)


def _of_another(out: Path, kind: str, of: str | None, record: Record | None, place: str) -> str | None:
    if record is None or (record.kind == kind and (None in (of, record.of) or record.of == of)):
        return None
    return f"{out}: holds another {record.kind}, that of {record.name}; choose another {place} or delete this one"
