"""A command overwrites an existing file or folder only with a new version of the same thing.

Whatever gptlab writes for people records what it was made from: an export in its config.json, a GGUF file in a key, a
page in its head, a batch file in a comment. Anything else is somebody's work, and is refused before a command starts.
"""

import hashlib
import os
import tempfile
from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ASIDE_LETTERS = 16  # added to a name while the file is being written


@dataclass(frozen=True)
class Record:
    """What an output of gptlab records about itself."""

    kind: str
    """What it is, in words: a report, an export."""
    of: str | None
    """The fingerprint of what it was made from; None in files of old versions, which did not record it."""
    name: str
    """The name of what it was made from."""
    files: Set[str] = frozenset()
    """The names of its files, if it is a folder."""


def fingerprint(*parts: str | bytes) -> str:
    """Return 16 hexadecimal digits that identify some texts without revealing them."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        digest.update(f"{len(content)} ".encode() + content)
    return digest.hexdigest()[:16]


def unwritable(out: Path, flag: str = "", *, aside: bool = True) -> str | None:
    """Say on one line, before the work begins, why a file or folder cannot be written; None if it can.

    The test leaves nothing behind: it makes no folder, and existing files keep their content.

    Args:
        out: the file or folder.
        flag: the flag that names it, for the message.
        aside: whether it is written under a longer name first and then renamed.
    """
    named = out
    try:
        if (
            not aside and out.is_symlink()
        ):  # opening a link creates the file it leads to, but not that file's folder
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
                    (place / name).lstat()  # fails if the name is too long
        elif out.is_file():
            with out.open("ab"):
                pass
        elif not os.access(out, os.W_OK):  # opening and closing a pipe would end it for its reader
            return f"{flag} {named}: cannot be written; choose another".strip()
    except OSError as error:
        return f"{flag} {named}: cannot be written ({error.strerror}); choose another".strip()
    return None


def file_unwritable(file: Path, flag: str) -> str | None:
    """Say on one line why a file cannot be written directly, whatever it holds now; None if it can."""
    if os.path.isdir(file):  # noqa: PTH112 - Path's raises if a name is too long
        return f"{flag} {file}: is a folder; name a file in it"
    return unwritable(file, flag, aside=False)


def occupied(out: Path) -> str | None:
    """Say on one line why a folder that is never overwritten cannot be written; None if it can."""
    if not out.exists():
        return unwritable(out)
    if not out.is_dir():
        return f"{out}: is a file; choose a folder"
    names = [file.name for file in out.iterdir()]
    if names:
        return f"{out}: already holds {min(names)}; choose another folder or delete this one"
    return unwritable(out)


def folder_refusal(out: Path, kind: str, of: str | None, record: Record | None) -> str | None:
    """Say on one line why a folder must not be overwritten; None if it may be.

    Args:
        out: the folder.
        kind: what will be written.
        of: the fingerprint of what it will be made from; None replaces any folder of this kind.
        record: what the folder records about itself; None if it records nothing.
    """
    if not out.is_dir():
        return occupied(out)
    theirs = {file.name for file in out.iterdir()} - (record.files if record is not None else set())
    if theirs:
        return f"{out}: holds {min(theirs)}, which is not part of any {kind}; choose another folder or delete this one"
    return _of_another(out, kind, of, record, "folder") or unwritable(out)


def file_refusal(out: Path, kind: str, of: str, record: Record | None) -> str | None:
    """Say on one line why a file must not be overwritten; None if it may be.

    Args:
        out: the file.
        kind: what will be written.
        of: the fingerprint of what it will be made from.
        record: what the file records about itself; None if gptlab did not write it.
    """
    if out.is_dir():
        return f"{out}: is a folder; choose another name"
    if out.exists() and record is None:
        return f"{out}: exists and is not a {kind} written by gptlab; choose another file or delete this one"
    return _of_another(out, kind, of, record, "file") or unwritable(out)


def _of_another(out: Path, kind: str, of: str | None, record: Record | None, place: str) -> str | None:
    if record is None or (record.kind == kind and (None in (of, record.of) or record.of == of)):
        return None
    return f"{out}: holds the {record.kind} of {record.name}; choose another {place} or delete this one"
