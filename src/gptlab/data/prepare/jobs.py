"""Jobs: the unit of preparing data, a pure function of some pieces and a tokenizer, done anywhere.

A job leaves two files, each of them whole or absent:

    FOLDER/KEY.tokens           its documents' tokens, an end-of-text before each document
    FOLDER/KEY.documents.npy    each document's hash and length; written last: without it the job is not done

KEY names everything that their content depends on, so they can be used no matter who made them.
"""

import hashlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gptlab.data.shards import TOKEN, check_range
from gptlab.data.sources.piece import Piece
from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import DataError
from gptlab.parsing import typed
from gptlab.storage import whole_file

JOB_BYTES = 8_000_000  # a second or two of work, so that writing two files costs nothing in comparison
DOCUMENT = np.dtype([("hash", "<u8"), ("tokens", "<u8")])
DAMAGED = "it is damaged; delete it and the other file of the same name, and run the preparation again"

Documents = npt.NDArray[Any]  # of DOCUMENT


@dataclass(frozen=True)
class Job:
    """Consecutive pieces that one process encodes."""

    key: str
    """Names everything that the result depends on."""
    pieces: tuple[Piece, ...]
    """What to encode."""
    bytes: int
    """About how many bytes of text it holds."""
    limit: int | None = None
    """Stop after this many tokens; the preparation wants no more in all."""

    def done(self, folder: Path) -> bool:
        """Say whether its files exist."""
        return self._documents_file(folder).exists()

    def documents(self, folder: Path) -> Documents:
        """Read its documents' hashes and lengths.

        Raises:
            DataError: they are damaged, or do not match its tokens.
        """
        path, held = self._documents_file(folder), self._tokens_file(folder).stat().st_size
        try:
            table: Documents = np.load(path, allow_pickle=False)
            tokens = sum(table["tokens"].tolist())  # Python's integers, as numpy's would overflow
        except Exception as error:  # numpy raises errors of many kinds
            raise DataError(f"{path}: {DAMAGED}") from error
        if table.dtype != DOCUMENT or TOKEN.itemsize * tokens != held:
            raise DataError(f"{path}: {DAMAGED}")
        return table

    def tokens(self, folder: Path) -> npt.NDArray[np.uint16]:
        """Map its tokens, at least one, into memory."""
        return np.memmap(self._tokens_file(folder), TOKEN, "r")

    def checked_tokens(self, folder: Path, vocab_size: int) -> npt.NDArray[np.uint16]:
        """Map its tokens, at least one, into memory, and check that each is in the vocabulary.

        Raises:
            DataError: one is not.
        """
        tokens = self.tokens(folder)
        check_range(tokens, vocab_size, self._tokens_file(folder), 0, DAMAGED)
        return tokens

    def copy(self, folder: Path, to: Path, copy: Callable[[Path, Path], None]) -> None:
        """Copy its files from one folder to another, last the one that marks it as done."""
        copy(self._tokens_file(folder), self._tokens_file(to))
        copy(self._documents_file(folder), self._documents_file(to))

    def encode(self, encoder: Tokenizer, folder: Path, stopped: Callable[[], bool] = lambda: False) -> None:
        """Write its two files.

        Args:
            encoder: the tokenizer that the key names.
            folder: where the files go.
            stopped: called before each document; true stops the job.

        Raises:
            DataError: a piece cannot be read.
            InterruptedError: `stopped` returned true.
        """
        start_of_document = np.array([encoder.end_of_text], TOKEN).tobytes()
        hashes, lengths = array("Q"), array("Q")
        encoded = 0
        with whole_file(self._tokens_file(folder)) as file:
            documents = (
                (piece, at, text) for piece in self.pieces for at, text in enumerate(piece.documents(), 1)
            )
            for piece, at, text in documents:
                if stopped():
                    raise InterruptedError
                if self.limit is not None and encoded >= self.limit:
                    break
                try:
                    tokens = encoder.encode_array(text)
                except DataError as error:
                    raise DataError(f"{piece.place(at)}: {error}") from error
                file.write(start_of_document)
                file.write(tokens.astype(TOKEN).tobytes())
                hashes.append(document_hash(text))
                lengths.append(1 + tokens.size)
                encoded += lengths[-1]
        table = np.empty(len(hashes), DOCUMENT)
        table["hash"], table["tokens"] = hashes, lengths
        with whole_file(self._documents_file(folder)) as file:
            np.save(file, table, allow_pickle=False)

    def _tokens_file(self, folder: Path) -> Path:
        return folder / f"{self.key}.tokens"

    def _documents_file(self, folder: Path) -> Path:
        return folder / f"{self.key}.documents.npy"


def document_hash(text: str) -> int:
    """Hash a document's text evenly to 64 bits; the hash decides its split."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def recorded(raw: Any) -> list[Job]:
    """Make jobs, without their pieces, from a record's list of keys and sizes.

    Raises:
        ValueError: it is not such a list.
    """
    jobs = [Job(key, (), size) for key, size in typed(list[tuple[str, int]], raw)]
    if not all(job.key.isalnum() for job in jobs):  # a key with slashes could lead out of the folder
        raise ValueError("a job has no valid key")
    return jobs


def cut_jobs(pieces: Sequence[Piece], encoder: Tokenizer, limit: int | None) -> list[Job]:
    """Gather pieces, in order, into jobs of about JOB_BYTES."""
    gathered: list[list[Piece]] = []
    size = 0
    for piece in pieces:
        if not gathered or size + piece.bytes > JOB_BYTES:
            gathered.append([])
            size = 0
        gathered[-1].append(piece)
        size += piece.bytes

    def key(group: list[Piece]) -> str:
        return hashlib.sha256(repr((encoder.hash, limit, group)).encode()).hexdigest()[:32]

    return [Job(key(group), tuple(group), sum(piece.bytes for piece in group), limit) for group in gathered]
