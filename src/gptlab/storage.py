"""Files that are whole and on the disk, or do not exist.

A name that ends in ASIDE does not count: it is being written, or is about to be deleted.
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

ASIDE = ".partial"
BUFFER_BYTES = 1 << 22  # large enough for the disk, small enough to stay in the cache until it is hashed
# The errors of drives that cannot sync a folder: those of Windows, and some mounted ones. They are no reason to stop.
NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.EBADF}


def write(path: Path, chunks: Iterable[bytes | memoryview]) -> str:
    """Write a file, force it to the disk, and return its sha256, computed on the way.

    Raises:
        OSError: the disk is full, or fails.
    """
    digest = hashlib.sha256()
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o666)
    buffer, filled = memoryview(mmap.mmap(-1, BUFFER_BYTES)), 0  # starts at a page, as O_DIRECT requires
    try:
        for chunk in chunks:
            left = memoryview(chunk)
            while left:
                taken = min(len(left), BUFFER_BYTES - filled)
                buffer[filled : filled + taken] = left[:taken]
                left, filled = left[taken:], filled + taken
                if filled == BUFFER_BYTES:
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
            continue  # a drive that needs larger units than pages
        if not written:
            raise OSError(errno.EIO, "nothing was written")
        left = left[written:]
        if left:
            _past_cache(descriptor, False)  # the rest does not start at a page


def _past_cache(descriptor: int, wanted: bool) -> bool:
    """Turn O_DIRECT on or off if the drive has it: pages then bypass the cache; say whether that changed anything.

    The copies into the cache cost more processor time than the rest of a save. For the 1.5 GB of GPT-2 124M they
    took 3.6 s, and 0.1 s without.
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


def sync_folder(folder: Path) -> bool:
    """Force a folder's names to the disk, if the drive can; return whether it could."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
        return False
    return True


def unfinished(path: Path) -> Path:
    """Return the name of a file or folder until it counts."""
    return path.with_name(path.name + ASIDE)


def replace_text(path: Path, text: str) -> None:
    """Replace the content of a small file; a reader finds either the old or the new content."""
    write(unfinished(path), [text.encode()])
    unfinished(path).replace(path)
    sync_folder(path.parent)


def remove(folder: Path) -> None:
    """Delete a folder; if interrupted, what is left does not count."""
    doomed = set_aside(folder) if folder.suffix != ASIDE else folder
    shutil.rmtree(doomed)


def set_aside(folder: Path) -> Path:
    """Rename a folder so that it no longer counts, and can be deleted later."""
    doomed = unfinished(folder.with_name(folder.name + ".old"))
    if doomed.exists():
        shutil.rmtree(doomed)
    return folder.rename(doomed)


def free_bytes(folder: Path) -> int:
    """Return how much can still be written to the folder's drive."""
    return shutil.disk_usage(folder).free


def file_sha256(path: Path) -> str:
    """Return a file's sha256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_file(path: Path) -> Generator[BinaryIO]:
    """Open a file that appears at `path` when it is whole and on the disk, or not at all."""
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
    """Yield a folder to write to; it replaces `out` when the block ends without an error."""
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
