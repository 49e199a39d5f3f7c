"""Files that are whole and on the disk, or not there at all.

What carries the suffix ASIDE does not count: it is being written, or about to be deleted.
"""

import errno
import hashlib
import mmap
import os
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gptlab.errors import DataError
from gptlab.progress import quantity

ASIDE = ".partial"
PIECE_BYTES = 1 << 22  # large enough for the disk, small enough that the hash finds it in the cache
# What drives answer that cannot force a folder to the disk, Windows' and some mounted ones; others need not be told.
NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.EBADF}

Piece = bytes | memoryview


def write(path: Path, pieces: Iterable[Piece]) -> str:
    """Write a file, force it to the disk, and return its sha256, which is taken on the way.

    Raises:
        OSError: the disk is full, or fails.
    """
    digest = hashlib.sha256()
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o666)
    buffer, filled = memoryview(mmap.mmap(-1, PIECE_BYTES)), 0  # which begins with a page
    try:
        for piece in pieces:
            left = memoryview(piece)
            while left:
                taken = min(len(left), PIECE_BYTES - filled)
                buffer[filled : filled + taken] = left[:taken]
                left, filled = left[taken:], filled + taken
                if filled == PIECE_BYTES:
                    digest.update(buffer)
                    _past_cache(descriptor, True)
                    _write_all(descriptor, buffer)
                    filled = 0
        digest.update(buffer[:filled])
        _past_cache(descriptor, False)
        _write_all(descriptor, buffer[:filled])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return digest.hexdigest()


def _write_all(descriptor: int, left: memoryview) -> None:
    while left:
        try:
            written = os.write(descriptor, left)
        except OSError as error:
            if error.errno != errno.EINVAL or not _past_cache(descriptor, False):
                raise
            continue  # a drive that wants other sizes than pages
        if not written:
            raise OSError(errno.EIO, "nothing was written")
        left = left[written:]
        if left:
            _past_cache(descriptor, False)  # the rest does not begin with a page


def _past_cache(descriptor: int, wanted: bool) -> bool:
    """Let whole pages go straight to the disk, where the drive can; say whether that is a change.

    The copies that the cache would make take more of the processor than all the rest of a save: 3.6 s of the
    1.5 GB of GPT-2 124M where this was measured, and 0.1 s without them.
    """
    if not hasattr(os, "O_DIRECT"):
        return False
    import fcntl  # not on Windows

    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    if bool(flags & os.O_DIRECT) == wanted:
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags ^ os.O_DIRECT)
    except OSError:
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Force a folder's names to the disk, where the drive can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise


def unfinished(path: Path) -> Path:
    """Return the name that a file or folder has until it counts."""
    return path.with_name(path.name + ASIDE)


def replace_text(path: Path, text: str) -> None:
    """Give a small file another content; a reader finds the old one or the new one."""
    write(unfinished(path), [text.encode()])
    unfinished(path).replace(path)
    sync_folder(path.parent)


def remove(folder: Path) -> None:
    """Delete a folder; one that is half deleted does not count."""
    doomed = set_aside(folder) if folder.suffix != ASIDE else folder
    shutil.rmtree(doomed)


def set_aside(folder: Path) -> Path:
    """Rename a folder so that it does not count, until somebody deletes it."""
    doomed = unfinished(folder.with_name(folder.name + ".old"))
    if doomed.exists():
        shutil.rmtree(doomed)
    return folder.rename(doomed)


def free_bytes(folder: Path) -> int:
    """Return what can still be written to the folder's drive."""
    return shutil.disk_usage(folder).free


def file_sha256(path: Path) -> str:
    """Return a file's sha256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_file(path: Path) -> Generator[BinaryIO]:
    """Open a file that appears at `path` whole and on disk, or not at all."""
    hidden = path.with_name(f".{path.name}.{os.getpid()}.aside")
    try:
        with hidden.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        hidden.replace(path)
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(out: Path) -> Generator[Path]:
    """Yield a folder to write, which takes the place of `out` when the block ends without an error."""
    aside = out.with_name(f".{out.name}.aside")
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
    aside.mkdir(parents=True)
    try:
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                with file.open("rb+") as written:
                    os.fsync(written.fileno())
        old = aside.with_suffix(".old")
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
            out.rename(old)
        aside.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def check_room(folder: Path, needed: float) -> None:
    """Refuse to begin what the disk of `folder` has no room for.

    Args:
        folder: where the files are to lie.
        needed: how many bytes, about.

    Raises:
        DataError: fewer are free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{folder}: about {quantity(needed, 'B')} are needed, {quantity(free, 'B')} are free; make room, or "
            "ask for less with --max-tokens"
        )
