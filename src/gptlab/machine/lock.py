"""One process at a time, by a lock on a file: the system lets go of it when the process ends, however that comes."""

from typing import IO, Any


def lock(file: IO[Any], *, shared: bool = False) -> bool:
    """Lock an open file as long as it is open; say whether there are locks where it lies.

    A network drive may have none (Lustre mounted without flock), or keep them to one machine (NFS with local_lock, a
    folder of Google Drive): what can be told of that is told by the answer.

    Args:
        file: open for writing, which NFS wants.
        shared: with others that share it.

    Raises:
        BlockingIOError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows: two at once are the user's to avoid
        return False
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True
