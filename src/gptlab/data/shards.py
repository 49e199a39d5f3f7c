"""Shards: token files in llm.c's format, version 1.

A shard is a header of 256 little-endian int32 (magic, version, token count, zeros), followed by little-endian uint16
tokens. Each document starts with the end-of-text token, and no document spans two shards.

Source: llm.c, dev/data/data_common.py and llmc/dataloader.h.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gptlab.errors import DataError
from gptlab.storage import whole_file

MAGIC = 20240520
VERSION = 1
HEADER = np.dtype("<i4")
HEADER_BYTES = 256 * HEADER.itemsize
TOKEN = np.dtype("<u2")
MAX_SHARD_TOKENS = 2**31 - 1  # the most that the header's int32 can count

Tokens = npt.NDArray[np.uint16]

REBUILD = 'run "gptlab data prepare" again to rebuild it'

_SEARCH_TOKENS = 1_000_000  # searched at a time, so that memory does not grow with the shard


def shard_header(tokens: int) -> bytes:
    """Build the header of a shard with this many tokens."""
    header = np.zeros(HEADER_BYTES // HEADER.itemsize, HEADER)
    header[:3] = MAGIC, VERSION, tokens
    return header.tobytes()


def write_shard(path: Path, tokens: npt.ArrayLike) -> None:
    """Write a shard aside, then rename it into place.

    Raises:
        DataError: there are no tokens, more than the header can count, or one that does not fit uint16.
    """
    array = np.asarray(tokens)
    if not 0 < array.size <= MAX_SHARD_TOKENS:
        raise DataError(
            f"shard {path}: cannot hold {array.size:,} tokens; a shard holds 1 to {MAX_SHARD_TOKENS:,}"
        )
    if array.min() < 0 or array.max() > np.iinfo(TOKEN).max:
        raise DataError(f"shard {path}: tokens must lie between 0 and {np.iinfo(TOKEN).max:,}")
    with whole_file(path) as file:
        file.write(shard_header(array.size))
        file.write(array.astype(TOKEN).tobytes())


def read_shard(path: Path, remedy: str = REBUILD) -> Tokens:
    """Map a shard's tokens into memory without reading them.

    Args:
        path: the file.
        remedy: what to do about a damaged shard.

    Raises:
        DataError: the shard is missing, empty, truncated, or in another format.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            raw = file.read(HEADER_BYTES)
    except FileNotFoundError:
        raise DataError(f"shard {path}: is missing; {remedy}") from None
    except OSError as error:
        raise DataError(f"shard {path}: cannot be read ({error.strerror})") from error
    if not raw:
        raise DataError(f"shard {path}: the file is empty; {remedy}")
    magic, version, tokens = _numbers(raw)
    if (magic, version) != (MAGIC, VERSION):
        raise DataError(
            f"shard {path}: begins with magic {magic}, version {version} instead of {MAGIC}, {VERSION} for uint16 "
            f"tokens; {FOREIGN.get(magic, _HEADERLESS)}"
        )
    if len(raw) < HEADER_BYTES:
        raise DataError(f"shard {path}: has {size:,} bytes, less than a header of {HEADER_BYTES:,}; {remedy}")
    held, odd = divmod(size - HEADER_BYTES, TOKEN.itemsize)
    if held != tokens or odd:
        half = " and a half" if odd else ""
        raise DataError(f"shard {path}: header says {tokens:,} tokens, file holds {held:,}{half}; {remedy}")
    if tokens == 0:
        raise DataError(f"shard {path}: holds no tokens; {remedy}")
    # A plain array, as slicing numpy's memmap is slow.
    return np.asarray(np.memmap(path, TOKEN, "r", offset=HEADER_BYTES))


def _numbers(raw: bytes) -> tuple[int, int, int]:
    """Read the first three numbers of a header; numbers missing from a short file are 0."""
    magic, version, tokens = np.frombuffer(
        raw[: 3 * HEADER.itemsize].ljust(3 * HEADER.itemsize, b"\0"), HEADER
    )
    return int(magic), int(version), int(tokens)


def documents(
    tokens: Tokens, end_of_text: int, start: int = 0, stop: int | None = None
) -> Iterator[tuple[int, int]]:
    """Find the beginning and end of each document that begins in a range of a shard, by default the whole shard.

    Tokens before the first end-of-text count as a document; shards from elsewhere may begin inside one.
    """
    stop = tokens.size if stop is None else stop
    begin = 0 if start == 0 else None
    for at in range(start, tokens.size, _SEARCH_TOKENS):
        for place in (at + np.flatnonzero(tokens[at : at + _SEARCH_TOKENS] == end_of_text)).tolist():
            if begin is not None and place > begin:
                yield begin, place
            if place >= stop:
                return
            begin = place
        if begin is None and at + _SEARCH_TOKENS >= stop:
            return
    if begin is not None:
        yield begin, tokens.size


def check_range(tokens: Tokens, vocab_size: int, path: Path, start: int, remedy: str) -> None:
    """Check that tokens are in the vocabulary; `start` is the first one's place in the shard.

    Raises:
        DataError: one is outside; names the shard, the position and the size of the vocabulary.
    """
    if tokens.max() >= vocab_size:
        at = int(np.argmax(tokens >= vocab_size))
        raise DataError(
            f"shard {path}: token {tokens[at]} at position {start + at:,} is outside the vocabulary of "
            f"{vocab_size:,}; {remedy}"
        )


_HEADERLESS = (
    "if it holds bare tokens, as nanoGPT writes them, add a header with write_shard of gptlab.data.shards; "
    'otherwise make shards with "gptlab data prepare"'
)

FOREIGN = {
    MAGIC: 'it may come from a newer llm.c; make shards with "gptlab data prepare"',
    20240522: "the file holds llm.c's evaluation items, not text; move it elsewhere",
    20240801: "the file holds llm.c's uint32 tokens for Llama 3, too many for uint16; prepare the text with gpt2",
    int.from_bytes(b"\x93NUM", "little"): (
        "the file is a numpy array, as build-nanogpt writes; make it a shard with write_shard of gptlab.data.shards"
    ),
}
"""The magic numbers of files often found next to shards, and what to do about such files."""
