"""One process at a time, by a file lock, which the system releases however the process ends."""

from typing import IO, Any


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
