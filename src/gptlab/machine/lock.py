"""One process at a time, by a file lock, which the system releases however the process ends."""

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

LOCK = ".lock"
"""The file in a folder that one process works on at a time."""


@contextmanager
def hold(path: Path, *, shared: bool = False) -> Generator[None]:
    """Hold a lock file, which the last holder deletes.

    Raises:
        BlockingIOError: another process holds it, or shares it where this one would not.
    """
    with _opened(path, shared) as file:
        try:
            yield
        finally:
            with suppress(OSError):  # others share it still, or the system keeps open files
                lock(file)
                path.unlink()


def _opened(path: Path, shared: bool) -> IO[bytes]:
    while True:
        file = path.open("wb")
        try:
            lock(file, shared=shared)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:  # its last holder deleted it between our open and our lock
            pass
        except BlockingIOError:
            file.close()
            raise
        file.close()


def lock(file: IO[Any], *, shared: bool = False) -> bool:
    """Lock a file while it is open; return whether its drive supports locks.

    A network drive may support none (Lustre mounted without flock), which the answer tells, or keep them to one machine
    (NFS with local_lock, a folder of Google Drive), which it cannot tell.

    Args:
        file: open for writing, as NFS requires.
        shared: whether other processes may share the lock.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    try:
        import fcntl
    except ImportError:  # Windows: the user must avoid two at once
        return False
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True
