"""llm.c's writer and reader of shards, rewritten from its documented format and behaviour, as an oracle.

Where llm.c would stop the program, RefusedError is raised.

Source: llm.c, dev/data/data_common.py (write_datafile), dev/data/fineweb.py (how documents are cut into shards)
and llmc/dataloader.h (without its shuffling).
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

MAGIC, VERSION, HEADER_BYTES = 20240520, 1, 1024

Rows = npt.NDArray[np.int64]


class RefusedError(Exception):
    """Raised for what llm.c does not read or write."""


def header(tokens: int, magic: int = MAGIC, version: int = VERSION) -> bytes:
    """Build a shard's header."""
    numbers = np.zeros(HEADER_BYTES // 4, "<i4")
    numbers[0], numbers[1], numbers[2] = magic, version, tokens
    return bytes(numbers)


def write(path: Path, tokens: Iterable[int]) -> None:
    """Write one shard."""
    body = np.fromiter(tokens, "<u2")
    if body.size >= 2**31:
        raise RefusedError("the header cannot count so many tokens")
    path.write_bytes(header(body.size) + bytes(body))


def write_fineweb(folder: Path, name: str, documents: Iterable[Iterable[int]], shard_tokens: int) -> None:
    """Cut the stream of documents every `shard_tokens` tokens, even inside a document; the first shard validates."""
    stream = [token for document in documents for token in document]
    for number, start in enumerate(range(0, len(stream), shard_tokens)):
        split = "train" if number else "val"
        write(folder / f"{name}_{split}_{number:06d}.bin", stream[start : start + shard_tokens])


class Reader:
    """Walk the shards of a folder that a pattern matches, in the order of their names, without end.

    Args:
        folder: where they lie.
        pattern: what their names match.
        rows: sequences a process reads at a time, B.
        context: tokens of a sequence, T.
        process: which share to read.
        processes: how many shares there are.
    """

    def __init__(
        self, folder: Path, pattern: str, rows: int, context: int, process: int = 0, processes: int = 1
    ) -> None:
        self.paths = sorted(folder.glob(pattern))
        if not self.paths:
            raise RefusedError(f"nothing matches {pattern}")
        self.rows, self.context, self.process, self.processes = rows, context, process, processes
        self.tokens = 0
        for path in self.paths:
            held = self._open(path)
            if held < self._stride + 1:
                raise RefusedError(f"{path}: {held} tokens are less than a batch")
            self.tokens += held
        self._shard = self._batch = 0

    @property
    def _stride(self) -> int:
        return self.processes * self.rows * self.context

    def _open(self, path: Path) -> int:
        size = path.stat().st_size
        numbers = np.fromfile(path, "<i4", 256)
        if numbers.size < 256 or numbers[0] != MAGIC or numbers[1] != VERSION:
            raise RefusedError(f"{path}: magic or version")
        tokens = int(numbers[2])
        if tokens <= 0 or size != HEADER_BYTES + 2 * tokens:
            raise RefusedError(f"{path}: {tokens} tokens in {size} bytes")
        return tokens

    def next_batch(self) -> tuple[Rows, Rows]:
        """Read the next inputs and targets; after a shard's last whole batch comes the next shard."""
        if (self._batch + 1) * self._stride + 1 > self._open(self.paths[self._shard]):
            self._shard, self._batch = (self._shard + 1) % len(self.paths), 0
        own = self.rows * self.context
        first = self._batch * self._stride + self.process * own
        read = np.fromfile(self.paths[self._shard], "<u2", own + 1, offset=HEADER_BYTES + 2 * first)
        self._batch += 1
        ids = read.astype(np.int64)
        return ids[:-1].reshape(self.rows, -1), ids[1:].reshape(self.rows, -1)
