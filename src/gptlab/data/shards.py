"""Shards: token files in llm.c's format, version 1.

A shard is a header of 256 little-endian int32 (magic, version, token count, zeros), then little-endian uint16
tokens. Each document starts with the end-of-text token, and none crosses from one shard into the next.

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
MAX_SHARD_TOKENS = 2**31 - 1  # what the header's int32 can count

Tokens = npt.NDArray[np.uint16]

REBUILD = 'run "gptlab data prepare" again to rebuild it'

_SEARCH_TOKENS = 1_000_000  # looked through at a time, so that memory does not grow with the shard


def shard_header(tokens: int) -> bytes:
    """Build the header of a shard of so many tokens."""
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
            f"shard {path}: there are {array.size:,} tokens to write; one holds 1 to {MAX_SHARD_TOKENS:,}"
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
        remedy: what whoever meets a damaged one should do.

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
            f"shard {path}: begins with magic {magic}, version {version}, where uint16 tokens have {MAGIC}, "
            f"{VERSION}; {FOREIGN.get(magic, _HEADERLESS)}"
        )
    if len(raw) < HEADER_BYTES:
        raise DataError(f"shard {path}: {size:,} bytes are less than the header's {HEADER_BYTES:,}; {remedy}")
    held, odd = divmod(size - HEADER_BYTES, TOKEN.itemsize)
    if held != tokens or odd:
        half = " and a half" if odd else ""
        raise DataError(f"shard {path}: header says {tokens:,} tokens, file holds {held:,}{half}; {remedy}")
    if tokens == 0:
        raise DataError(f"shard {path}: holds no tokens; {remedy}")
    # A plain array, as slices of numpy's memmap take long to make.
    return np.asarray(np.memmap(path, TOKEN, "r", offset=HEADER_BYTES))


def _numbers(raw: bytes) -> tuple[int, int, int]:
    """Take the three numbers at the beginning of a header; those a short file lacks are 0."""
    magic, version, tokens = np.frombuffer(
        raw[: 3 * HEADER.itemsize].ljust(3 * HEADER.itemsize, b"\0"), HEADER
    )
    return int(magic), int(version), int(tokens)


def documents(
    tokens: Tokens, end_of_text: int, start: int = 0, stop: int | None = None
) -> Iterator[tuple[int, int]]:
    """Find where the documents begin and end that begin in a range of a shard, by default in all of it.

    What precedes the first end-of-text, as in shards from elsewhere that cut documents, is one too.
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
    """Refuse tokens outside the vocabulary.

    Args:
        tokens: some of a shard's.
        vocab_size: ids from here on are outside.
        path: the shard.
        start: where in the shard the first of the tokens stands.
        remedy: what whoever meets one should do.

    Raises:
        DataError: one is, naming the shard, the position and the vocabulary's size.
    """
    if tokens.max() >= vocab_size:
        at = int(np.argmax(tokens >= vocab_size))
        raise DataError(
            f"shard {path}: token {tokens[at]} at position {start + at:,} is outside the vocabulary of "
            f"{vocab_size:,}; {remedy}"
        )


_HEADERLESS = (
    "where it is bare tokens, as nanoGPT writes them, write_shard of gptlab.data.shards gives it a header; "
    'otherwise make shards with "gptlab data prepare"'
)

FOREIGN = {
    MAGIC: 'it may come from a newer llm.c; make shards with "gptlab data prepare"',
    20240522: "these are llm.c's evaluation items and no text; move the file elsewhere",
    20240801: "these are llm.c's uint32 tokens for Llama 3, too many for uint16; prepare the text with gpt2's",
    int.from_bytes(b"\x93NUM", "little"): (
        "this is an array of numpy, as build-nanogpt writes; write_shard of gptlab.data.shards makes it a shard"
    ),
}
"""What files that lie about beside shards begin with, and what to do about them."""
