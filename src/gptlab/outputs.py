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

from gptlab.errors import ConfigError

ASIDE_LETTERS = 16  # added to a name while the file is being written


@dataclass(frozen=True)
class Record:
    """What an output of gptlab records about itself."""

    kind: str
    """What it is, in words: a report, an export."""
    of: str | None
    """The fingerprint of what it was made from; None where it is not known."""
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


def require_writable(out: Path, flag: str = "", *, aside: bool = True) -> None:
    """Refuse a file or folder that cannot be written, before the work begins.

    The test leaves nothing behind: it makes no folder, and existing files keep their content.

    Args:
        out: the file or folder.
        flag: the flag that names it, for the message.
        aside: whether it is written under a longer name first and then renamed.

    Raises:
        ConfigError: it cannot be written.
    """
    named = f"{flag} {out}".strip()
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
            raise ConfigError(f"{named}: cannot be written; choose another")
    except OSError as error:
        raise ConfigError(f"{named}: cannot be written ({error.strerror}); choose another") from error


def require_writable_file(file: Path, flag: str) -> None:
    """Refuse a file that cannot be written directly, whatever it holds now.

    Raises:
        ConfigError: it cannot be written.
    """
    if os.path.isdir(file):  # noqa: PTH112 - Path's raises if a name is too long
        raise ConfigError(f"{flag} {file}: is a folder; name a file in it")
    require_writable(file, flag, aside=False)


def require_empty(out: Path) -> None:
    """Refuse a folder that holds anything, because it is never overwritten.

    Raises:
        ConfigError: it holds something, is a file, or cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is a file; choose a folder")
    if out.exists() and (names := [file.name for file in out.iterdir()]):
        raise ConfigError(f"{out}: already holds {min(names)}; choose another folder or delete this one")
    require_writable(out)


def require_own_folder(out: Path, kind: str, of: str | None, record: Record | None) -> None:
    """Refuse a folder that must not be overwritten.

    Args:
        out: the folder.
        kind: what will be written.
        of: the fingerprint of what it will be made from; None replaces any folder of this kind.
        record: what the folder records about itself; None if it records nothing.

    Raises:
        ConfigError: it holds something else, or cannot be written.
    """
    if not out.is_dir():
        require_empty(out)
        return
    theirs = {file.name for file in out.iterdir()} - (record.files if record is not None else set())
    if theirs:
        raise ConfigError(
            f"{out}: holds {min(theirs)}, which is not part of any {kind}; choose another folder or delete this one"
        )
    _require_same(out, kind, of, record, "folder")
    require_writable(out)


def require_own_file(out: Path, kind: str, of: str, record: Record | None) -> None:
    """Refuse a file that must not be overwritten.

    Args:
        out: the file.
        kind: what will be written.
        of: the fingerprint of what it will be made from.
        record: what the file records about itself; None if gptlab did not write it.

    Raises:
        ConfigError: it is something else, or cannot be written.
    """
    if out.is_dir():
        raise ConfigError(f"{out}: is a folder; choose another name")
    if out.exists() and record is None:
        raise ConfigError(
            f"{out}: exists and is not a {kind} written by gptlab; choose another file or delete this one"
        )
    _require_same(out, kind, of, record, "file")
    require_writable(out)


def _require_same(out: Path, kind: str, of: str | None, record: Record | None, place: str) -> None:
    if record is not None and (record.kind != kind or (None not in (of, record.of) and record.of != of)):
        raise ConfigError(
            f"{out}: holds the {record.kind} of {record.name}; choose another {place} or delete this one"
        )
