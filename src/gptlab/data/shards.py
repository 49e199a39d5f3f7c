"""Shards: token files in llm.c's format, version 1.

A shard is a header of 256 little-endian int32 (magic, version, token count, zeros), then little-endian uint16
tokens. Each document starts with the end-of-text token, and none crosses from one shard into the next.

Source: llm.c, dev/data/data_common.py and llmc/dataloader.h.
"""

import hashlib
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from gptlab.errors import DataError

MAGIC = 20240520
VERSION = 1
HEADER = np.dtype("<i4")
HEADER_BYTES = 256 * HEADER.itemsize
TOKEN = np.dtype("<u2")
MAX_SHARD_TOKENS = 2**31 - 1  # what the header's int32 can count

REBUILD = 'run "gptlab data prepare" again to rebuild it'


@contextmanager
def aside(path: Path) -> Generator[BinaryIO, None, None]:
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


def shard_header(tokens: int) -> bytes:
    """Build the header of a shard of so many tokens."""
    header = np.zeros(HEADER_BYTES // HEADER.itemsize, HEADER)
    header[:3] = MAGIC, VERSION, tokens
    return header.tobytes()


def write_shard(path: Path, tokens: npt.ArrayLike) -> None:
    """Write a shard aside, then rename it into place.

    Raises:
        DataError: there are no tokens, or one of them does not fit uint16.
    """
    array = np.asarray(tokens)
    if array.size == 0:
        raise DataError(f"shard {path}: there are no tokens to write")
    if array.min() < 0 or array.max() > np.iinfo(TOKEN).max:
        raise DataError(f"shard {path}: tokens must lie between 0 and {np.iinfo(TOKEN).max:,}")
    with aside(path) as file:
        file.write(shard_header(array.size))
        file.write(array.astype(TOKEN).tobytes())


def read_shard(path: Path) -> "np.memmap[Any, np.dtype[np.uint16]]":
    """Map a shard's tokens into memory without reading them.

    Raises:
        DataError: the shard is missing, empty, truncated, or in another format.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            raw = file.read(HEADER_BYTES)
    except FileNotFoundError:
        raise DataError(f"shard {path}: is missing; {REBUILD}") from None
    except OSError as error:
        raise DataError(f"shard {path}: cannot be read ({error.strerror})") from error
    if not raw:
        raise DataError(f"shard {path}: the file is empty; {REBUILD}")
    if len(raw) < HEADER_BYTES:
        raise DataError(
            f"shard {path}: {size:,} bytes are less than the header's {HEADER_BYTES:,}; {REBUILD}"
        )
    magic, version, tokens = (int(number) for number in np.frombuffer(raw, HEADER)[:3])
    if (magic, version) != (MAGIC, VERSION):
        raise DataError(
            f"shard {path}: begins with magic {magic}, version {version}, where uint16 tokens have {MAGIC}, "
            f'{VERSION}; make shards with "gptlab data prepare"'
        )
    held, odd = divmod(size - HEADER_BYTES, TOKEN.itemsize)
    if held != tokens or odd:
        half = " and a half" if odd else ""
        raise DataError(f"shard {path}: header says {tokens:,} tokens, file holds {held:,}{half}; {REBUILD}")
    if tokens == 0:
        raise DataError(f"shard {path}: holds no tokens; {REBUILD}")
    return np.memmap(path, TOKEN, "r", offset=HEADER_BYTES)


def check_range(tokens: npt.NDArray[np.uint16], vocab_size: int, path: Path, start: int) -> None:
    """Refuse tokens outside the vocabulary; `start` is the position of the first of them in the shard.

    Raises:
        DataError: one is, naming the shard, the position and the vocabulary's size.
    """
    if tokens.max() >= vocab_size:
        at = int(np.argmax(tokens >= vocab_size))
        raise DataError(
            f"shard {path}: token {tokens[at]} at position {start + at:,} is outside the vocabulary of "
            f"{vocab_size:,}; delete it and {REBUILD}"
        )


def file_sha256(path: Path) -> str:
    """Hash a whole file, header and all."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
